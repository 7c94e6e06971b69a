"""The cases of `bench/compare` and the processes that run them."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PEER = os.path.join(ROOT, "bench", "peer.py")
PROGRAMS = os.path.join(ROOT, "target", "release", "examples")
SCRATCH = os.path.join(ROOT, "target", "bench")

with open(os.path.join(ROOT, "bench", "shapes.json"), encoding="utf-8") as file:
    SHAPES = json.load(file)

EAGER = {"library": "torch", "compile": False}
COMPILED = {"library": "torch", "compile": True}
ONNX = {"library": "onnxruntime", "compile": False}
ONNX_INT8 = {"library": "onnxruntime", "compile": False, "int8": True}


def case(name, shape, work, batches, peers, rounds, repeat=1):
    """`batches` holds the length of each sample of each batch; `repeat` forward passes are timed together."""
    # Both sides round weights and activations to eight bits, each in its own way.
    tolerance = 0.1 if work == "int8" else 1e-3
    return {
        "name": name, "shape": shape, "work": work, "batches": batches,
        "peers": peers, "rounds": rounds, "repeat": repeat, "tolerance": tolerance,
    }  # fmt: skip


def natural(table, texts=32, batches=6):
    """Batches of texts as long as those of a table, drawn at random."""
    with open(os.path.join(ROOT, "bench", "lengths", f"{table}.json"), encoding="utf-8") as file:
        counts = json.load(file)["counts"]
    draw = random.Random(table)
    return [[int(n) for n in draw.choices(list(counts), counts.values(), k=texts)] for _ in range(batches)]


# Names begin with the work: `--only train`, `--only infer`, `--only int8`, `--only natural` choose by it.
CASES = [
    case("train-minilm", "minilm", "train", [[128] * 16], [EAGER, COMPILED], 15),
    case("train-bert-base", "bert-base", "train", [[128] * 8], [EAGER, COMPILED], 9),
    case("train-vit-s", "vit-s", "train", [[1] * 8], [EAGER, COMPILED], 11),
    case("train-whisper-tiny", "whisper-tiny", "train", [[3000] * 4], [EAGER, COMPILED], 11),
    case("train-minilm-natural", "minilm", "train", natural("sst2"), [EAGER], 18),
    case("train-bert-base-natural", "bert-base", "train", natural("sst2"), [EAGER], 12),
    # What open_clip's loss is, in transformers' CLIP; texts fill its context.
    case("train-contrastive", "clip-s", "contrastive", [[77] * 16], [EAGER], 9),
    case("lora-bert-base", "bert-base", "lora", [[128] * 8], [EAGER], 9),
    case("infer-minilm", "minilm", "infer", [[128] * 16], [ONNX], 15),
    case("infer-bert-base", "bert-base", "infer", [[128] * 8], [ONNX], 11),
    case("infer-vit-s", "vit-s", "infer", [[1] * 8], [ONNX], 11),
    case("infer-whisper-tiny", "whisper-tiny", "infer", [[3000] * 4], [ONNX], 11),
    case("infer-minilm-natural", "minilm", "infer", natural("sst2"), [ONNX], 18),
    case("infer-bert-base-natural", "bert-base", "infer", natural("sst2"), [ONNX], 12),
    case("latency-minilm", "minilm", "infer", [[16]], [ONNX], 21, repeat=20),
    case("latency-bert-base", "bert-base", "infer", [[16]], [ONNX], 21, repeat=5),
    case("int8-minilm", "minilm", "int8", [[128] * 16], [ONNX_INT8], 15),
    case("int8-bert-base", "bert-base", "int8", [[128] * 8], [ONNX_INT8], 11),
    case("int8-minilm-natural", "minilm", "int8", natural("sst2"), [ONNX_INT8], 18),
    case("int8-latency-minilm", "minilm", "int8", [[16]], [ONNX_INT8], 21, repeat=20),
]


def peer_name(peer, work):
    if peer["library"] == "onnxruntime":
        return "onnxruntime int8" if peer.get("int8") else "onnxruntime"
    return "torch.compile" if peer["compile"] else "torch + peft" if work == "lora" else "torch"


class Side:
    """A process that answers a batch's number with its time and values."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            sys.exit(f"failed: {' '.join(command)}")

    def step(self, batch):
        # The other side's threads may still spin after their last step.
        time.sleep(0.03)
        self.process.stdin.write(f"{batch}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"failed: {' '.join(self.process.args)}")
        return json.loads(answer)

    def end(self):
        """Ends it; its peak memory in megabytes."""
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as status:
            kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        self.process.stdin.close()
        self.process.wait()
        return kilobytes * 1024 / 1e6


def operations(shape, work, lengths):
    """Floating-point operations of a batch's matrix products and attention, of real tokens only; backward costs twice
    what forward does."""
    c = SHAPES[shape]
    if work == "contrastive":
        return 3 * (tower(c["text_config"], lengths) + tower(c["vision_config"], lengths))
    return tower(c, lengths) * {"train": 3, "lora": 2}.get(work, 1)


def tower(c, lengths):
    """Those of a tower's forward pass."""
    audio, image = c.get("model_type") == "whisper", "image_size" in c
    hidden = c["d_model"] if audio else c["hidden_size"]
    inner = c["encoder_ffn_dim"] if audio else c["intermediate_size"]
    layers = c["encoder_layers"] if audio else c["num_hidden_layers"]
    total = 0
    for length in lengths:
        tokens, stem = length, 0
        if audio:
            tokens = length // 2
            stem = 2 * 3 * hidden * (c["num_mel_bins"] * length + hidden * tokens)
        if image:
            tokens = (c["image_size"] // c["patch_size"]) ** 2 + 1
            stem = 2 * (tokens - 1) * 3 * c["patch_size"] ** 2 * hidden
        layer = 2 * tokens * (4 * hidden**2 + 2 * hidden * inner) + 4 * tokens**2 * hidden
        total += stem + layers * layer
    return total


def fma_rate(threads):
    """GFLOP/s of fused multiply-adds in registers."""
    return float(subprocess.run([os.path.join(PROGRAMS, "fma_rate"), str(threads)],
                                check=True, capture_output=True, text=True).stdout)  # fmt: skip


def prepared(shape, library, python):
    """The folder of a shape's random weights, in the form that a library reads."""
    digest = hashlib.sha256(json.dumps(SHAPES[shape], sort_keys=True).encode()).hexdigest()[:8]
    folder = os.path.join(SCRATCH, f"{shape}-{digest}")
    if not os.path.exists(os.path.join(folder, "config.json")):
        subprocess.run([python, PEER, "prepare", shape, folder], check=True)
    if library == "onnxruntime" and not os.path.exists(os.path.join(folder, "equal.onnx")):
        subprocess.run([python, os.path.join(ROOT, "bench", "onnx_peer.py"), "export", folder], check=True)
    return folder


def write_case(case, peer, options):
    """Writes the files that tell each side what to do; the commands that read them."""
    ours = {key: case[key] for key in ("work", "batches", "repeat")}
    ours |= {"folder": prepared(case["shape"], peer["library"], options.python), "threads": options.threads}
    theirs = ours | {"shape": case["shape"], "peer": {"dynamic": len(case["batches"]) > 1, **peer}}
    commands = []
    for side, program, content in (("ours", [os.path.join(PROGRAMS, "step")], ours),
                                   ("peer", [options.python, PEER, "run"], theirs)):  # fmt: skip
        path = os.path.join(SCRATCH, f"{case['name']}.{side}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file)
        commands.append([*program, path])
    return commands
