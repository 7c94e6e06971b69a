"""Vector search: `crates/index` against faiss (flat) and usearch (HNSW), runs alternating.

For each number of vectors: rows per second to build (and per second of each thread's computing, which
other programs on the machine disturb less), milliseconds per single query (median), queries per second
in a batch (the fastest of five), and recall@10 against faiss's exact answers. Vectors are unit vectors
in clusters, as embeddings are: without structure every approximate search fails.

    cargo build --release -p sensorium-index --example search_speed
    OMP_NUM_THREADS=2 RAYON_NUM_THREADS=2 python bench/search.py target/release/examples/search_speed 1000 100000

needs faiss-cpu, usearch and NumPy. Read from the environment: RUNS (3), DIM (384), QUERIES (200),
SINGLES (QUERIES: of them so many are timed one by one where the search is exact), and usearch's
CONNECTIVITY (16), EXPANSION_ADD (128) and EXPANSION_SEARCH (64), its defaults. A million vectors take
10 GB of memory at most and 4 GB of disk under TMPDIR; with RUNS=1 SINGLES=20 two idle cores need half an
hour.
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
QUERIES = int(os.environ.get("QUERIES", "200"))
SINGLES = int(os.environ.get("SINGLES", QUERIES))
CONNECTIVITY = int(os.environ.get("CONNECTIVITY", "16"))
EXPANSION_ADD = int(os.environ.get("EXPANSION_ADD", "128"))
EXPANSION_SEARCH = int(os.environ.get("EXPANSION_SEARCH", "64"))
BATCHES = 5


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


def built(rows, work):
    """Rows per second, and per second of each thread's computing."""
    busy = time.process_time()
    seconds, _ = timed(work)
    return {"build": rows / seconds, "computing": rows * THREADS / max(time.process_time() - busy, 0.01)}


def searched(search, queries, singles):
    search(queries[:1])
    single = statistics.median(timed(lambda: search(q[None]))[0] * 1e3 for q in queries[:singles])
    batches = [timed(lambda: search(queries)) for _ in range(BATCHES)]
    batch = len(queries) / min(seconds for seconds, _ in batches)
    return {"single": single, "batch": batch, "hits": np.atleast_2d(batches[0][1])}


def recall(found, truth):
    return float(np.mean([len(set(f) & set(t)) / len(t) for f, t in zip(found, truth)]))


def run_faiss(vectors, queries):
    index = faiss.IndexFlatIP(DIM)
    build = built(len(vectors), lambda: index.add(vectors))
    return build | searched(lambda q: index.search(q, 10)[1], queries, SINGLES)


def run_usearch(vectors, queries):
    index = Index(
        ndim=DIM, metric="ip", dtype="f32", connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD, expansion_search=EXPANSION_SEARCH,
    )
    build = built(len(vectors), lambda: index.add(np.arange(len(vectors)), vectors, threads=THREADS))
    return build | searched(lambda q: index.search(q, 10, threads=THREADS).keys, queries, len(queries))


def run_ours(program, scratch, vectors, queries):
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        command = [program, f"{scratch}/vectors", f"{scratch}/queries", DIM, f"{folder}/index", 1, SINGLES, BATCHES]
        answer = json.loads(subprocess.run(map(str, command), check=True, capture_output=True, text=True).stdout)
    out = {}
    for search in answer["searches"]:
        steps = ["add"] if search["exact"] else ["add", "graph"]
        seconds, computing = (sum(answer[key][step] for step in steps) for key in ("seconds", "processor"))
        out["exact" if search["exact"] else "graph"] = {
            "build": len(vectors) / seconds,
            "computing": len(vectors) * THREADS / max(computing, 0.01),
            "single": statistics.median(search["milliseconds"]),
            "batch": len(queries) / min(search["batch_seconds"]),
            "hits": search["hits"],
        }
    return out


def main():
    program, *sizes = sys.argv[1:]
    faiss.omp_set_num_threads(THREADS)
    # Matrix products from 20 queries on, as faiss long had it. Version 1.15 has them from queries * numbers =
    # 128,000 on (its pull request 5022), which suits dozens of threads; on two it makes batches 16 times slower.
    if faiss.cvar.distance_compute_blas_threshold > 20:
        faiss.cvar.distance_compute_blas_threshold = 20 * DIM
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
        print(f"{rows} vectors of {DIM} numbers, {THREADS} threads, {RUNS} runs: median (smallest to largest); "
              f"usearch with {CONNECTIVITY} connections, {EXPANSION_ADD} and {EXPANSION_SEARCH} in view")
        for name, runs in results.items():
            def spread(key, form):
                values = sorted(r[key] for r in runs)
                return f"{statistics.median(values):{form}} ({values[0]:{form}} to {values[-1]:{form}})"
            print(f"  {name:13} build {spread('build', ',.0f')} rows/s, by computing {spread('computing', ',.0f')}; "
                  f"one query {spread('single', '.3f')} ms; batch {spread('batch', ',.0f')} queries/s; "
                  f"recall@10 {recall(runs[0]['hits'], truth):.4f}", flush=True)


if __name__ == "__main__":
    main()
