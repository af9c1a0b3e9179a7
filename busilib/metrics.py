"""Scores with intervals: arrays in, numbers out.

Labels and predictions are integer arrays (N,) in class order; a confusion matrix has the truth in its rows and the
prediction in its columns, (K, K), counts. Scores are fractions in [0, 1].
"""

import numpy as np
import pandas as pd
from scipy import stats


def confusion_matrix(truth, predicted, classes=3):
    """Count (K, K): row = truth, column = prediction. ``classes`` is K.

    Raises ValueError for a label that is not a whole number from 0 to K - 1.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise ValueError(f"{truth.size} labels but {predicted.size} predictions")
    if not np.isin([truth, predicted], range(classes)).all():
        raise ValueError(f"labels and predictions must be whole numbers from 0 to {classes - 1}")
    matrix = np.zeros((classes, classes), dtype=int)
    np.add.at(matrix, (truth.astype(int), predicted.astype(int)), 1)
    return matrix


def wilson(right, total, level=0.95):
    """Return the Wilson score interval (low, high) of ``right`` successes in ``total`` trials.

    Source: E. B. Wilson, JASA 22 (1927) 209. Unlike p ± 1.96 se it stays inside [0, 1] and holds for small counts.
    ``total == 0`` gives (nan, nan): there is nothing to say.
    """
    if not 0 <= right <= total:
        raise ValueError(f"{right} right of {total}: impossible")
    if total == 0:
        return float("nan"), float("nan")
    z = stats.norm.ppf(0.5 + level / 2)
    share = right / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    # With 0 or all right, rounding would leave the share itself a hair outside its interval.
    return float(min(max(0.0, centre - half), share)), float(max(min(1.0, centre + half), share))


def accuracy(matrix):
    """Right over all: the diagonal's share."""
    matrix = np.asarray(matrix)
    return float(np.trace(matrix) / matrix.sum())


def majority(matrix):
    """Accuracy of always naming the most frequent class: what any model must beat."""
    matrix = np.asarray(matrix)
    return float(matrix.sum(axis=1).max() / matrix.sum())


def per_class(matrix, classes):
    """Return one row a class: n, sensitivity, specificity, precision, F1; sensitivity and precision with intervals.

    A class that was never predicted has no precision (NaN), and F1 0, as in scikit-learn with ``zero_division=0``.
    """
    matrix = np.asarray(matrix)
    rows = []
    for k, name in enumerate(classes):
        hit, actual, named = matrix[k, k], matrix[k].sum(), matrix[:, k].sum()
        others = matrix.sum() - actual
        low, high = wilson(hit, actual)
        precision_low, precision_high = wilson(hit, named)
        rows.append(
            {
                "class": name,
                "n": int(actual),
                "sensitivity": _ratio(hit, actual),
                "sensitivity_low": low,
                "sensitivity_high": high,
                "specificity": _ratio(others - (named - hit), others),
                "precision": _ratio(hit, named),
                "precision_low": precision_low,
                "precision_high": precision_high,
                "f1": 2 * hit / (actual + named) if actual + named else 0.0,
            }
        )
    return pd.DataFrame(rows).set_index("class")


def averages(matrix):
    """Return accuracy and the weighted and macro averages of precision, recall and F1, as a dict.

    Weighted = by the number of images of each class; macro = every class counts the same. Weighted recall always
    equals accuracy, which is why a table of weighted averages shows it twice.
    """
    table = per_class(matrix, range(len(matrix))).fillna({"precision": 0.0})
    table = table[table["n"] > 0]
    weights = table["n"] / table["n"].sum()
    scores = {"accuracy": accuracy(matrix)}
    for name, column in (("precision", "precision"), ("recall", "sensitivity"), ("f1", "f1")):
        scores[f"weighted_{name}"] = float((table[column] * weights).sum())
        scores[f"macro_{name}"] = float(table[column].mean())
    return scores


def summary(matrix):
    """Return accuracy with its 95 % Wilson interval, the majority baseline, and the averages, as a dict."""
    matrix = np.asarray(matrix)
    right, total = int(np.trace(matrix)), int(matrix.sum())
    low, high = wilson(right, total)
    macro_low, macro_high = bootstrap(matrix, _macro_f1)
    scores = {"n": total, "right": right, "accuracy_low": low, "accuracy_high": high, "majority": majority(matrix)}
    return scores | averages(matrix) | {"macro_f1_low": macro_low, "macro_f1_high": macro_high}


