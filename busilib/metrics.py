"""Scores with intervals: arrays in, numbers out.

Labels and predictions are integer arrays (N,) in class order; a confusion matrix has the truth in its rows and the
prediction in its columns, (K, K), counts. Scores are fractions in [0, 1].
"""

import numpy as np
import pandas as pd
from scipy.stats import norm


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
    z = norm.ppf(0.5 + level / 2)
    share = right / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


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


def text(summary):
    """Return a summary's accuracy as one line: "0.84 [0.71, 0.92], n = 45; majority class 0.56"."""
    return (
        f"{summary['accuracy']:.2f} [{summary['accuracy_low']:.2f}, {summary['accuracy_high']:.2f}], "
        f"n = {summary['n']}; majority class {summary['majority']:.2f}"
    )


def _macro_f1(matrix):
    # What `averages` gives, without a table: a bootstrap asks for it hundreds of times.
    actual, named = matrix.sum(axis=1), matrix.sum(axis=0)
    present = actual > 0
    return float((2 * np.diag(matrix)[present] / (actual + named)[present]).mean())


def _ratio(part, whole):
    return float(part / whole) if whole else float("nan")
