"""The printed numbers agree with what can be computed from them; stored results are complete and say on what."""

from pathlib import Path

import numpy as np
import pytest

from busilib import metrics, stored
from busilib.errors import RunError
from busilib.evaluation import published


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
