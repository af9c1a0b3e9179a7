"""studies: a finished one is not computed again, its key covers the data, and its numbers are those of its parts."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from busilib import metrics, published, recipes, runs, studies
from busilib.data import images
from busilib.learning import models, training
from busilib.recipes import PROBABILITIES

NONE = models.Weights("none", "random")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch, phantoms):
    """Studies and features of these tests in a cache of their own; the phantoms come from the session's."""
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def recipe(tiny):
    return recipes.study(backbone=tiny, image_size=32, dense=(8,), epochs=3, patience=2)


def must_not_train(*given, **named):
    pytest.fail("it trained again")


def test_leaks_are_measured_once(recipe, phantoms, monkeypatch):
    table = studies.leaks_of(recipe, NONE, phantoms, 0)
    assert sorted(table["kind"]) == sorted(studies.LEAKS)
    np.testing.assert_allclose(table["difference"], table["with_leak"] - table["without"])
    assert table.set_index("kind").loc["best epoch", "difference"] >= 0, "the best of all cannot be worse"
    assert (table["n_train"] > table["n"]).all()
    monkeypatch.setattr(training, "train_head", must_not_train)
    pd.testing.assert_frame_equal(studies.leaks_of(recipe, NONE, phantoms, 0), table)


def test_single_leaks_can_be_measured(recipe, phantoms):
    table = studies.leaks_of(recipe, NONE, phantoms, 0, kinds=("copies",))
    assert table["kind"].tolist() == ["validation", "best epoch", "copies"]


def test_early_stopping_on_validation_is_what_training_itself_restores(recipe, phantoms):
    """The honest row stands for a head that was trained the usual way."""
    table = studies.leaks_of(recipe, NONE, phantoms, 3).set_index("kind")
    split = studies.leaks.clean(phantoms, 3)
    predictions = training.train_head(recipe, split, weights=NONE, seed=3)[1]
    assert table.loc["validation", "without"] == pytest.approx(studies.accuracy(predictions))


def test_worth_is_the_corrected_paired_interval():
    rows = pd.DataFrame({"kind": ["copies"] * 3 + ["masks"] * 3, "difference": [0.1, 0.2, 0.0, 0.3, 0.3, 0.3]})
    table = studies.worth(rows.assign(n=50, n_train=200))
    expected = metrics.corrected_interval([10, 20, 0], 200, 50)
    assert table.loc["copies", ["mean", "low", "high"]].tolist() == pytest.approx(expected)
    assert expected[1] < metrics.corrected_interval([10, 20, 0], 1, 0)[1], "re-drawn splits share their training images"
    assert table.loc["masks", "mean"] == pytest.approx(30) and list(table.index) == ["copies", "masks"]


def test_scans_or_masks_compares_the_same_images(recipe, phantoms):
    table = studies.scans_or_masks(recipe, NONE, phantoms, 0).set_index("inputs")
    sums = [np.sum(table.loc[inputs, "confusion"], axis=1).tolist() for inputs in ("scan", "mask")]
    assert sums[0] == sums[1] and sum(sums[0]) == 9


@pytest.fixture
def masks_alone(monkeypatch):
    """The names of the script that measures what the masks alone would give."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "studies.py")))


def test_the_scripts_split_is_stratified_and_masks_alone_know_the_normal_scans(phantoms, masks_alone):
    train, test = masks_alone.script_split(phantoms)
    assert sorted([*train, *test]) == list(range(len(phantoms.table))) and len(test) == 9
    others = [masks_alone.script_split(phantoms, **how)[1] for how in ({"order": "text"}, {"coded": True}, {"seed": 1})]
    assert all(set(other) != set(test) for other in others)
    matrix = masks_alone.tested(phantoms, images.shape_table(phantoms), (train, test), masks_alone.forest())
    assert matrix.sum() == 9 and matrix[2, 2] == matrix[2].sum(), "a black mask says that nothing was drawn"


def test_masks_alone_on_busi_give_the_printed_matrix(busi, masks_alone):
    """The forest part of lesson 07: the described variant and logistic regression, each as it is stored."""
    expected = runs.stored_table("masks-alone").set_index(["variant", "seed"])["confusion"]
    features, split = images.shape_table(busi), masks_alone.script_split(busi)
    assert expected["as described"].tolist() == [published.A_CONFUSION] * 5
    assert masks_alone.tested(busi, features, split, masks_alone.forest(0)).tolist() == published.A_CONFUSION
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    matrix = masks_alone.tested(busi, features, split, regression)
    assert matrix.tolist() == expected["logistic regression", 0] == [[63, 3, 0], [5, 26, 0], [0, 0, 20]]


def test_three_ways_come_from_the_stored_results():
    table = studies.three_ways().set_index("paper")
    assert table["paper says"].tolist() == ["0.932 of 117", "0.966 of 117", "0.898 of 157"]
    test = runs.stored_table("clean-ResNet50").query("part == 'test' and seed == 0")
    tuned, paper_b = runs.stored_table("folds-A").query("recipe == 'A-tuned'"), runs.stored_table("folds-B")
    for folds in (tuned, paper_b):
        assert folds["file_id"].is_unique and set(folds["file_id"]) == set(test["file_id"]), "each scan is tested once"
    papers = {"A: ResNet50, frozen": test, "A: ResNet50, fine-tuned": tuned, "B: Inception-ResNet-v2": paper_b}
    for paper, rows in papers.items():
        right = (rows[PROBABILITIES].to_numpy().argmax(axis=1) == studies.codes(rows["label"])).mean()
        said = table.loc[paper, "done properly"]
        assert said.startswith(f"{right:.3f} [") and said.endswith(f"of {len(test)}, five folds")
    nested = runs.stored_table("honest-BUSI").set_index("rung").loc["nested"]
    best = table.loc["A: ResNet50, frozen", "as good as it honestly gets"]
    assert best == f"{nested.accuracy:.3f} [{nested.low:.3f}, {nested.high:.3f}] of {len(test)}, nested folds"


def test_paper_b_on_random_weights_never_answers_normal_as_the_results_page_says():
    answers = runs.stored_table("folds-B")[PROBABILITIES].to_numpy().argmax(axis=1)
    assert set(answers) == {0, 1} and 'never answers "normal"' in (ROOT / "docs" / "results.md").read_text("utf-8")


def test_the_nested_figure_stands_beside_the_flattering_one():
    table = runs.stored_table("honest-BUSI")
    accuracy = table.set_index("rung")["accuracy"]
    assert accuracy["nested"] < accuracy["chosen on the test folds"]
    sure = table.query("gain_low > 0")["rung"].str.split(",").str[0].tolist()
    assert sure == ["averages", "two depths", "views in testing", "maxima beside averages"], "lesson 11 counts four"
    assert "opened" in table.attrs and len(table.attrs["choices"]) == 15, "three seeds, five folds, a choice in each"


def test_readme_and_results_page_show_the_stored_results():
    store = runpy.run_path(str(ROOT / "benchmarks" / "store.py"))
    shown = {"README.md": [store["ways"]], "docs/results.md": store["TABLES"]}
    for page, tables in shown.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        for table in tables:
            assert table() in text, f"copy what benchmarks/store.py prints ({table.__name__}) into {page}"
    assert len(runs.stored_table("leaks-ResNet50")["seed"].unique()) >= 5
