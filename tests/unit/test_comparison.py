"""studies: systems on the same images, or an error; intervals that respect groups and pairs."""

import json

import numpy as np
import pandas as pd
import pytest

from busilib import metrics, runs, studies
from busilib.errors import RunError
from busilib.learning import comparators
from busilib.recipes import CLASSES


def run(folder, names, labels, said):
    """Write the run of one fold that answers ``said`` (class numbers) and return it."""
    folder.mkdir(parents=True)
    table = pd.DataFrame({"file_id": names, "image_id": names, "kind": "scan", "split": "test"})
    table["label"] = [CLASSES[code] for code in labels]
    table[runs.PROBABILITIES] = np.eye(3)[said]
    table.to_csv(folder / "predictions.csv", index=False)
    pd.DataFrame({"epoch": []}).to_csv(folder / "history.csv", index=False)
    info = {}
    for part, _, key in (name.rpartition(".") for name in runs.KEYS.split()):
        (info.setdefault(part, {}) if part else info)[key] = None
    info["split"]["files"] = {"test": len(names)}
    (folder / "run.json").write_text(json.dumps(info))
    return runs.open_run(folder)


@pytest.fixture
def systems(tmp_path):
    """Two systems, two folds, sixty images in thirty groups: good has 9 in 10 right, bad 1 in 2."""
    names, labels = np.array([f"scan {i:02d}" for i in range(60)]), np.arange(60) % 3
    right = {"good": np.arange(60) % 10 != 0, "bad": np.arange(60) % 2 == 0}
    folds = {
        name: [
            run(tmp_path / f"{name}{k}", names[k::2], labels[k::2], np.where(is_right, labels, (labels + 1) % 3)[k::2])
            for k in range(2)
        ]
        for name, is_right in right.items()
    }
    return folds, pd.Series(np.arange(60) // 2, index=names)


def test_scores_are_of_all_folds_together(systems):
    pooled = studies.pool(systems[0])
    table = studies.scores(pooled, systems[1], draws=200)
    assert table.index.tolist() == ["good", "bad"], "best first"
    assert table["n"].tolist() == [60, 60] and table["right"].tolist() == [54, 30]
    assert table["accuracy"].tolist() == [0.9, 0.5]
    for measure in ("accuracy", "macro_f1", "malignant"):
        assert (table[f"{measure}_low"] <= table[measure]).all() and (table[measure] <= table[f"{measure}_high"]).all()
    malignant = np.arange(60)[np.arange(60) % 3 == 1]
    assert table.loc["good", "malignant"] == pytest.approx(np.mean(malignant % 10 != 0))


def test_differences_are_paired(systems):
    pooled = studies.pool(systems[0])
    table = studies.differences(pooled, systems[1], "good", draws=200)
    assert table.loc["good"].tolist() == [0, 0, 0]
    gap = table.loc["bad"]
    assert gap["difference"] == pytest.approx(-0.4)
    assert gap["difference_low"] < -0.4 < gap["difference_high"] < 0, "good is better"


def test_pool_refuses_what_cannot_be_compared(systems, tmp_path):
    good, bad = systems[0]["good"], systems[0]["bad"]
    with pytest.raises(RunError, match="twice: 30 images are tested in two folds, 'scan 00' for instance"):
        studies.pool({"twice": [good[0], good[0]]})
    with pytest.raises(RunError, match="good and half were tested on different images, 30 of them: 'scan 01'"):
        studies.pool({"good": good, "half": bad[:1]})


@pytest.fixture(scope="module")
def busi_table():
    """What benchmarks/comparators.py stored, by system."""
    return runs.stored_table("comparators").set_index("system")


@pytest.mark.parametrize("name", comparators.SYSTEMS)
def test_the_stored_table_agrees_with_its_matrices(name, busi_table):
    row, matrix = busi_table.loc[name], np.array(busi_table.loc[name, "confusion"])
    assert matrix.sum() == row["n"] and np.trace(matrix) == row["right"]
    assert row["accuracy"] == pytest.approx(row["right"] / row["n"])
    assert row["macro_f1"] == pytest.approx(metrics.averages(matrix)["macro_f1"])
    assert row["malignant"] == pytest.approx(matrix[1, 1] / matrix[1].sum())
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
    best = busi_table.loc[runs.stored_table("comparators").attrs["best"]]
    assert row["difference"] == pytest.approx(row["accuracy"] - best["accuracy"])
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    assert len(row["fold_accuracy"]) == 5 and row["cpu_seconds"] >= 0 and row["memory_mb"] >= 0
    assert (row["input"] == "mask") == (name == "shape")


def test_the_stored_table_says_on_what_it_was_measured(busi_table):
    about = runs.stored_table("comparators").attrs
    assert about["dataset"] == "busi" and {"protocol", "intervals", "cpu_seconds", "memory_mb", "device"} <= set(about)
    assert len({tuple(np.sum(matrix, axis=1)) for matrix in busi_table["confusion"]}) == 1, "all on the same scans"
    best = runs.stored_table("comparators").attrs["best"]
    assert best != "shape" and busi_table.loc[busi_table["input"] == "scan", "accuracy"].idxmax() == best
    assert "/" not in " ".join(busi_table["weights"]), "no path"
