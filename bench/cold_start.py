"""Cold start: from nothing to the first answer, `sensorium predict` against the reference library in Python.

    python bench/cold_start.py SENSORIUM MODEL ENCODER [--pairs 7]

SENSORIUM is the program, MODEL a folder that `sensorium fit` made with text.encoder = ENCODER, ENCODER the folder
of that pretrained text encoder. Both sides start a process, load the weights, tokenise one sentence and answer; the
Python side imports torch and transformers, as any program on them must. Runs alternate; the files are in the
system's cache after the first pair, which is not counted. Prints medians, their ratio, and peak memory.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

PYTHON = """
import sys, torch
from transformers import AutoModel, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModel.from_pretrained(sys.argv[1]).eval()
head = torch.nn.Linear(model.config.hidden_size, 2)
with torch.no_grad():
    x = tokenizer(sys.argv[2], return_tensors="pt")
    print(head(model(**x).last_hidden_state.mean(1)).softmax(-1).tolist())
"""
SENTENCE = "a stirring, funny and finally transporting re-imagining of beauty and the beast"


def once(command):
    """Seconds of wall time and peak memory in megabytes."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"failed: {' '.join(command)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("sensorium")
    parser.add_argument("model")
    parser.add_argument("encoder")
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    ours = [options.sensorium, "predict", options.model, "--text", SENTENCE]
    theirs = [sys.executable, "-c", PYTHON, options.encoder, SENTENCE]
    pairs = [(once(ours), once(theirs)) for _ in range(options.pairs + 1)][1:]
    seconds = [statistics.median(p[i][0] for p in pairs) for i in (0, 1)]
    memory = [max(p[i][1] for p in pairs) for i in (0, 1)]
    ratio = statistics.median(b[0] / a[0] for a, b in pairs)
    print(f"sensorium {seconds[0]:.3f} s, {memory[0]:.0f} MB; Python {seconds[1]:.3f} s, {memory[1]:.0f} MB")
    print(f"{ratio:.1f} times faster, {memory[0] / memory[1]:.2f} of the memory (median of {options.pairs} pairs)")


if __name__ == "__main__":
    main()
