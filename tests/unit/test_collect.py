"""runs.collect and what reads its table: means over seeds and folds, the best by validation, files, the picture."""

import json

import numpy as np
import pandas as pd
import pytest

from busilib import figures, metrics, recipes, runs
from busilib.errors import RunError
from busitools import cli, sweep


def record(home, name, *, seed=0, fold=0, protocol="clean", right=(60, 60), recipe=None, dataset=None):
    """Write a finished run of 100 validation and 100 test files; ``right`` of them are right (validation, test)."""
    folder = home / name
    folder.mkdir(parents=True)
    tables = []
    for part, n in zip(("validation", "test"), right, strict=True):
        said = np.where(np.arange(100) < n, 0, 1)
        table = pd.DataFrame({"file_id": [f"{part} {i}" for i in range(100)], "kind": "scan", "split": part})
        tables.append(table.assign(image_id=table["file_id"], label="benign"))
        tables[-1][runs.PROBABILITIES] = np.eye(3)[said]
    table = pd.concat(tables[1:] if protocol == "paper" else tables)
    table.to_csv(folder / "predictions.csv", index=False)
    (folder / "history.csv").write_text("epoch\n1\n", encoding="utf-8")
    paper = protocol == "paper"
    info = {
        "key": name, "recipe": (recipe or recipes.get("A-frozen", "full", protocol)).as_dict(), "seed": seed,
        "dataset": dataset or {"name": "busi", "kind": "busi", "sha256": "0"},
        "split": {
            "name": "paper A" if paper else f"clean, fold {fold + 1} of 5", "paper": "A",
            "protocol": protocol,
            "fold": fold, "folds": 1 if paper else 5, "seed": seed, "variant": "",
            "sha256": f"{protocol} {seed} {fold}",
            "files": {"train": 300, "test": 100}, "declared": ["validation = test"] * paper, "overlaps": {},
        },
        "weights": {"kind": "none", "sha256": None, "sentence": "."}, "start": None, "started_from": None,
        "backend": "tensorflow", "device": "CPU", "seconds": 1.5, "date": "2026-11-24",
        "scores": {part: metrics.summary(runs.confusion(rows)) for part, rows in table.groupby("split")},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(info), encoding="utf-8")
    (folder / "model.keras").write_bytes(b"weights")
    return folder


@pytest.fixture
def home(tmp_path):
    """Two settings with three seeds each under the clean protocol, and one run under the paper's."""
    for seed, (low, high) in enumerate(((60, 70), (64, 72), (62, 74))):
        record(tmp_path, f"A-frozen-{seed}", seed=seed, fold=seed, right=(low, low + 1))
        other = recipes.get("A-frozen", "full", "clean", preprocessing="rescale")
        record(tmp_path, f"A-frozen-1{seed}", seed=seed, right=(high, high - 30), recipe=other)
    record(tmp_path, "A-frozen-paper", protocol="paper", right=(0, 80))
    return tmp_path


def test_a_row_holds_settings_scores_and_costs(home):
    table = runs.collect(home).set_index("run")
    row = table.loc["A-frozen-1"]
    assert (row["protocol"], row["fold"], row["seed"], row["train"], row["dense"]) == ("clean", 1, 1, 300, "256")
    assert (row["validation_accuracy"], row["test_accuracy"], row["test_n"]) == (0.64, 0.65, 100)
    assert row["test_accuracy_low"] == pytest.approx(metrics.wilson(65, 100)[0])
    assert not row["validation_is_test"] and table.loc["A-frozen-paper", "validation_is_test"]
    assert table.loc["A-frozen-paper", "validation_accuracy"] == table.loc["A-frozen-paper", "test_accuracy"] == 0.8


def test_means_are_over_seeds_and_folds(home):
    table = runs.means(runs.collect(home), ["test_accuracy"])
    assert list(table.columns) == [
        *("name", "preprocessing", "protocol", "runs", "test_accuracy", "test_accuracy_low", "test_accuracy_high"),
    ]
    clean = table[table["protocol"] == "clean"].set_index("preprocessing")
    assert clean["runs"].to_dict() == {"own": 3, "rescale": 3}
    mean, low, high = metrics.corrected_interval([0.61, 0.65, 0.63], 300, 100)  # three splits of one data set
    assert tuple(clean.loc["own", ["test_accuracy", "test_accuracy_low", "test_accuracy_high"]]) == (mean, low, high)
    assert table.loc[table["protocol"] == "paper", "test_accuracy_low"].isna().all()  # one run has no interval
    by = runs.means(runs.collect(home), ["test_accuracy"], by=["seed"])
    assert by["seed"].tolist() == [0, 1, 2] and by["runs"].tolist() == [3, 2, 2]
    with pytest.raises(RunError, match="no runs"):
        runs.means(pd.DataFrame())


def test_weight_seeds_on_one_split_and_data_sets_of_their_own_need_no_correction(tmp_path):
    """Phantoms of another seed are of one kind, and share no image."""
    for seed in range(3):
        data = {
            "name": f"phantoms {seed}",
            "kind": "phantom",
            "n": 600,
            "seed": seed,
            "version": 2,
            "sha256": str(seed),
        }
        folder = record(tmp_path, f"A-frozen-{seed}", seed=seed, right=(60, 60 + seed), dataset=data)
    table = runs.collect(tmp_path)
    expected = pytest.approx(metrics.corrected_interval([0.60, 0.61, 0.62], 1, 0))
    columns = ["test_accuracy", "test_accuracy_low", "test_accuracy_high"]
    assert runs.means(table)["runs"].tolist() == [3] and tuple(runs.means(table)[columns].iloc[0]) == expected
    one_split = table.assign(dataset_sha256="0", split_sha256="0")
    assert tuple(runs.means(one_split)[columns].iloc[0]) == expected and folder.is_dir()


