#!/usr/bin/env python3
"""Features of a table: `sensorium extract` beside the Python libraries that people use for it.

    bench/extract.py text  SENSORIUM MODEL sts.csv    STS-B rows `sentence,sentence,score` without a header
    bench/extract.py image SENSORIUM MODEL FOLDER     pictures; MODEL: a ViT (`--processor pil`: resized by Pillow)
    bench/extract.py audio SENSORIUM MODEL FOLDER     sounds (.wav, .flac); MODEL: a Whisper

Both sides read the same files and must give the same vectors, or nothing is reported. They run in turn. The program's
time is its whole run: starting, loading, reading, computing, writing. The library's is reading, preparing and
computing alone, after a warm-up; importing and loading are left out. Memory is the peak of the whole process. For text
the Spearman correlation of cosines and scores is printed too (English, all-MiniLM-L6-v2, all rows: 0.8203).

`--python` names the peers' interpreter, which has what bench/requirements.txt lists (bench/setup.sh).
"""

import argparse
import csv
import glob
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# The most that the two sides' vectors may be apart, as a share of their length.
TOLERANCE = {"text": 1e-4, "image": 1e-3, "audio": 1e-3}
# With `--resampled`: SciPy's filter is not the program's, which is torchaudio's.
RESAMPLED = 0.1
ENDINGS = {"image": (".jpg", ".jpeg", ".png"), "audio": (".wav", ".flac")}


def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    kinds = {"F32": np.float32, "I64": np.int64, "BOOL": np.bool_}
    return {
        name: np.frombuffer(data[slice(*t["data_offsets"])], kinds[t["dtype"]]).reshape(t["shape"])
        for name, t in header.items()
        if name != "__metadata__"
    }


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def ranks(values):
    """Places in order from 1, ties at their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def rows_of(options):
    """The columns of the table and, of texts, the scores."""
    if options.kind == "text":
        with open(options.source, encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[: options.rows]
        return {"left": [r[0] for r in rows], "right": [r[1] for r in rows]}, [float(r[2]) for r in rows]
    files = sorted(f for f in glob.glob(os.path.join(options.source, "**"), recursive=True)
                   if f.lower().endswith(ENDINGS[options.kind]))  # fmt: skip
    if not files:
        sys.exit(f"{options.source} has no {' or '.join(ENDINGS[options.kind])} files")
    # Evenly from the whole folder; a small one gives its files several times.
    wanted = options.rows or len(files)
    return {"content": [os.path.abspath(files[i * len(files) // wanted]) for i in range(wanted)]}, None


def run(command):
    """Seconds and peak megabytes of a whole process."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}\n{errors.decode()[-2000:]}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("text", "image", "audio"))
    parser.add_argument("sensorium")
    parser.add_argument("model")
    parser.add_argument("source")
    parser.add_argument("--rows", type=int, help="only so many rows")
    parser.add_argument("--runs", type=int, default=3, help="of each side, in turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--processor", choices=("torchvision", "pil"), default="torchvision")
    parser.add_argument("--resampled", action="store_true", help="the sounds are not of the model's rate")
    default = os.path.join(ROOT, "bench", ".venv", "bin", "python")
    parser.add_argument("--python", default=default, metavar="PYTHON", help="the peers' interpreter")
    options = parser.parse_args()
    columns, scores = rows_of(options)
    rows = len(next(iter(columns.values())))
    with tempfile.TemporaryDirectory() as scratch:
        table, out = os.path.join(scratch, "table.csv"), os.path.join(scratch, "ours.safetensors")
        with open(table, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns.keys(), *zip(*columns.values())])
        case = {
            "kind": options.kind, "model": options.model, "columns": columns, "batch": options.batch,
            "threads": options.threads, "processor": options.processor, "out": os.path.join(scratch, "theirs.npz"),
        }  # fmt: skip
        path = os.path.join(scratch, "case.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(case, file)
        command = [options.sensorium, "--threads", str(options.threads), "extract", options.model, table,
                   "--out", out, "--pooled", "--batch-size", str(options.batch),
                   *(part for name in columns for part in ("--type", f"{name}={options.kind}"))]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
        peer = subprocess.Popen([options.python, os.path.join(ROOT, "bench", "extract_peer.py"), path], text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)  # fmt: skip

        def ask(line):
            peer.stdin.write(line + "\n")
            peer.stdin.flush()
            answer = peer.stdout.readline()
            return json.loads(answer) if answer else sys.exit("the peer has ended; its error stands above")

        started = ask("load")
        times, memory = [], []
        for _ in range(options.runs):
            seconds, megabytes = run(command)
            times.append((seconds, ask("run")["seconds"]))
            memory.append(megabytes)
        peer_memory = ask("memory")["megabytes"]
        peer.stdin.close()
        peer.wait()
        ours, theirs = read_safetensors(out), np.load(case["out"])
        print(f"{options.kind}: {os.path.basename(os.path.normpath(options.source))}, {rows} rows, {options.threads} threads, "
              f"batches of {options.batch}; peer: {started['peer']}")  # fmt: skip
        for name in columns:
            apart = np.linalg.norm(ours[name] - theirs[name], axis=1) / np.linalg.norm(theirs[name], axis=1)
            print(f"  {name}: vectors of {ours[name].shape[1]} numbers, at most {apart.max():.1e} of their length apart")
            if not apart.max() <= (RESAMPLED if options.resampled else TOLERANCE[options.kind]):
                sys.exit("the sides disagree")
        for side, vectors in (("sensorium", ours), ("peer", theirs)) if scores else ():
            rho = np.corrcoef(ranks(cosines(vectors["left"], vectors["right"])), ranks(scores))[0, 1]
            print(f"  {side}: Spearman {rho:.4f}")
    for side, at, peak in (("sensorium", 0, max(memory)), ("peer", 1, peer_memory)):
        speeds = [rows / pair[at] for pair in times]
        print(f"  {side + ':':10} {statistics.median(speeds):6.1f} rows/s (runs: "
              f"{', '.join(f'{s:.1f}' for s in speeds)}), {peak:.0f} MB at the peak")  # fmt: skip
    ratios = [theirs / ours for ours, theirs in times]
    print(f"  {statistics.median(ratios):.2f} times as fast (runs: {', '.join(f'{r:.2f}' for r in ratios)}), "
          f"{max(memory) / peer_memory:.2f} of the memory; the peer needs {started['seconds']:.1f} s more to start")  # fmt: skip


if __name__ == "__main__":
    main()