def bootstrap(matrix, score, draws=500, level=0.95, seed=0):
    """Return the percentile interval (low, high) of ``score(matrix)``, resampling images within each true class.

    Stratified, so that a rare class is in every draw. With classes fixed, one draw of n images of a class is one
    multinomial draw of its row: the images themselves are not needed.
    """
    matrix = np.asarray(matrix)
    rng = np.random.default_rng(seed)
    drawn = [
        rng.multinomial(row.sum(), row / row.sum(), size=draws) if row.sum() else np.tile(row, (draws, 1))
        for row in matrix
    ]
    values = [score(m) for m in np.stack(drawn, axis=1)]
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def probability_scores(truth, probabilities):
    """Return the clean protocol's scores as a dict: accuracy, balanced_accuracy, macro_f1, auc and sensitivity_0, …

    ``truth`` int (N,), ``probabilities`` (N, K). The balanced accuracy is the mean of the classes' sensitivities; the
    AUC the mean over the classes, each against the rest (Provost & Domingos 2001, unweighted). A class that is not in
    ``truth`` has sensitivity NaN, and then so have the balanced accuracy and the AUC.
    """
    truth, probabilities = np.asarray(truth), np.asarray(probabilities, dtype=float)
    if not np.isfinite(probabilities).all():
        raise ValueError("there are probabilities that are not finite: the model gave NaN")
    matrix = confusion_matrix(truth, probabilities.argmax(axis=1), probabilities.shape[1])
    actual = matrix.sum(axis=1)
    sensitivity = np.where(actual > 0, np.diag(matrix) / np.maximum(actual, 1), np.nan)
    areas = [_auc(truth == k, probabilities[:, k]) for k in range(len(matrix))]
    scores = {
        "accuracy": accuracy(matrix),
        "balanced_accuracy": float(sensitivity.mean()),
        "macro_f1": _macro_f1(matrix),
        "auc": float(np.mean(areas)),
    }
    return scores | {f"sensitivity_{k}": float(value) for k, value in enumerate(sensitivity)}


def with_intervals(truth, probabilities, groups, draws=500, level=0.95, seed=0):
    """Return `probability_scores` as a table: index score; columns value, low, high, by a bootstrap over groups."""
    truth, probabilities = np.asarray(truth), np.asarray(probabilities, dtype=float)
    values, drawn = probability_scores(truth, probabilities), []
    grouped_bootstrap(
        lambda t, p: drawn.append(list(probability_scores(t, p).values())) or 0.0,
        groups, truth, probabilities, draws=draws, level=level, seed=seed,
    )  # fmt: skip
    table = pd.DataFrame(drawn, columns=list(values)).quantile([0.5 - level / 2, 0.5 + level / 2]).T
    return table.set_axis(["low", "high"], axis=1).assign(value=values)[["value", "low", "high"]]


