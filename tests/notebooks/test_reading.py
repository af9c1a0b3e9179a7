"""What lesson 07 writes out is what the library computes: the searches, the masks' forest, and the leak."""

import contextlib
import io

import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busilib import metrics, published, recipes, studies
from busilib.data import images, leaks
from busitools import notebooks

FIRST = ("truncate", "round")


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
@given(st.integers(20, 1999), st.data(), st.sampled_from(FIRST))
def test_numerators(lesson, n, data, how):
    k = data.draw(st.integers(0, n))
    printed = (10000 * k // n if how == "truncate" else round(10000 * k / n)) / 10000
    assert lesson["numerators"](printed, n, how) == published.numerators(printed, n, how=how)
    assert k in lesson["numerators"](printed, n, how)


@pytest.mark.parametrize("how", FIRST)
@pytest.mark.parametrize("column", ["accuracy", "val_accuracy"])
def test_denominators(lesson, column, how):
    printed = published.B_EPOCHS[column]
    for count in (1, 3, 10):
        assert lesson["denominators"](printed[:count], how) == published.denominators(printed[:count], how=how)


@pytest.mark.parametrize("how", FIRST)
def test_matrices(lesson, how):
    """On both tables, with the rows of Figure 7 and with others, in whatever order."""
    for printed in lesson["tables"]:
        for rows in ((66, 31, 20), (65, 30, 22), (67, 31, 19)):
            assert sorted(lesson["matrices"](rows, printed, how)) == sorted(published.matrices(rows, printed, how=how))


def test_weighted_scores(lesson):
    scores = metrics.averages(published.A_CONFUSION)
    expected = [100 * scores[f"weighted_{name}"] for name in ("precision", "recall", "f1")]
    assert lesson["weighted_scores"](np.array(published.A_CONFUSION)) == pytest.approx(expected)


def test_the_forest_on_masks(cells, phantoms):
    shapes = images.shape_table(phantoms)
    names = {"scans": phantoms, "shapes": shapes, "labels": phantoms.table["label"].to_numpy(), "SEED": 0, "np": np,
             "recipes": recipes, "published": published}  # fmt: skip
    exec(cells("RandomForestClassifier").partition("figures.")[0], names)  # noqa: S102
    expected = studies.masks_alone(phantoms, shapes, studies.script_split(phantoms), studies.forest())
    assert names["by_shape"].tolist() == expected.tolist()


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
