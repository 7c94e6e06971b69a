#!/usr/bin/env python3
"""Whether training costs the same per token however long the table is, and where the time of a whole `sensorium fit` goes.

    bench/scaling.py [SENSORIUM] [--rows 1000 10000 100000] [--encoder FOLDER] [--threads 2]

Tables of made-up sentences, as long as those of SST-2, with a label that follows from their words, are written to a
scratch folder and trained on with a small text tower, or with ENCODER, for one epoch. Per table: the wall time of the whole
program, the share of it inside training steps, that of validating while training, of waiting for data, and of all the rest
(reading and splitting the table, the tokenizer, the closing evaluation, the report); microseconds of training per
token, and the peak memory. Times come from the program's own metrics.jsonl, the wall time and memory from the system.
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORDS = 3000


def write_table(path, rows):
    with open(os.path.join(ROOT, "bench", "lengths", "sst2.json"), encoding="utf-8") as file:
        counts = json.load(file)["counts"]
    draw = random.Random(rows)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = sorted({"".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(WORDS)})
    # As in language: the word at place r is drawn 1/r as often as the first.
    weights = [1 / (r + 1) for r in range(len(words))]
    lengths = draw.choices([int(n) for n in counts], counts.values(), k=rows)
    with open(path, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "label"])
        for length in lengths:
            chosen = draw.choices(range(len(words)), weights, k=max(length - 2, 1))
            out.writerow([" ".join(words[w] for w in chosen), "even" if sum(w % 2 for w in chosen) * 2 < length else "odd"])


def fit(options, table, out):
    settings = ["train.epochs=1", "train.batch_size=32"]
    if options.encoder:
        settings.append(f"text.encoder={os.path.abspath(options.encoder)}")
    else:
        settings += ["text.tower.hidden=96", "text.tower.layers=2", "text.vocab_size=2000", "fusion.dim=96"]
    command = [options.sensorium, "--threads", str(options.threads), "fit", table, "--label", "label", "--out", out,
               "--type", "text=text", *(part for s in settings for part in ("--set", s))]  # fmt: skip
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started
    if status != 0:
        sys.exit(f"failed: {' '.join(command)}\n{errors.decode()[-2000:]}")
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    epochs = [r for r in records if r["event"] == "epoch"]
    total = {key: sum(r[key] for r in epochs)
             for key in ("seconds_epoch", "seconds_waiting", "seconds_validating", "tokens")}  # fmt: skip
    return wall, total, usage.ru_maxrss * 1024 / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sensorium", nargs="?", default=os.path.join(ROOT, "target", "release", "sensorium"))
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--encoder", metavar="FOLDER", help="a pretrained text encoder in place of the small tower")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(f"{'rows':>7} {'tokens':>9} {'wall s':>7} {'steps':>6} {'valid.':>6} {'wait':>6} {'rest':>6} "
          f"{'µs/token':>8} {'peak MB':>8}")  # fmt: skip
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as scratch:
            table = os.path.join(scratch, "table.csv")
            write_table(table, rows)
            wall, t, megabytes = fit(options, table, os.path.join(scratch, "model"))
        steps = t["seconds_epoch"] - t["seconds_waiting"] - t["seconds_validating"]
        rest = wall - t["seconds_epoch"]
        print(f"{rows:7} {t['tokens']:9} {wall:7.1f} {steps / wall:6.1%} {t['seconds_validating'] / wall:6.1%} "
              f"{t['seconds_waiting'] / wall:6.1%} {rest / wall:6.1%} {1e6 * steps / t['tokens']:8.2f} {megabytes:8.0f}",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
