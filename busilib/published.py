"""The numbers that the two papers print, as data; and the arithmetic that turns a printed number into evidence.

A = Ningsih & Alamsyah 2023. B = Nikmah et al. 2024, doi 10.52465/joiser.v2i2.439. Matrices: rows true, columns
predicted, in the order benign, malignant, normal.
"""

import itertools
import json
from fractions import Fraction
from importlib.resources import files

import pandas as pd

_TABLES = json.loads((files("busilib") / "tables" / "published.json").read_text(encoding="utf-8"))
# Paper A, Tables 1 and 2, in per cent: phase, part, accuracy, precision, recall, f1.
A_SCORES = pd.DataFrame(**_TABLES["A_SCORES"])
A_FILES = {"train": 663, "test": 117}
A_CONFUSION = [[63, 3, 0], [4, 27, 0], [0, 0, 20]]  # Figure 7 as its text describes it: 110 of 117

# Paper B, Table 3, as fractions: epoch, accuracy, val_accuracy.
B_EPOCHS = pd.DataFrame(**_TABLES["B_EPOCHS"])
B_FILES = {"train": 1138, "validation": 283, "test": 157}  # inferred from Table 3's fractions and 143 steps
B_TEST_ACCURACY = 90.0  # per cent, as the text rounds it
B_CONFUSION = [[87, 2, 0], [8, 34, 0], [6, 0, 20]]  # Figure 6 as its text describes its 16 errors, of 89 / 42 / 26
# Paper B, Table 1: what its ImageDataGenerator was given.
B_AUGMENTATION = {"rotation_range": 20, "zoom_range": 0.2, "shear_range": 0.2, "fill_mode": "nearest"}

# The systems that both papers compare themselves with: A's Table 3 and introduction, B's section on related work. The
# accuracy is the printed one, in per cent; ``data`` is what the cited work measured it on.
COMPARISON = pd.DataFrame(**_TABLES["COMPARISON"])
# What A's introduction cites besides, with the accuracy that it gives: named, not run again.
A_CITED = pd.DataFrame(**_TABLES["A_CITED"])

# Our reading of what each paper reports of CLAIM's 42 items (Mongan, Moy & Kahn 2020, doi 10.1148/ryai.2020200029;
# updated 2024, doi 10.1148/ryai.240300): "reported", "partly", "not reported" or "not applicable", and where.
CLAIM = pd.DataFrame(**_TABLES["CLAIM"]).set_index("item")


def denominators(printed, decimals=4, how="round", lowest=20, highest=1999):
    """Return the whole numbers n such that every printed fraction can be k/n: a list, sorted.

    ``printed``: fractions in [0, 1], each printed to ``decimals`` places. ``how``: "round" to the nearest (a tie may go
    either way), or "truncate", which cuts off. A number that was printed is a whole number of images over all images:
    few n fit all of a table's numbers.
    """
    values = set(printed)
    return [n for n in range(lowest, highest + 1) if all(numerators(value, n, decimals, how) for value in values)]


def numerators(printed, n, decimals=4, how="round"):
    """Return the k for which k/n is printed as ``printed`` (a fraction in [0, 1]): a list, often with one number."""
    guess = round(printed * n)
    return [k for k in (guess - 1, guess, guess + 1) if _prints(Fraction(k, n), printed, decimals, how) and 0 <= k <= n]


def matrices(rows, printed, decimals=4, how="truncate"):
    """Return every confusion matrix with the given row sums whose weighted averages are the printed ones.

    ``rows``: true images of each class. ``printed``: accuracy, precision, recall and F1 (fractions in [0, 1]), the last
    three weighted by class size. The search is over all matrices: accuracy fixes how many errors there are, and every
    way to spread them is tried, in exact fractions.
    """
    (accuracy, *others), fitting = printed, []
    for right in numerators(accuracy, sum(rows), decimals, how):
        for errors in _compositions(sum(rows) - right, rows):
            for matrix in itertools.product(*map(_spread, range(len(rows)), rows, errors)):
                scores = zip(_weighted(matrix, rows), others, strict=True)
                if all(_prints(score, value, decimals, how) for score, value in scores):
                    fitting.append([list(row) for row in matrix])
    return fitting


def _compositions(errors, rows):
    """Yield how many errors each row may have, given their sum."""
    for first in itertools.product(*(range(min(errors, n) + 1) for n in rows[:-1])):
        if 0 <= errors - sum(first) <= rows[-1]:
            yield (*first, errors - sum(first))


def _spread(i, n, errors):
    """Yield the rows of n images of class i, ``errors`` of them given to the other classes in every way."""
    for first in range(errors + 1):
        wrong = [first, errors - first]
        yield tuple(wrong[:i] + [n - errors] + wrong[i:])


def _weighted(matrix, rows):
    """Return weighted precision, recall and F1 as exact fractions; a class that was never named has precision 0."""
    named = map(sum, zip(*matrix, strict=True))
    classes = [(row[k], rows[k], times) for k, (row, times) in enumerate(zip(matrix, named, strict=True))]
    precision = sum(Fraction(n * hit, times) for hit, n, times in classes if times)
    f1 = sum(Fraction(2 * n * hit, n + times) for hit, n, times in classes)
    return [Fraction(score) / sum(rows) for score in (precision, sum(hit for hit, _, _ in classes), f1)]


def _prints(score, printed, decimals, how):
    """Return whether an exact score is printed as ``printed``: how far it lies above, in units of the last place."""
    units = round(printed * 10**decimals)
    if abs(units - printed * 10**decimals) > 1e-6 or not 0 <= printed <= 1:
        raise ValueError(f"{printed!r} is no fraction printed to {decimals} places")
    above = score * 10**decimals - units
    return {"round": 2 * abs(above) <= 1, "truncate": 0 <= above < 1}[how]