def test_new_splits_of_several_data_sets_are_corrected(tmp_path):
    for seed in range(4):  # two phantom sets, each split twice: a split's hash tells nothing of the set
        made = {"name": f"p{seed // 2}", "kind": "phantom", "sha256": f"{seed // 2}", "n": 60, "version": 1}
        record(tmp_path, f"A-frozen-{seed}", seed=seed % 2, right=(60, 60 + seed), dataset=made)
    mean, low, high = metrics.corrected_interval([0.60, 0.61, 0.62, 0.63], 300, 100)
    table = runs.means(runs.collect(tmp_path), ["test_accuracy"])
    assert table.loc[0, ["test_accuracy", "test_accuracy_low", "test_accuracy_high"]].tolist() == [mean, low, high]


def test_without_pyarrow_the_csv_is_written_and_a_sentence_says_what_is_missing(home, monkeypatch, capsys):
    def missing(*given, **options):
        raise ImportError("Unable to find a usable engine; tried using: 'pyarrow'")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", missing)
    assert cli.main(["collect", str(home)]) == 1
    assert "usable engine" in capsys.readouterr().err and len(pd.read_csv(home / "runs.csv")) == 7


def test_the_best_is_the_best_by_validation(home):
    table = runs.collect(home)
    clean = table[table["protocol"] == "clean"]
    assert runs.best(clean)["run"] == "A-frozen-12"  # its test score is the worst but one
    with pytest.raises(ValueError, match="chooses by the test set"):
        runs.best(table, "test_accuracy")
    with pytest.raises(RunError, match="no runs"):
        runs.best(table.iloc[:0])


def test_a_sweep_is_collected_with_its_parameters(tmp_path):
    for number, dropout in enumerate((0.2, 0.5)):
        record(tmp_path / f"03-{number}" / "runs", f"A-frozen-{number}", seed=number)
        record(tmp_path / f"03-{number}" / "runs", "A-frozen-same")  # both executions made this one
        execution = {"lesson": "03_x", "parameters": {"DROPOUT": dropout, "RUNS": "/somewhere"}}
        (tmp_path / f"03-{number}" / "execution.json").write_text(json.dumps(execution), encoding="utf-8")
    record(tmp_path / ".03-2-half" / "runs", "A-frozen-half")
    record(tmp_path / "failed" / "03-3", "A-frozen-failed")
    table = runs.collect(tmp_path)
    assert sorted(table["run"]) == ["A-frozen-0", "A-frozen-1", "A-frozen-same"]
    assert table.set_index("run")["DROPOUT"].to_dict() == {"A-frozen-0": 0.2, "A-frozen-1": 0.5, "A-frozen-same": 0.2}
    assert "RUNS" not in table and set(table["lesson"]) == {"03_x"}


def test_only_the_models_of_the_best_are_kept(home):
    sweep.keep_best(home)
    assert len(runs.files(home, "model.keras")) == 7, "a folder of runs is no sweep"
    home.rename(home.parent / "runs")
    (home / "03-one").mkdir(parents=True)
    (home.parent / "runs").rename(home / "03-one" / "runs")
    for _ in range(2):
        sweep.keep_best(home)
        assert [file.parent.name for file in runs.files(home, "model.keras")] == ["A-frozen-12", "A-frozen-paper"]
    assert len(runs.collect(home)) == 7


def test_collect_on_the_command_line(home, capsys):
    assert cli.main(["collect", str(home), "--plot", "preprocessing"]) == 0
    out = capsys.readouterr().out
    assert "best of A-frozen, clean, chosen by validation: A-frozen-12, seed 2" in out
    assert "best of A-frozen, paper, chosen on the test part, as the protocol has it" in out
    assert "7 runs:" in out and "means with 95 % intervals" in out
    parquet, csv = pd.read_parquet(home / "runs.parquet"), pd.read_csv(home / "runs.csv")
    assert len(parquet) == len(csv) == 7 and list(parquet.columns) == list(csv.columns)
    pd.testing.assert_frame_equal(parquet, runs.collect(home), check_dtype=False)
    assert (home / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["collect", str(home), "--plot", "preprocesing"]) == 1
    assert "no column 'preprocesing'. There are: " in capsys.readouterr().err
    (home / "empty").mkdir()
    assert cli.main(["collect", str(home / "empty")]) == 1 and cli.main(["collect", str(home / "none")]) == 1
    err = capsys.readouterr().err
    assert err.count("There are no finished runs in") == 2


@pytest.mark.parametrize("parameter", ["preprocessing", "seed"])
def test_the_picture_says_what_it_shows(home, parameter):
    table = runs.collect(home)
    means = runs.means(table, ["test_accuracy"], by=["protocol", parameter])
    picture = figures.by_parameter(table, means, parameter)
    assert f"test accuracy of 7 runs over {parameter}" in picture.description
    value = means.loc[means["protocol"] == "paper", "test_accuracy"].iloc[0]
    assert f"protocol paper, {parameter} {means[parameter].iloc[-1] if parameter != 'seed' else 0}: {value:.3f}" in (
        picture.description
    )


def test_a_seventh_line_is_drawn_as_well(tmp_path):
    table = pd.DataFrame({"protocol": [f"p{i}" for i in range(8)], "seed": 0, "test_accuracy": 0.5})
    means = table.assign(test_accuracy_low=0.4, test_accuracy_high=0.6)
    description = figures.by_parameter(table, means, "seed").description
    assert all(f"protocol p{i}," in description for i in range(8))
