"""The printed numbers agree with what can be computed from them; stored results are complete and say on what."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busilib import metrics, published, runs


def test_the_papers_counts_agree_with_their_scores():
    assert np.sum(published.A_CONFUSION) == published.A_FILES["test"]
    assert (published.A_SCORES["accuracy"] == published.A_SCORES["recall"]).all(), "weighted recall is the accuracy"
    assert np.sum(published.B_CONFUSION) == published.B_FILES["test"] and sum(published.B_FILES.values()) == 1578
    assert round(100 * metrics.accuracy(published.B_CONFUSION)) == published.B_TEST_ACCURACY
    for column, part in (("accuracy", "train"), ("val_accuracy", "validation")):
        values, n = published.B_EPOCHS[column], published.B_FILES[part]
        assert (((values * n).round() / n).round(4) == values).all()


@pytest.mark.parametrize("name", runs.stored_names())
def test_stored_result_is_complete(name):
    result = runs.stored(name)
    assert f"seed {result['seed']}" in runs.sentence(result)
    for part in result["parts"].values():
        matrix, summary = np.array(part["confusion"]), part["summary"]
        assert summary["n"] == matrix.sum() and summary["right"] == np.trace(matrix)
        assert summary["accuracy_low"] < summary["accuracy"] < summary["accuracy_high"]
    assert len(result["history"]) == result["epochs_run"]


@given(st.integers(20, 1999).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), min_size=1))))
@settings(max_examples=40, deadline=None)
def test_the_true_denominator_always_fits(made):
    n, right = made
    for how, cut in (("round", round), ("truncate", math.floor)):
        printed = [cut(10000 * Fraction(k, n)) / 10000 for k in right]
        assert n in published.denominators(printed, how=how)
        assert all(k in published.numerators(p, n, how=how) for k, p in zip(right, printed, strict=True))


def test_the_papers_denominators():
    assert published.denominators(published.B_EPOCHS["accuracy"]) == [1138]
    assert published.denominators(published.B_EPOCHS["val_accuracy"])[:2] == [283, 566]
    train = published.A_SCORES.query("part == 'train'")["accuracy"] / 100
    assert published.denominators(train, how="round", highest=779) == [662]
    assert published.denominators(train, how="truncate", highest=779) == [433, 663]
    for wrong in (0.12345, 94.02):
        with pytest.raises(ValueError, match="no fraction printed to 4 places"):
            published.denominators([wrong])


def printed_averages(matrix):
    scores = metrics.averages(matrix)
    keys = ("accuracy", "weighted_precision", "weighted_recall", "weighted_f1")
    return [math.floor(10 * scores[key] + 1e-9) / 10 for key in keys]


def test_matrices_finds_exactly_those_that_a_plain_search_finds():
    rows, printed = (4, 3, 2), printed_averages([[3, 1, 0], [1, 1, 1], [0, 0, 2]])
    spread = [[[a, b, n - a - b] for a in range(n + 1) for b in range(n + 1 - a)] for n in rows]
    expected = [list(matrix) for matrix in itertools.product(*spread) if np.trace(matrix) == 6]
    expected = [matrix for matrix in expected if printed_averages(matrix) == printed]
    assert len(expected) > 1 and sorted(published.matrices(rows, printed, decimals=1)) == sorted(expected)


def test_one_matrix_fits_each_of_paper_a_tables():
    first, second = published.A_SCORES.loc[[1, 3], ["accuracy", "precision", "recall", "f1"]].to_numpy() / 100
    rows = (66, 31, 20)
    assert published.matrices(rows, first) == [[[63, 3, 0], [5, 26, 0], [0, 0, 20]]]
    assert published.matrices(rows, second) == [[[65, 1, 0], [3, 28, 0], [0, 0, 20]]]
    assert published.matrices(rows, first, how="round") == []
    assert published.matrices(rows, second, how="round") == [[[65, 1, 0], [2, 28, 1], [0, 0, 20]]]
