"""Golden values for the retrieval metrics of crates/eval, from ranx and scikit-learn.

    python tools/retrieval_golden.py crates/eval/tests/golden

writes retrieval.json. Recall@K (ranx calls it hit_rate), the mean reciprocal rank, nDCG@10 and
mAP come from ranx; nDCG and average precision are compared with scikit-learn's here, so that the
two agree; the median rank is NumPy's. Versions used: ranx 0.3.21, scikit-learn 1.9.1, NumPy 2.4.6.
"""

import json
import sys
from pathlib import Path

import numpy as np
from ranx import Qrels, Run, evaluate
from sklearn.metrics import average_precision_score, ndcg_score

NAMES = {
    "hit_rate@1": "recall_at_1",
    "hit_rate@5": "recall_at_5",
    "hit_rate@10": "recall_at_10",
    "mrr": "mrr",
    "ndcg@10": "ndcg_at_10",
    "map": "map",
}


def expected(scores, relevant):
    kept = [q for q in range(len(scores)) if relevant[q]]
    qrels = Qrels({f"q{q}": {f"d{d}": 1 for d in relevant[q]} for q in kept})
    run = Run({f"q{q}": {f"d{d}": float(s) for d, s in enumerate(scores[q])} for q in kept})
    values = evaluate(qrels, run, list(NAMES))
    truth = np.zeros_like(scores)
    for q, items in enumerate(relevant):
        truth[q, items] = 1
    ndcg = np.mean([ndcg_score(truth[q : q + 1], scores[q : q + 1], k=10) for q in kept])
    precision = np.mean([average_precision_score(truth[q], scores[q]) for q in kept])
    assert abs(ndcg - values["ndcg@10"]) < 1e-9 and abs(precision - values["map"]) < 1e-9
    places = (-scores).argsort(1).argsort(1) + 1
    first = [min(places[q, d] for d in relevant[q]) for q in kept]
    out = {NAMES[name]: float(value) for name, value in values.items()}
    return {**out, "median_rank": float(np.median(first))}


def case(name, scores, relevant):
    back = [[q for q, items in enumerate(relevant) if d in items] for d in range(scores.shape[1])]
    return {
        "name": name,
        "scores": [[float(x) for x in row] for row in scores],
        "relevant": relevant,
        "forward": expected(scores, relevant),
        "back": expected(np.ascontiguousarray(scores.T), back),
    }


def main():
    rng = np.random.default_rng(7)
    # No equal scores: tools differ in what they make of those.
    noise = lambda q, d: np.round(rng.permutation(q * d).reshape(q, d) / (q * d), 6)
    one = noise(20, 20) + 0.3507 * np.eye(20)
    several = noise(12, 36)
    groups = [list(range(3 * q, 3 * q + 3)) for q in range(12)]
    for q, items in enumerate(groups):
        several[q, items] += 0.2507
    uneven = noise(15, 18)
    mixed = [sorted(rng.choice(18, size=rng.integers(0, 13), replace=False).tolist()) for _ in range(15)]
    cases = [case("one each", one, [[q] for q in range(20)]), case("three captions", several, groups),
             case("uneven, some without", uneven, mixed)]
    path = Path(sys.argv[1]) / "retrieval.json"
    path.write_text(json.dumps(cases, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
