"""Golden values for crates/eval, from scikit-learn, SciPy and NumPy.

    python tools/eval_golden.py crates/eval/tests/golden

writes metrics.json: each case holds its inputs and what the reference tools make of them.
Undefined values (NaN in the reference) are null.
"""

import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import scipy.stats as st
import sklearn.metrics as sm

warnings.filterwarnings("ignore")
rng = np.random.default_rng(20240229)


def clean(value):
    """NumPy to plain JSON values, NaN to null."""
    if isinstance(value, dict):
        return {k: clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [clean(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else float(value)
    return value


def expected_calibration_error(truths, probabilities, bins=15):
    """By its definition: bins (b/bins, (b+1)/bins] over the largest probability."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truths
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def prf(truths, predicted, average, labels=None):
    p, r, f, s = sm.precision_recall_fscore_support(
        truths, predicted, average=average, labels=labels, zero_division=0
    )
    return {"precision": p, "recall": r, "f1": f, "support": s}


def labels_case(name, truths, predicted, classes):
    truths, predicted = np.asarray(truths), np.asarray(predicted)
    everything = list(range(classes))
    return {
        "name": name,
        "classes": classes,
        "truths": truths,
        "predicted": predicted,
        "expected": {
            "confusion": sm.confusion_matrix(truths, predicted, labels=everything),
            "per_class": prf(truths, predicted, None, everything),
            "macro": prf(truths, predicted, "macro"),
            "weighted": prf(truths, predicted, "weighted"),
            "micro": prf(truths, predicted, "micro"),
            "accuracy": sm.accuracy_score(truths, predicted),
            "balanced_accuracy": sm.balanced_accuracy_score(truths, predicted),
            "matthews": sm.matthews_corrcoef(truths, predicted),
            "kappa": sm.cohen_kappa_score(truths, predicted, labels=everything),
            "linear_kappa": sm.cohen_kappa_score(
                truths, predicted, labels=everything, weights="linear"
            ),
            "quadratic_kappa": sm.cohen_kappa_score(
                truths, predicted, labels=everything, weights="quadratic"
            ),
            "mean_rank_error": sm.mean_absolute_error(truths, predicted),
        },
    }


def probabilities_case(name, truths, probabilities):
    truths, probabilities = np.asarray(truths), np.asarray(probabilities, dtype=np.float64)
    classes = probabilities.shape[1]
    everything = list(range(classes))
    one_hot = np.eye(classes, dtype=int)[truths]
    present = [c for c in everything if 0 < one_hot[:, c].sum() < len(truths)]
    auc = [
        sm.roc_auc_score(one_hot[:, c], probabilities[:, c]) if c in present else math.nan
        for c in everything
    ]
    precision = [
        sm.average_precision_score(one_hot[:, c], probabilities[:, c])
        if one_hot[:, c].any()
        else math.nan
        for c in everything
    ]
    expected = {
        "roc_auc": auc,
        "average_precision": precision,
        "log_loss": sm.log_loss(truths, probabilities, labels=everything),
        "brier": sm.brier_score_loss(truths, probabilities[:, 1], pos_label=1, labels=everything)
        if classes == 2
        else sm.brier_score_loss(truths, probabilities, labels=everything),
        "calibration_error": expected_calibration_error(truths, probabilities),
    }
    if classes > 2:
        expected["top_2"] = sm.top_k_accuracy_score(truths, probabilities, k=2, labels=everything)
        if len(present) == classes:
            for average in ("macro", "weighted"):
                expected["roc_auc_" + average] = sm.roc_auc_score(
                    truths, probabilities, multi_class="ovr", average=average
                )
    elif len(present) == classes:
        expected["roc_auc_binary"] = sm.roc_auc_score(truths, probabilities[:, 1])
        fpr, tpr, _ = sm.roc_curve(truths, probabilities[:, 1], drop_intermediate=False)
        expected["roc_curve"] = np.stack([fpr, tpr], axis=1)
        p, r, _ = sm.precision_recall_curve(truths, probabilities[:, 1])
        expected["precision_recall_curve"] = np.stack([r, p], axis=1)[::-1]
    return {
        "name": name,
        "truths": truths,
        "probabilities": probabilities,
        "expected": expected,
    }


def multilabel_case(name, truths, probabilities, threshold=0.5):
    truths, probabilities = np.asarray(truths), np.asarray(probabilities, dtype=np.float64)
    predicted = (probabilities >= threshold).astype(int)
    some = truths.any(axis=0)
    both = some & ~truths.all(axis=0)
    labels = range(truths.shape[1])
    expected = {
        "per_label": prf(truths, predicted, None),
        "macro": prf(truths, predicted, "macro"),
        "weighted": prf(truths, predicted, "weighted"),
        "micro": prf(truths, predicted, "micro"),
        "samples": prf(truths, predicted, "samples"),
        "subset_accuracy": sm.accuracy_score(truths, predicted),
        "hamming_loss": sm.hamming_loss(truths, predicted),
        "average_precision": [
            sm.average_precision_score(truths[:, i], probabilities[:, i]) if some[i] else math.nan
            for i in labels
        ],
        "roc_auc": [
            sm.roc_auc_score(truths[:, i], probabilities[:, i]) if both[i] else math.nan
            for i in labels
        ],
        "micro_average_precision": sm.average_precision_score(
            truths, probabilities, average="micro"
        ),
        "micro_roc_auc": sm.roc_auc_score(truths, probabilities, average="micro"),
    }
    return {
        "name": name,
        "truths": truths,
        "probabilities": probabilities,
        "threshold": threshold,
        "expected": expected,
    }


def regression_case(name, truths, predicted):
    truths = np.asarray(truths, dtype=np.float64)
    predicted = np.asarray(predicted, dtype=np.float64)
    mse = sm.mean_squared_error(truths, predicted)
    return {
        "name": name,
        "truths": truths,
        "predicted": predicted,
        "expected": {
            "mae": sm.mean_absolute_error(truths, predicted),
            "mse": mse,
            "rmse": math.sqrt(mse),
            "median_ae": sm.median_absolute_error(truths, predicted),
            "max_error": sm.max_error(truths, predicted),
            "r2": sm.r2_score(truths, predicted),
            "pearson": st.pearsonr(truths, predicted).statistic,
            "spearman": st.spearmanr(truths, predicted).statistic,
            "kendall": st.kendalltau(truths, predicted).statistic,
        },
    }


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def random_probabilities(rows, classes, truths, skill=1.0, digits=4):
    """Probabilities with some skill, rounded so that scores tie; rows still sum to one."""
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), truths] += skill
    p = np.round(softmax(logits), digits)
    p[:, 0] += 1.0 - p.sum(axis=1)
    return np.clip(p, 0, 1)


def without_best_ties(p):
    """Which rows have no equal probabilities, where orders of ties cannot matter."""
    return np.array([len(set(row)) == len(row) for row in p])


def main(out):
    labels = []
    truths = rng.integers(0, 5, 120)
    noisy = np.where(rng.random(120) < 0.6, truths, rng.integers(0, 5, 120))
    labels.append(labels_case("five classes", truths, noisy, 5))
    labels.append(labels_case("binary", truths[:60] % 2, noisy[:60] % 2, 2))
    labels.append(labels_case("perfect", truths, truths, 5))
    labels.append(labels_case("class absent from truths", [0, 0, 1, 1, 1], [0, 2, 1, 1, 2], 3))
    labels.append(labels_case("class never predicted", [0, 1, 2, 2, 1], [0, 0, 2, 2, 0], 3))
    labels.append(labels_case("class in neither", [0, 1, 3, 3], [0, 3, 3, 1], 5))
    labels.append(labels_case("constant predictions", [0, 1, 2, 1, 1], [1, 1, 1, 1, 1], 3))
    labels.append(labels_case("single class", [1, 1, 1], [1, 1, 1], 2))
    labels.append(labels_case("single class, all wrong", [1, 1, 1], [0, 0, 0], 2))
    labels.append(labels_case("one row", [2], [2], 3))
    weights = np.array([80, 12, 5, 2, 1]) / 100
    truths = rng.choice(5, 200, p=weights)
    labels.append(
        labels_case(
            "imbalanced", truths, np.where(rng.random(200) < 0.7, truths, rng.choice(5, 200)), 5
        )
    )

    probabilities = []
    truths = rng.integers(0, 4, 80)
    p = random_probabilities(80, 4, truths)
    keep = without_best_ties(p)
    probabilities.append(probabilities_case("four classes", truths[keep], p[keep]))
    truths = rng.integers(0, 2, 60)
    probabilities.append(
        probabilities_case("binary with ties", truths, random_probabilities(60, 2, truths, 1.0, 1))
    )
    truths = rng.integers(0, 2, 40)
    probabilities.append(
        probabilities_case("binary, distinct", truths, random_probabilities(40, 2, truths, 1, 6))
    )
    truths = rng.choice([0, 1, 3], 40)
    p = random_probabilities(40, 4, truths)
    keep = without_best_ties(p)
    probabilities.append(probabilities_case("class absent from truths", truths[keep], p[keep]))
    probabilities.append(
        probabilities_case("single class", [1, 1, 1], [[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    )
    probabilities.append(
        probabilities_case("certain and wrong", [0, 1, 1], [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    )
    probabilities.append(
        probabilities_case("constant predictions", [0, 1, 1, 0], [[0.3, 0.7]] * 4)
    )

    multilabel = []
    t = (rng.random((50, 6)) < 0.35).astype(int)
    p = np.round(np.clip(0.5 * t * rng.random((50, 6)) + 0.7 * rng.random((50, 6)), 0, 1), 2)
    multilabel.append(multilabel_case("six labels", t, p))
    multilabel.append(multilabel_case("six labels, low threshold", t, p, 0.25))
    t = (rng.random((20, 3)) < 0.4).astype(int)
    t[:, 1] = 0
    t[:, 2] = 1
    t[0] = [0, 0, 1]
    p = np.round(rng.random((20, 3)), 2)
    p[0] = [0.1, 0.2, 0.3]
    multilabel.append(multilabel_case("a label never there, one always", t, p))

    regression = []
    x = rng.normal(size=100) * 3 + 1
    regression.append(regression_case("linear", x, 0.8 * x + rng.normal(size=100)))
    regression.append(
        regression_case("ties", rng.integers(0, 5, 60), rng.integers(0, 4, 60) + 0.5)
    )
    regression.append(regression_case("perfect", x[:10], x[:10]))
    regression.append(regression_case("reversed", x[:11], -x[:11]))
    regression.append(regression_case("constant predictions", x[:10], np.full(10, 1.5)))
    regression.append(regression_case("constant target", np.full(4, 2.0), [1.0, 2.0, 3.0, 4.0]))
    regression.append(regression_case("constant and exact", np.full(4, 2.0), np.full(4, 2.0)))
    regression.append(regression_case("two rows", [1.0, 2.0], [1.5, 1.0]))
    regression.append(regression_case("large offset", x + 1e6, x + 1e6 + rng.normal(size=100)))

    statistics = {
        "quantiles": [
            [q, st.norm.ppf(q)]
            for q in (1e-12, 1e-5, 0.01, 0.025, 0.05, 0.3, 0.5, 0.7, 0.95, 0.975, 0.999, 1 - 1e-9)
        ],
        "wilson": [
            [k, n, c, *st.binomtest(k, n).proportion_ci(c, method="wilson")]
            for k, n, c in (
                (0, 10, 0.95),
                (10, 10, 0.95),
                (7, 10, 0.95),
                (831, 1000, 0.95),
                (831, 1000, 0.99),
                (1, 1, 0.9),
                (50000, 100000, 0.95),
            )
        ],
        "mcnemar": [
            [b, c, st.binomtest(b, b + c, 0.5).pvalue]
            for b, c in (
                (0, 1),
                (1, 0),
                (3, 3),
                (2, 10),
                (10, 2),
                (25, 40),
                (0, 60),
                (400, 500),
                (5000, 5100),
            )
        ],
    }

    Path(out).mkdir(parents=True, exist_ok=True)
    golden = {
        "labels": labels,
        "probabilities": probabilities,
        "multilabel": multilabel,
        "regression": regression,
        "statistics": statistics,
    }
    path = Path(out) / "metrics.json"
    path.write_text(json.dumps(clean(golden), separators=(",", ":")) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
