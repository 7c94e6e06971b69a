"""PyTorch files as torch.save writes them, and their values, for crates/model.

    python tools/checkpoint_golden.py crates/model/tests/checkpoint/golden

writes small .pt files in the zip and in the legacy form, and expected.json: for each file its
tensors (name, dtype, dims, values as float32). refused-*.pt would run code in other readers.
"""

import argparse
import collections
import json
import pickle
import sys
import zipfile
from pathlib import Path

import torch

torch.manual_seed(5)


def tensors():
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 8 - 1
    return collections.OrderedDict(
        f32=torch.randn(3, 4),
        f64=torch.randn(5, dtype=torch.float64),
        f16=torch.randn(2, 3).half(),
        bf16=torch.randn(2, 3).bfloat16(),
        i64=torch.tensor([[1, -2, 3]]),
        i32=torch.tensor([7, -8], dtype=torch.int32),
        i16=torch.tensor([7, -8], dtype=torch.int16),
        i8=torch.tensor([7, -8], dtype=torch.int8),
        u8=torch.tensor([0, 255], dtype=torch.uint8),
        flags=torch.tensor([True, False, True]),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.randn(2, 2)),
        whole=whole,
        transposed=whole.t(),
        column=whole[:, 2],
        block=whole[1:3, 1:6:2],
        permuted=torch.randn(2, 3, 4).permute(2, 0, 1),
        expanded=torch.randn(1, 3).expand(4, 3),
        kernel=torch.randn(2, 1, 2, 1, 2),
    )


def flat(value, prefix=""):
    for key, child in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(child, torch.Tensor):
            yield name, child
        elif isinstance(child, dict):
            yield from flat(child, name)


def expected(state):
    return {
        name: {
            "dtype": str(t.dtype).removeprefix("torch."),
            "dims": list(t.shape),
            "values": t.detach().float().flatten().tolist(),
        }
        for name, t in flat(state)
    }


class System:
    """Asks the reader to run a command."""

    def __reduce__(self):
        import os

        return os.system, ("echo run",)


class Evaluate:
    def __reduce__(self):
        return eval, ("1 + 1",)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    goldens = {}

    def save(name, value, state, **options):
        torch.save(value, folder / name, **options)
        goldens[name] = expected(state)

    legacy = {"_use_new_zipfile_serialization": False}
    state = tensors()
    save("state.pt", state, state)
    save("state-legacy.pt", state, state, **legacy)
    save("state-protocol4.pt", state, state, pickle_protocol=4)
    save("state-protocol4-legacy.pt", state, state, pickle_protocol=4, **legacy)
    unsigned = {"u16": torch.tensor([1, 65535], dtype=torch.uint16), "u32": torch.tensor([7], dtype=torch.uint32)}
    save("unsigned.pt", unsigned, unsigned)

    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    training = {
        "epoch": 3,
        "loss": 0.25,
        "args": argparse.Namespace(lr=1e-3, name="run"),
        "config": {"hidden": 3, "name": "中文"},
        "model": layer.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    save("training.pt", training, layer.state_dict())
    save("training-legacy.pt", training, layer.state_dict(), **legacy)
    two = {"encoder": layer.state_dict(), "decoder": {"layers": {0: torch.ones(2)}}}
    save("two-parts.pt", two, two)
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    save("module.pt", module, module.state_dict())
    # The legacy form adds the source of every class, with its place on this machine.
    torch.serialization.get_source_lines_and_file = lambda _: ([], 0, None)
    save("module-legacy.pt", module, module.state_dict(), **legacy)
    alone = torch.randn(2)
    save("tensor.pt", alone, {"tensor": alone})
    complex_part = {"weight": torch.ones(2), "freqs": torch.ones(2, dtype=torch.complex64)}
    save("complex.pt", complex_part, {"weight": complex_part["weight"]})

    torch.save({"weight": torch.ones(2), "x": System()}, folder / "refused-system.pt")
    torch.save({"weight": torch.ones(2), "x": Evaluate()}, folder / "refused-eval.pt", **legacy)
    (folder / "refused-plain.pt").write_bytes(pickle.dumps({"a": 1}))
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(folder / "refused-script.pt"))
    with zipfile.ZipFile(folder / "state.pt") as whole, zipfile.ZipFile(
        folder / "refused-packed.pt", "w", zipfile.ZIP_DEFLATED
    ) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    (folder / "expected.json").write_text(json.dumps(goldens, indent=None) + "\n")


main(Path(sys.argv[1]))
