#!/usr/bin/env python3
"""What each method of fine-tuning makes of one table: the rows of the tables in docs/finetuning.md.

    bench/finetune.py CONFIG.toml [head:10 adapter:2 lora:2 full:1] --set text.encoder=FOLDER --out runs/NAME

Each METHOD:EPOCHS is a whole `sensorium fit`, one after another, each into a folder of its own below OUT. Per method:
accuracy on the test rows before and after training, with 95 % intervals; the share of the numbers that trains; the
seconds that an epoch of training takes, its validation left out (the first, and the median of those after it, which
read cached features where the encoder is frozen); the peak memory of the process; the size of what was trained.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def size(path):
    """Megabytes of a file or of the files in a folder."""
    files = [path] if os.path.isfile(path) else [entry.path for entry in os.scandir(path)]
    return sum(os.path.getsize(file) for file in files) / 1e6


def fit(options, method, epochs):
    out = os.path.join(options.out, method)
    settings = [*options.set, f"finetune.method={method}", f"train.epochs={epochs}"]
    command = [options.sensorium, "--threads", str(options.threads), "fit", options.config, "--out", out,
               *(part for s in settings for part in ("--set", s))]  # fmt: skip
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as answer:
        child = subprocess.Popen(command, stdout=answer, stderr=subprocess.PIPE)
        said = child.stderr.read().decode()
        answer.seek(0)
        report = answer.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}\n{said[-2000:]}")
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    seconds = [r["seconds_epoch"] - r["seconds_validating"] for r in records if r["event"] == "epoch"]
    with open(os.path.join(out, "metrics.json"), encoding="utf-8") as file:
        metrics = json.load(file)
    low, high = metrics["intervals"]["accuracy"]
    after = f"{metrics['accuracy']:.3f} [{low:.3f}, {high:.3f}]"
    total, trainable = re.search(r"^total +([\d,]+) +([\d,]+)", said, re.MULTILINE).groups()
    share = int(trainable.replace(",", "")) / int(total.replace(",", ""))
    adapter = os.path.join(out, "adapter")
    saved = size(adapter if os.path.isdir(adapter) else os.path.join(out, "model.safetensors"))
    epoch = f"{seconds[0]:.1f}" + (f", then {statistics.median(seconds[1:]):.1f}" if len(seconds) > 1 else "")
    compared = report[report.index("Before training") :]
    before, low, high = re.search(r"^Accuracy +([\d.]+) +\[([\d.]+), ([\d.]+)\]", compared, re.MULTILINE).groups()
    print(f"| `{method}` | {epochs} | {float(before):.3f} [{low}, {high}] | {after} | {share:.1%} | {epoch} | "
          f"{usage.ru_maxrss * 1024 / 1e6:.0f} MB | {saved:.1f} MB |", flush=True)  # fmt: skip
    return wall


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("methods", nargs="*", metavar="METHOD:EPOCHS", default=["head:10", "adapter:2", "lora:2", "full:1"])
    parser.add_argument("--sensorium", default=os.path.join(ROOT, "target", "release", "sensorium"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print("| method | epochs | before | after | trainable | seconds of an epoch | peak memory | what was trained takes |")
    print("|---|---|---|---|---|---|---|---|")
    wall = sum(fit(options, *method.split(":")) for method in options.methods)
    print(f"\n{len(options.methods)} runs, {wall:.0f} s together")


if __name__ == "__main__":
    main()
