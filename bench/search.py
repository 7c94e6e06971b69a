"""Vector search: `crates/index` against faiss (flat) and usearch (HNSW), runs alternating.

For each number of vectors: rows per second to build, milliseconds per single query (median), queries
per second in a batch, and recall@10 against faiss's exact answers. Vectors are unit vectors in
clusters, as embeddings are: without structure every approximate search fails.

    cargo build --release -p sensorium-index --example search_speed
    OMP_NUM_THREADS=2 RAYON_NUM_THREADS=2 python bench/search.py target/release/examples/search_speed 1000 100000

needs faiss-cpu, usearch and NumPy. RUNS (3) and DIM (384) are read from the environment.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import faiss
import numpy as np
from usearch.index import Index

DIM = int(os.environ.get("DIM", "384"))
RUNS = int(os.environ.get("RUNS", "3"))
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
QUERIES = 200


def clustered(rng, rows, centres):
    """Unit vectors: a random centre, a direction within a 32-dimensional family of it, and noise."""
    basis = np.random.default_rng(1).standard_normal((32, DIM)).astype(np.float32)
    out = np.empty((rows, DIM), np.float32)
    for first in range(0, rows, 50_000):
        n = min(50_000, rows - first)
        part = centres[rng.integers(0, len(centres), n)]
        part = part + 0.5 * rng.standard_normal((n, 32)).astype(np.float32) @ basis / np.sqrt(32)
        part += 0.3 * rng.standard_normal((n, DIM)).astype(np.float32)
        out[first : first + n] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return out


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def singles(search, queries):
    search(queries[:1])
    times = [timed(lambda: search(q[None]))[0] * 1e3 for q in queries]
    return statistics.median(times)


def recall(found, truth):
    return float(np.mean([len(set(f) & set(t)) / len(t) for f, t in zip(found, truth)]))


def run_faiss(vectors, queries):
    index = faiss.IndexFlatIP(DIM)
    build, _ = timed(lambda: index.add(vectors))
    search = lambda q: index.search(q, 10)[1]
    single = singles(search, queries)
    batch, hits = timed(lambda: search(queries))
    return {"build": len(vectors) / build, "single": single, "batch": len(queries) / batch, "hits": hits}


def run_usearch(vectors, queries):
    index = Index(ndim=DIM, metric="ip", dtype="f32")
    build, _ = timed(lambda: index.add(np.arange(len(vectors)), vectors, threads=THREADS))
    search = lambda q: index.search(q, 10, threads=THREADS).keys
    single = singles(search, queries)
    batch, hits = timed(lambda: search(queries))
    return {"build": len(vectors) / build, "single": single, "batch": len(queries) / batch, "hits": np.atleast_2d(hits)}


def run_ours(program, scratch, vectors, queries):
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        command = [program, f"{scratch}/vectors", f"{scratch}/queries", str(DIM), f"{folder}/index", "1"]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    seconds, out = answer["seconds"], {}
    for search in answer["searches"]:
        build = seconds["add"] if search["exact"] else seconds["add"] + seconds["graph"]
        out["exact" if search["exact"] else "graph"] = {
            "build": len(vectors) / build,
            "single": statistics.median(search["milliseconds"]),
            "batch": len(queries) / search["batch_seconds"],
            "hits": search["hits"],
        }
    return out


def main():
    program, *sizes = sys.argv[1:]
    faiss.omp_set_num_threads(THREADS)
    for rows in map(int, sizes):
        rng = np.random.default_rng(rows)
        centres = rng.standard_normal((max(10, rows // 200), DIM)).astype(np.float32)
        vectors, queries = clustered(rng, rows, centres), clustered(rng, QUERIES, centres)
        results = {}
        with tempfile.TemporaryDirectory() as scratch:
            vectors.tofile(f"{scratch}/vectors")
            queries.tofile(f"{scratch}/queries")
            for _ in range(RUNS):
                ours = run_ours(program, scratch, vectors, queries)
                for name, result in [
                    ("faiss flat", run_faiss(vectors, queries)),
                    ("ours exact", ours["exact"]),
                    ("usearch HNSW", run_usearch(vectors, queries)),
                    ("ours graph", ours["graph"]),
                ]:
                    results.setdefault(name, []).append(result)
        truth = results["faiss flat"][0]["hits"]
        print(f"{rows} vectors of {DIM} numbers, {THREADS} threads, {RUNS} runs: median (smallest to largest)")
        for name, runs in results.items():
            def spread(key, form):
                values = sorted(r[key] for r in runs)
                return f"{statistics.median(values):{form}} ({values[0]:{form}} to {values[-1]:{form}})"
            print(f"  {name:13} build {spread('build', ',.0f')} rows/s; one query {spread('single', '.3f')} ms; "
                  f"batch {spread('batch', ',.0f')} queries/s; recall@10 {recall(runs[0]['hits'], truth):.4f}", flush=True)


if __name__ == "__main__":
    main()
