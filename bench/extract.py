"""Features of STS-B sentence pairs: `sensorium extract` against sentence-transformers.

For each language: the vectors of both must agree, and the Spearman correlation
of their cosines with the scores is printed (English with all-MiniLM-L6-v2:
0.8203). Then rows per second, program against library, runs alternating. The
program's time is its whole run, from start to the written file; the library's
is `model.encode` alone, after a warm-up, importing and loading left out.

    OMP_NUM_THREADS=2 python bench/extract.py SENSORIUM MODEL TABLE.csv [TABLE.csv …]

TABLE.csv: STS-B rows `sentence,sentence,score` without a header.
"""

import csv
import json
import os
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

RUNS = int(os.environ.get("RUNS", "3"))
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))


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


def main():
    program, folder, *tables = sys.argv[1:]
    torch.set_num_threads(THREADS)
    model = SentenceTransformer(folder, device="cpu")
    for table in tables:
        with open(table, encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        columns = {"left": [r[0] for r in rows], "right": [r[1] for r in rows]}
        scores = [float(r[2]) for r in rows]
        model.encode(columns["left"][:64], batch_size=32)
        times = {"sensorium": [], "sentence-transformers": []}
        with tempfile.TemporaryDirectory() as scratch:
            named = os.path.join(scratch, "pairs.csv")
            with open(named, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([["left", "right", "score"], *rows])
            out = os.path.join(scratch, "pairs.safetensors")
            command = [program, "extract", folder, named, "--out", out, "--pooled", "--threads", str(THREADS)]
            command += ["--type", "left=text", "--type", "right=text"]
            for _ in range(RUNS):
                start = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                times["sensorium"].append(time.perf_counter() - start)
                start = time.perf_counter()
                theirs = {name: model.encode(texts, batch_size=32) for name, texts in columns.items()}
                times["sentence-transformers"].append(time.perf_counter() - start)
            ours = read_safetensors(out)
        print(f"{os.path.basename(table)}: {len(rows)} rows of 2 texts, {THREADS} threads")
        for name in columns:
            print(f"  {name}: largest difference {np.abs(ours[name] - theirs[name]).max():.1e}")
        for name, vectors in (("sensorium", ours), ("sentence-transformers", theirs)):
            rho = spearmanr(cosines(vectors["left"], vectors["right"]), scores).statistic
            speeds = sorted(len(rows) / t for t in times[name])
            print(f"  {name}: Spearman {rho:.4f}; {speeds[len(speeds) // 2]:.1f} rows/s "
                  f"(runs: {', '.join(f'{s:.1f}' for s in speeds)})")


if __name__ == "__main__":
    main()
