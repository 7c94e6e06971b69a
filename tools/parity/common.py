"""Shared by the scripts of this folder: tiny checkpoints and what the reference library makes of them.

A case is written to crates/model/tests/golden/parity/NAME.json: the configuration, the names and shapes of
all tensors *as they stand on disk*, and for each run the inputs, the outputs and two numbers for the gradient of
every tensor. The values of tensors follow from their names (`values`), so no weights are committed; the Rust side
(crates/model/tests/parity/harness.rs) makes the same ones.
"""

import json
import pathlib
import shutil
import tempfile
import zlib

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

torch.manual_seed(0)
torch.set_num_threads(1)
GOLDEN = pathlib.Path(__file__).parents[2] / "crates/model/tests/golden/parity"


def values(name, dims, mean=0.0, scale=1.0):
    """mean + scale * u for u uniform in [-1, 1), from a hash of the name and the place (splitmix64)."""
    n = int(np.prod(dims)) if len(dims) else 1
    with np.errstate(over="ignore"):
        z = np.arange(n, dtype=np.uint64) + (np.uint64(zlib.crc32(name.encode())) << np.uint64(32))
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = (z >> np.uint64(40)).astype(np.float64) / 2.0**24 * 2.0 - 1.0
    return torch.from_numpy((mean + scale * u).astype(np.float32)).reshape(list(dims))


def start(name, dims):
    """Mean and scale of a tensor: norms near one, biases small, matrices that keep activations alive."""
    last = name.rsplit(".", 1)[-1]
    if len(dims) <= 1:
        near_one = last in ("weight", "gamma", "lambda1", "lambda_1", "lambda_2", "original0", "running_var")
        return (1.0, 0.3) if near_one else (0.0, 0.2)
    if "embed" in name or "position" in name or "token" in name:
        return 0.0, 0.5
    return 0.0, round(float(np.sqrt(4.0 / np.prod(dims[1:]))), 4)


def on_disk(folder):
    tensors = {}
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as f:
            tensors.update({k: f.get_tensor(k) for k in f.keys()})
    return tensors


def make(model_class, config):
    """A model whose tensors have the values that follow from their names on disk, and the list of those."""
    folder = tempfile.mkdtemp()
    model_class(config).save_pretrained(folder)
    shapes = {k: list(v.shape) for k, v in on_disk(folder).items() if v.is_floating_point()}
    listed = [[k, d, *start(k, d)] for k, d in sorted(shapes.items())]
    tensors = {k: values(k, d, m, s) for k, d, m, s in listed}
    for file in pathlib.Path(folder).glob("*.safetensors"):
        file.unlink()
    save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
    model = model_class.from_pretrained(folder, attn_implementation="eager").eval()
    written = json.loads(pathlib.Path(folder, "config.json").read_text())
    shutil.rmtree(folder)
    written.pop("transformers_version", None)
    return model, written, listed


def gradients(model, outputs):
    """For each tensor on disk: the product of its gradient with `values("gradient." + name)`, and its length.

    The loss is the sum over outputs of output * values("loss." + output's name).
    """
    model.zero_grad()
    loss = sum((y.float() * values("loss." + n, y.shape)).sum() for n, y in outputs.items())
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            p.data = p.grad if p.grad is not None else torch.zeros_like(p)
    folder = tempfile.mkdtemp()
    model.save_pretrained(folder)
    found = {}
    for name, g in on_disk(folder).items():
        buffer = name.endswith(("running_mean", "running_var"))
        if g.is_floating_point() and not buffer and g.abs().max() > 0:
            dot = float((g.double() * values("gradient." + name, g.shape).double()).sum())
            found[name] = [dot, float(g.double().norm())]
    shutil.rmtree(folder)
    return found


def run(model_class, config, part, inputs, forward, head=None):
    """One run of a fresh model: `forward(model)` gives {"tokens": [n, d], "pooled": [s, d], "head": ...}."""
    model, written, listed = make(model_class, config)
    outputs = forward(model)
    result = {
        "part": part,
        "head": head,
        "inputs": inputs,
        "outputs": {k: [list(v.shape), [round(float(x), 6) for x in v.flatten()]] for k, v in outputs.items()},
        "gradients": gradients(model, outputs),
    }
    return written, listed, result


def write(name, config, tensors, runs, files=None):
    GOLDEN.mkdir(parents=True, exist_ok=True)
    case = {"config": config, "files": files or {}, "tensors": tensors, "runs": runs}
    path = GOLDEN / f"{name}.json"
    path.write_text(json.dumps(case, separators=(",", ":")) + "\n")
    print(f"{name}: {path.stat().st_size // 1024} KB, {len(tensors)} tensors, {[list(r['outputs']) for r in runs]}")
