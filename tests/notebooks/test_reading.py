"""What lesson 07 writes out is right: its searches find all that fits, its leak is what the library computes."""

import contextlib
import io
import itertools
import math
from fractions import Fraction

import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busilib import metrics, published, recipes, studies
from busilib.data import images, leaks
from busitools import notebooks


@pytest.fixture(scope="module")
def cells():
    """Say what the lesson's code cell with a given text holds."""
    notebook = nbformat.read(notebooks.lessons(["07"])[0], as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return lambda text: next(source for source in sources if text in source)


@pytest.fixture(scope="module")
def lesson(cells):
    """The lesson's names after sections 1 and 2, which need no images."""
    names = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for start in ("def numerators", "def denominators", "from math import comb", "def moves", "def weighted_scores",
                      "def matrices"):  # fmt: skip
            exec(cells(start), names)  # noqa: S102
    return names


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 1999).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), min_size=1))))
def test_the_true_denominator_always_fits(lesson, made):
    n, right = made
    for how, cut in (("round", round), ("truncate", math.floor)):
        printed = [cut(10000 * Fraction(k, n)) / 10000 for k in right]
        assert all(k in lesson["numerators"](p, n, how) for k, p in zip(right, printed, strict=True))
        assert n in lesson["denominators"](printed, how)


def test_numerators_are_all_and_only_those_that_fit(lesson):
    for n, printed in itertools.product((20, 117, 1138), (0.0, 0.05, 0.4999, 0.862, 1.0)):
        for how, cut in (("round", round), ("truncate", math.floor)):
            expected = [k for k in range(n + 1) if cut(10000 * Fraction(k, n)) == round(10000 * printed)]
            assert lesson["numerators"](printed, n, how) == expected


def test_the_papers_denominators(lesson):
    denominators = lesson["denominators"]
    assert denominators(published.B_EPOCHS["accuracy"]) == [1138]
    assert denominators(published.B_EPOCHS["val_accuracy"])[:2] == [283, 566]
    train = published.A_SCORES.query("part == 'train'")["accuracy"] / 100
    assert denominators(train, "round", highest=779) == [662]
    assert denominators(train, "truncate", highest=779) == [433, 663]


def printed_averages(matrix):
    scores = metrics.averages(matrix)
    keys = ("accuracy", "weighted_precision", "weighted_recall", "weighted_f1")
    return [math.floor(10000 * scores[key] + 1e-9) / 10000 for key in keys]


def test_matrices_are_all_and_only_those_that_a_plain_search_finds(lesson):
    rows, printed = (4, 3, 2), printed_averages([[3, 1, 0], [1, 1, 1], [0, 0, 2]])
    spread = [[[a, b, n - a - b] for a in range(n + 1) for b in range(n + 1 - a)] for n in rows]
    expected = [list(matrix) for matrix in itertools.product(*spread) if np.trace(matrix) == 6]
    expected = [matrix for matrix in expected if printed_averages(matrix) == printed]
    assert expected and sorted(lesson["matrices"](rows, printed)) == sorted(expected)


def test_one_matrix_fits_each_of_paper_a_tables(lesson):
    (first, second), rows, matrices = lesson["tables"], (66, 31, 20), lesson["matrices"]
    assert matrices(rows, first) == [[[63, 3, 0], [5, 26, 0], [0, 0, 20]]]
    assert matrices(rows, second) == [[[65, 1, 0], [3, 28, 0], [0, 0, 20]]]
    assert matrices(rows, first, "round") == []
    assert matrices(rows, second, "round") == [[[65, 1, 0], [2, 28, 1], [0, 0, 20]]]


def test_weighted_scores(lesson):
    scores = metrics.averages(published.A_CONFUSION)
    expected = [100 * scores[f"weighted_{name}"] for name in ("precision", "recall", "f1")]
    assert lesson["weighted_scores"](np.array(published.A_CONFUSION)) == pytest.approx(expected)


def test_the_forest_on_masks(cells, phantoms):
    shapes = images.shape_table(phantoms)
    names = {"scans": phantoms, "shapes": shapes, "labels": phantoms.table["label"].to_numpy(), "SEED": 0, "np": np,
             "recipes": recipes, "published": published}  # fmt: skip
    exec(cells("RandomForestClassifier").partition("figures.")[0], names)  # noqa: S102
    labels = names["labels"][names["test"]]
    assert names["by_shape"].sum(axis=1).tolist() == [np.sum(labels == name) for name in recipes.CLASSES]
    assert sorted([*names["train"], *names["test"]]) == list(range(len(phantoms.table))) and len(labels) == 9
    assert names["by_shape"][2, 2] == names["by_shape"][2].sum(), "a black mask says that nothing was drawn"


def test_the_leak_in_the_open_is_the_studies(cells, phantoms, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path))
    import keras

    from busilib.learning import models

    recipe = recipes.study(backbone=tiny, image_size=32, dense=(8,), epochs=3, patience=2)
    weights = models.Weights("none", "random")
    names = {"scans": phantoms, "recipe": recipe, "weights": weights, "BACKBONE": tiny, "SEED": 0, "np": np, "pd": pd,
             "images": images, "models": models, "recipes": recipes, "keras": keras}  # fmt: skip
    names["pair"] = leaks.copies(phantoms, 0)
    for start in ("base.trainable = False", "def inputs_and_labels", "def train_head"):
        exec(cells(start), names)  # noqa: S102
    truth = names["pair"].without.part("test")["label"].map(recipes.CLASSES.index)
    table = studies.leaks_of(recipe, weights, phantoms, 0, ("copies",)).set_index("kind")
    for column, split in (("without", names["pair"].without), ("with_leak", names["pair"].with_leak)):
        assert np.mean(names["train_head"](split) == truth) == pytest.approx(table.loc["copies", column])