def grouped_bootstrap(score, groups, *arrays, draws=500, level=0.95, seed=0):
    """Return the percentile interval (low, high) of ``score(*arrays)``, resampling whole groups of rows.

    Near-identical scans are not independent: an interval that draws images one by one is too narrow. Here a draw takes
    as many groups as there are, with replacement, and each group with all its rows. ``groups`` (N,) names the group of
    each row; ``arrays`` have N rows each. A paired difference is one more score:
    ``lambda truth, a, b: np.mean(b == truth) - np.mean(a == truth)``. A draw whose score cannot be computed (a class
    is missing from it) must give NaN, and is left out. Source: Davison & Hinkley, Bootstrap Methods (1997), 3.8.
    Raises ValueError when the lengths differ, or when fewer than half of the draws have a score.
    """
    arrays = [np.asarray(array) for array in arrays]
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    if any(len(array) != len(codes) for array in arrays):
        raise ValueError(f"{len(codes)} groups but arrays of {', '.join(str(len(a)) for a in arrays)} rows")
    rows = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        drawn = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        values.append(score(*(array[drawn] for array in arrays)))
    values = np.array(values, dtype=float)
    known = values[np.isfinite(values)]
    if len(known) < draws / 2:
        raise ValueError(f"only {len(known)} of {draws} draws have a score: there are too few groups of some class")
    low, high = np.quantile(known, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def mean_interval(values, level=0.95):
    """Return (mean, low, high) of repeated measurements (n,), for instance one a seed, by Student's t.

    Of paired differences it is the paired t interval. With one value the interval is unknown: NaN.
    """
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        raise ValueError("there are no values to take the mean of")
    mean = float(values.mean())
    if values.size == 1:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf(0.5 + level / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return mean, mean - float(half), mean + float(half)


def mcnemar(truth, first, second):
    """Compare two models on the same images: return a dict with only_first, only_second (counts) and p.

    Only images that one model has right and the other wrong say anything. p is the exact two-sided binomial value.
    Source: Q. McNemar, Psychometrika 12 (1947) 153.
    """
    truth, first, second = map(np.asarray, (truth, first, second))
    only_first = int(((first == truth) & (second != truth)).sum())
    only_second = int(((first != truth) & (second == truth)).sum())
    return {"only_first": only_first, "only_second": only_second, "p": _sign_test(only_first, only_second)}


def mcnemar_bounds(right_first, right_second, total):
    """Return the smallest and the largest p that McNemar's exact test can give when only the scores are known.

    The images that just one model has right are unknown; only the difference of their numbers is. p is smallest when
    the better model has all that the other has right, largest when they share as few as the counts allow.
    """
    if not (0 <= right_first <= total and 0 <= right_second <= total):
        raise ValueError(f"{right_first} and {right_second} right of {total}: impossible")
    gain = abs(right_second - right_first)
    most = min(right_first, right_second, total - max(right_first, right_second))
    return _sign_test(0, gain), _sign_test(most, most + gain)


def calibration(truth, probabilities, bins=10):
    """Return one row a bin of confidence: n, confidence (mean), accuracy, low, high (Wilson); empty bins are left out.

    ``truth`` (N,) class numbers; ``probabilities`` (N, K). The confidence is the highest probability of a row; bins are
    of equal width. A well-calibrated model is right on 70 % of the images on which its confidence is 0.7.
    """
    truth, probabilities = np.asarray(truth), np.asarray(probabilities, dtype=float)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = []
    for k in np.unique(which):
        here = which == k
        low, high = wilson(int(right[here].sum()), int(here.sum()))
        rows.append((int(here.sum()), confidence[here].mean(), right[here].mean(), low, high))
    return pd.DataFrame(rows, columns=["n", "confidence", "accuracy", "low", "high"])


def calibration_error(truth, probabilities, bins=10):
    """Return the expected calibration error: the gap between confidence and accuracy, averaged over the images.

    Source: Naeini, Cooper & Hauskrecht, AAAI 2015. 0 is perfect; it says nothing about the accuracy itself.
    """
    table = calibration(truth, probabilities, bins)
    return float((table["n"] * (table["confidence"] - table["accuracy"]).abs()).sum() / table["n"].sum())


def operating_point(positive, probability, sensitivity=0.95):
    """Return the highest threshold that reaches a sensitivity: a dict of threshold, sensitivity and specificity.

    ``positive`` bool (N,), ``probability`` (N,) of the positive class; called positive is what is at or above the
    threshold. Chosen on one part it must be judged on another: see `at_threshold`.
    Raises ValueError when there are no positives or no negatives.
    """
    positive, probability = np.asarray(positive, dtype=bool), np.asarray(probability, dtype=float)
    needed = int(np.ceil(sensitivity * positive.sum() - 1e-9))
    if not 0 < positive.sum() < len(positive) or not 0 < sensitivity <= 1:
        raise ValueError("an operating point needs positives, negatives and a sensitivity above 0")
    threshold = float(np.sort(probability[positive])[::-1][needed - 1])
    return {"threshold": threshold} | at_threshold(positive, probability, threshold)


def at_threshold(positive, probability, threshold):
    """Return sensitivity and specificity (dict) when all at or above ``threshold`` are called positive."""
    positive, called = np.asarray(positive, dtype=bool), np.asarray(probability) >= threshold
    return {
        "sensitivity": _ratio(int((called & positive).sum()), int(positive.sum())),
        "specificity": _ratio(int((~called & ~positive).sum()), int((~positive).sum())),
    }


def text(summary):
    """Return a summary's accuracy as one line: "0.84 [0.71, 0.92], n = 45; majority class 0.56"."""
    return (
        f"{summary['accuracy']:.2f} [{summary['accuracy_low']:.2f}, {summary['accuracy_high']:.2f}], "
        f"n = {summary['n']}; majority class {summary['majority']:.2f}"
    )


def _auc(positive, scores):
    """Return the area under the ROC curve: the share of (positive, negative) pairs in the right order, ties half."""
    n, rest = int(positive.sum()), int((~positive).sum())
    if not n or not rest:
        return float("nan")
    ranks = stats.rankdata(scores)
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * rest))


def _sign_test(fewer, more):
    total = fewer + more
    return float(stats.binomtest(fewer, total, 0.5).pvalue) if total else 1.0


def _macro_f1(matrix):
    # What `averages` gives, without a table: a bootstrap asks for it hundreds of times.
    actual, named = matrix.sum(axis=1), matrix.sum(axis=0)
    present = actual > 0
    return float((2 * np.diag(matrix)[present] / (actual + named)[present]).mean())


def _ratio(part, whole):
    return float(part / whole) if whole else float("nan")
