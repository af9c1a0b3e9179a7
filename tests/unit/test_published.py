"""The printed numbers agree with what can be computed from them; stored results are complete and say on what."""

import itertools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busilib import metrics, published, stored
from busilib.errors import RunError


def test_paper_a_counts_and_matrix():
    assert published.A_FILES == {"train": 663, "test": 117}
    assert np.sum(published.A_CONFUSION) == 117
    assert metrics.accuracy(published.A_CONFUSION) == pytest.approx(110 / 117)
    assert (published.A_SCORES["accuracy"] == published.A_SCORES["recall"]).all(), "weighted recall is the accuracy"


def test_paper_b_epochs_are_fractions_of_its_counts():
    files, epochs = published.B_FILES, published.B_EPOCHS
    assert sum(files.values()) == 1578
    for column, part in (("accuracy", "train"), ("val_accuracy", "validation")):
        right = (epochs[column] * files[part]).round()
        assert ((right / files[part]).round(4) == epochs[column]).all()
    assert -(-files["train"] // 8) == 143


def test_paper_b_matrix():
    assert np.sum(published.B_CONFUSION, axis=1).tolist() == [89, 42, 26]
    assert round(100 * metrics.accuracy(published.B_CONFUSION)) == published.B_TEST_ACCURACY


@pytest.mark.parametrize("name", stored.names())
def test_stored_result_is_complete(name):
    result = stored.load(name)
    text = stored.sentence(result)
    assert result["dataset"]["name"] == "busi" and f"seed {result['seed']}" in text and result["date"] in text
    for part in result["parts"].values():
        matrix = np.array(part["confusion"])
        assert part["summary"]["n"] == matrix.sum() and part["summary"]["right"] == np.trace(matrix)
        assert part["summary"]["accuracy_low"] < part["summary"]["accuracy"] < part["summary"]["accuracy_high"]
    assert len(stored.history(result)) == result["epochs_run"]


def test_there_are_stored_results():
    assert {"A-frozen-paper", "A-tuned-paper"} <= set(stored.names())


def test_the_readme_shows_the_stored_results():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert stored.markdown() in readme, "copy what stored.markdown() gives into the README, under Measured"


def test_an_unknown_result_is_refused_with_the_names_there_are():
    with pytest.raises(RunError, match="no stored result 'C'; there are: A-frozen-paper"):
        stored.load("C")


@given(st.integers(20, 1999).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), min_size=1))))
@settings(max_examples=40, deadline=None)
def test_the_true_denominator_always_fits(made):
    n, right = made
    for how, cut in (("round", round), ("truncate", math.floor)):
        printed = [cut(10000 * Fraction(k, n)) / 10000 for k in right]
        assert n in published.denominators(printed, how=how)
        assert all(k in published.numerators(p, n, how=how) for k, p in zip(right, printed, strict=True))


def test_paper_b_has_one_denominator():
    assert published.denominators(published.B_EPOCHS["accuracy"]) == [1138]
    assert published.denominators(published.B_EPOCHS["val_accuracy"])[:2] == [283, 566]
    assert published.numerators(0.8975, 283) == [254]


def test_paper_a_denominators():
    train = published.A_SCORES.query("part == 'train'")["accuracy"] / 100
    assert [n for n in published.denominators(train, how="round") if n < 780] == [662]
    assert [n for n in published.denominators(train, how="truncate") if n < 780] == [433, 663]
    with pytest.raises(ValueError, match="no fraction printed to 4 places"):
        published.denominators([0.12345])
    with pytest.raises(ValueError, match="'round' or 'truncate'"):
        published.denominators([0.5], how="up")


def test_matrices_finds_exactly_those_that_a_plain_search_finds():
    rows, matrix = (5, 4, 3), [[4, 1, 0], [1, 2, 1], [0, 0, 3]]
    scores = metrics.averages(matrix)
    keys = ("accuracy", "weighted_precision", "weighted_recall", "weighted_f1")
    printed = [math.floor(100 * scores[key] + 1e-9) / 100 for key in keys]
    spread = [[(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)] for n in rows]
    expected = []
    for candidate in itertools.product(*spread):
        found = metrics.averages(candidate)
        if [math.floor(100 * found[key] + 1e-9) / 100 for key in keys] == printed:
            expected.append([list(row) for row in candidate])
    assert matrix in expected
    assert sorted(published.matrices(rows, printed, decimals=2)) == sorted(expected)


def test_one_matrix_fits_each_of_paper_a_tables():
    tests = published.A_SCORES.query("part == 'test'")[["accuracy", "precision", "recall", "f1"]].to_numpy() / 100
    rows = (66, 31, 20)
    assert published.matrices(rows, tests[0]) == [[[63, 3, 0], [5, 26, 0], [0, 0, 20]]]
    assert published.matrices(rows, tests[1]) == [[[65, 1, 0], [3, 28, 0], [0, 0, 20]]]
    assert published.matrices(rows, tests[0], how="round") == []
    assert published.matrices(rows, tests[1], how="round") == [[[65, 1, 0], [2, 28, 1], [0, 0, 20]]]
