"""heads and studies: a head started anew is a new head; a study is kept; its numbers are those of its parts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from busilib import metrics, recipes, stored, studies
from busilib.data import leaks, splits
from busilib.learning import heads, models, training
from busilib.runs import PROBABILITIES

NONE = models.Weights("none", "random")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Studies and features of these tests in a cache of their own; the phantoms come from the session's."""
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def base(tiny):
    recipe = recipes.study(backbone=tiny, image_size=32, dense=(8,), epochs=3, patience=2)
    return heads.Heads(recipe, NONE)


def test_a_head_started_anew_is_a_new_head(base, phantoms):
    split = splits.paper_a(phantoms)
    first, other, again = (base.train(split, seed).predictions[PROBABILITIES] for seed in (0, 1, 0))
    pd.testing.assert_frame_equal(first, again, atol=1e-6)
    assert (first - other).abs().to_numpy().max() > 1e-3


def test_heads_learn_what_train_learns(base, phantoms):
    """The same recipe through `training.train`: other first weights of the head, so compare what it is for."""
    split = splits.paper_a(phantoms)
    one = base.train(split, 0)
    whole = training.train(base.recipe, split, weights=NONE)
    assert list(one.history.columns) == list(whole.history.columns)
    assert (one.predictions["file_id"] == whole.predictions["file_id"]).all()
    np.testing.assert_allclose(one.predictions[PROBABILITIES].sum(axis=1), 1, atol=1e-4)


def test_every_epoch_keeps_them_all(base, phantoms):
    split = leaks.clean(phantoms)
    fitted = base.train(split, every_epoch=True)
    test = split.part("test")
    assert fitted.epochs.shape == (base.recipe.epochs, len(test), 3) and len(fitted.history) == base.recipe.epochs
    best = training.best_epoch(fitted.history, base.recipe.monitor)
    predicted = fitted.predictions[fitted.predictions["split"] == "test"][PROBABILITIES]
    np.testing.assert_allclose(predicted, fitted.epochs[best - 1], atol=1e-5)


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = pd.Series(["benign"] * 5 + ["malignant"] * 3 + ["normal"] * 2)
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    assert list(heads.balanced(labels).values()) == pytest.approx(list(expected))
    assert heads.balanced(labels[:8]) == pytest.approx({0: 0.8, 1: 8 / 6}), "a class that is missing has no weight"


def test_heads_refuse_a_base_that_moves(tiny):
    for changes in ({"unfreeze": "block"}, {"augment": True}):
        with pytest.raises(ValueError, match="stand on a frozen base"):
            heads.Heads(recipes.study(backbone=tiny, **changes), NONE)


@pytest.mark.parametrize(
    ("losses", "patience", "kept"),
    [([3, 2, 1, 2, 2], None, 3), ([3, 2, 2.5, 2.5, 1], 2, 2), ([3, 2, 2.5, 1, 1.5], 2, 4), ([1, 1, 1], 1, 1)],
)
def test_the_epoch_that_early_stopping_keeps(losses, patience, kept):
    history = pd.DataFrame(
        {"epoch": range(1, len(losses) + 1), "val_loss": losses, "val_accuracy": np.negative(losses)}
    )
    assert training.best_epoch(history, "val_loss", patience) == kept
    assert training.best_epoch(history, "val_accuracy", patience) == kept


def test_leaks_are_measured_once_and_kept(base, phantoms, monkeypatch):
    table = studies.leaks_of(base, phantoms, 0)
    assert sorted(table["kind"]) == sorted(studies.LEAKS)
    np.testing.assert_allclose(table["difference"], table["with_leak"] - table["without"])
    assert table.set_index("kind").loc["best epoch", "difference"] >= 0, "the best of all cannot be worse"
    monkeypatch.setattr(base, "train", None)
    pd.testing.assert_frame_equal(studies.leaks_of(base, phantoms, 0), table)


def test_worth_is_the_corrected_interval_of_repeated_splits():
    rows = pd.DataFrame({"kind": ["masks"] * 3 + ["copies"] * 3, "difference": [0.3, 0.3, 0.3, 0.1, 0.2, 0.0]})
    table = studies.worth(rows.assign(n=30, n_train=[100, 120, 140] * 2))
    expected = metrics.corrected_interval([10, 20, 0], [100, 120, 140], 30)
    assert table.loc["copies", ["mean", "low", "high"]].tolist() == pytest.approx(expected)
    assert table.loc["masks", "mean"] == pytest.approx(30) and list(table.index) == ["copies", "masks"]


def test_clean_tests_every_scan_once_on_heads_that_never_saw_its_group(base, phantoms):
    table = studies.clean(base, phantoms, 0, folds=3)
    test = table[table["part"] == "test"]
    kept = splits.without_objections(phantoms).table
    assert sorted(test["file_id"]) == sorted(kept["image_id"])
    assert (test.groupby("group")["fold"].nunique() == 1).all()
    assert metrics.accuracy(studies.confusion(table)) == studies.accuracy(table)


def test_scans_or_masks_compares_the_same_images(base, phantoms):
    table = studies.scans_or_masks(base, phantoms, 0).set_index("inputs")
    sums = [np.sum(table.loc[inputs, "confusion"], axis=1).tolist() for inputs in ("scan", "mask")]
    assert sums[0] == sums[1] and sum(sums[0]) == 9


def test_three_ways_come_from_the_stored_results():
    rows = {row["paper"][0]: row for row in studies.three_ways()}
    assert rows["A"]["paper says"] == "0.966 of 117" and rows["B"]["paper says"] == "0.898 of 157"
    test = stored.table("clean-ResNet50").query("part == 'test' and seed == 0")
    right = (test[PROBABILITIES].to_numpy().argmax(axis=1) == studies.codes(test["label"])).mean()
    assert rows["A"]["done properly"].startswith(f"{right:.3f} [")
    assert rows["A"]["done properly"].endswith(f"of {len(test)}")


def test_the_readme_shows_the_stored_studies():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for table in (studies.leaks_markdown(), studies.clean_markdown(), studies.backbones_markdown()):
        assert table in readme, (
            "copy what studies.leaks_markdown(), clean_markdown() and backbones_markdown() give into the README"
        )
    assert len(stored.table("leaks-ResNet50")["seed"].unique()) >= 5
