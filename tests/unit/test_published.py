"""The printed numbers agree with what can be computed from them; stored results are complete and say on what."""

import numpy as np
import pytest

from busilib import metrics, published, runs


def test_the_papers_counts_agree_with_their_scores():
    assert np.sum(published.A_CONFUSION) == published.A_FILES["test"]
    assert (published.A_SCORES["accuracy"] == published.A_SCORES["recall"]).all(), "weighted recall is the accuracy"
    assert np.sum(published.B_CONFUSION) == published.B_FILES["test"] and sum(published.B_FILES.values()) == 1578
    assert round(100 * metrics.accuracy(published.B_CONFUSION)) == 90, "as the text rounds it"
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
