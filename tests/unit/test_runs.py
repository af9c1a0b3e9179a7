"""runs: the folder and its contract, found again by its key, whole or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from busilib import metrics, recipes, runs
from busilib.data import images, splits
from busilib.errors import RunError
from busilib.learning import models, training

WEIGHTS = models.Weights("none", "Random features.")
FILES = {"run.json", "history.csv", "predictions.csv", "model.keras", "model_card.md"}


def small(name="A-frozen", **changes):
    return recipes.get(name, **{"backbone": "Tiny", "image_size": 32, "epochs": 2, "dense": (8,)} | changes)


def must_not_train(*given, **named):
    pytest.fail("it trained again")


@pytest.fixture(scope="module")
def split(phantoms):
    return splits.paper_a(phantoms)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(phantoms, split, home):
    """A real network from end to end: MobileNetV2, 32 pixels, two epochs."""
    recipe = small(backbone="MobileNetV2")
    return runs.find_or_train(recipe, phantoms, split, training.train, weights=WEIGHTS, seed=0, runs=home)


@pytest.fixture(scope="module")
def tiny_run(phantoms, split, home, tiny):
    return runs.find_or_train(small(), phantoms, split, training.train, weights=WEIGHTS, runs=home)


def test_the_folder_is_complete(run, home):
    assert {path.name for path in run.folder.iterdir()} == FILES
    assert run.folder.parent == home and run.name.startswith("A-frozen-")
    assert not [path for path in home.iterdir() if path.is_dir() and path.name.startswith(".")]


def test_run_json_has_the_whole_contract_and_no_path(run, split, phantoms):
    info = run.info
    assert {
        *("key", "recipe", "seed", "start", "dataset", "split", "declared", "overlaps", "weights", "backend"),
        *("device", "versions", "date", "seconds", "peak_memory_mb", "epochs_run", "epoch_kept", "steps_per_epoch"),
        *("parameters", "parameters_trained"),
    } <= set(info)
    assert info["recipe"] == small(backbone="MobileNetV2").as_dict()
    assert info["dataset"] == {"name": phantoms.name, "sha256": phantoms.sha256}
    assert info["split"] == {"name": "paper A", "sha256": split.sha256, "files": {"test": 9, "train": 51}}
    assert info["declared"] == ["group", "validation = test"] and info["overlaps"]["validation = test"] == 9
    assert info["weights"]["sentence"] == "Random features." and info["start"] is None
    assert info["seconds"] > 0 and info["versions"]["keras"] and info["versions"]["python"]
    for name in ("run.json", "model_card.md", "predictions.csv", "history.csv"):
        text = (run.folder / name).read_text(encoding="utf-8")
        for place in (run.folder.anchor + "tmp", str(Path.home()), str(Path(runs.__file__).parent), "\\\\", ".png"):
            assert place not in text, (name, place)
        assert not [word for word in text.replace('"', " ").split() if Path(word).is_absolute()]


def test_weights_from_a_file_leave_no_path(phantoms, split, home, tiny_run):
    weights = models.Weights("file", "Weights from mine.h5.", "/home/someone/mine.h5", "f" * 64)

    done = runs.Trained(tiny_run.model(), tiny_run.history, tiny_run.predictions, {})
    run = runs.find_or_train(small(), phantoms, split, lambda *_, **__: done, weights=weights, runs=home)
    assert run.info["weights"] == {"kind": "file", "sha256": "f" * 64, "sentence": "Weights from mine.h5."}
    assert "someone" not in (run.folder / "run.json").read_text(encoding="utf-8")


def test_predictions_are_one_row_a_file_and_what_the_saved_model_says(run, split):
    table = run.predictions
    assert sorted(table["file_id"]) == sorted(split.table["file_id"])
    np.testing.assert_allclose(table[runs.PROBABILITIES].sum(axis=1), 1, atol=5e-6)
    pixels = images.load(split.table["path"], 32)
    found = run.model().predict(pixels, verbose=0)
    np.testing.assert_allclose(found, table[runs.PROBABILITIES], atol=1e-4)


def test_scores_come_from_the_predictions(run):
    test = run.part("test")
    truth, predicted = test["label"], test[runs.PROBABILITIES].idxmax(axis=1).str.removeprefix("p_")
    assert test["predicted"].tolist() == predicted.tolist()
    assert run.summary()["accuracy"] == pytest.approx((truth == predicted).mean())
    assert run.confusion("train").sum() == 51
    assert np.allclose(test["confidence"], test[runs.PROBABILITIES].max(axis=1))
    with pytest.raises(RunError, match="has no predictions for the validation part"):
        run.summary("validation")


def test_the_epoch_kept_is_the_best_by_the_monitor(run):
    history = run.history
    assert history["epoch"].tolist() == list(range(1, run.info["epochs_run"] + 1))
    assert run.info["epoch_kept"] == history.loc[history["val_loss"].idxmin(), "epoch"]


def test_the_card_tells_the_scores_and_the_limits(run):
    card = (run.folder / "model_card.md").read_text(encoding="utf-8")
    assert "For teaching and research, not for diagnosis." in card
    assert metrics.text(run.summary()) in card and "validation = test: 9" in card
    row = metrics.per_class(run.confusion(), recipes.CLASSES).loc["benign"]
    assert f"| benign | 5 | {row.sensitivity:.2f} [{row.sensitivity_low:.2f}, {row.sensitivity_high:.2f}]" in card
    assert "Random features." in card and "MobileNetV2, 32 px" in card


def test_a_finished_run_is_found(phantoms, split, home, tiny_run):
    again = runs.find_or_train(small(), phantoms, split, must_not_train, weights=WEIGHTS, runs=home)
    assert again.folder == tiny_run.folder


class Asked(Exception):
    pass


def asked(*given, **named):
    raise Asked


def test_whatever_changes_the_result_trains_anew(phantoms, split, home, tiny_run, monkeypatch):
    given = {"recipe": small(), "scans": phantoms, "split": split, "weights": WEIGHTS, "runs": home}
    for changed in (
        {"seed": 1},
        {"recipe": small(learning_rate=0.5)},
        {"scans": replace(phantoms, sha256="0" * 64)},
        {"split": splits.paper_a(phantoms, seed=1)},
        {"split": replace(split, declared=("group", "image", "validation = test"))},
        {"weights": models.Weights("file", "", "x.h5", "a" * 64)},
        {"start": tiny_run},
    ):
        with pytest.raises(Asked):
            runs.find_or_train(train=asked, **given | changed)
    monkeypatch.setattr(runs, "CODE", "other code")
    with pytest.raises(Asked):
        runs.find_or_train(train=asked, **given)


def test_the_key_covers_the_code_of_learning_and_of_the_images(monkeypatch, tmp_path):
    import shutil

    package = Path(runs.__file__).parent
    for part in ("learning", "data"):
        shutil.copytree(package / part, tmp_path / part)
    before = runs._code()
    monkeypatch.setattr(runs.busilib, "__file__", str(tmp_path / "__init__.py"))
    assert runs._code() == before
    for changed in ("learning/models.py", "data/images.py"):
        with open(tmp_path / changed, "a", encoding="utf-8") as file:
            file.write("# changed\n")
        after = runs._code()
        assert after != before
        before = after


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_interrupted_training_leaves_no_folder(failure, phantoms, split, tmp_path, tiny_run):
    def stopped(*given, **named):
        raise failure

    class Unsaved:
        def save(self, path):
            Path(path).write_bytes(b"half")
            raise failure

    def half(*given, **named):
        return runs.Trained(Unsaved(), tiny_run.history, tiny_run.predictions, {})

    for train in (stopped, half):
        with pytest.raises(failure):
            runs.find_or_train(small(), phantoms, split, train, weights=WEIGHTS, runs=tmp_path)
        assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert runs.collect(tmp_path).empty


def test_the_second_phase_names_the_first_and_goes_on_from_it(phantoms, split, home, tiny_run):
    recipe = small("A-tuned", dense=(8, 6, 5), epochs=1, learning_rate=1e-9)
    run = runs.find_or_train(recipe, phantoms, split, training.train, weights=WEIGHTS, start=tiny_run, runs=home)
    assert run.info["start"] == tiny_run.name
    assert run.info["copied"] == ["batch_norm", "dense_1"]
    first, second = (one.model().get_layer("base").get_weights() for one in (tiny_run, run))
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(first, second, strict=True))


def test_the_same_seed_gives_the_same(phantoms, split, tiny_run, tmp_path):
    again = runs.find_or_train(small(), phantoms, split, training.train, weights=WEIGHTS, runs=tmp_path)
    tables = [one.predictions[runs.PROBABILITIES] for one in (tiny_run, again)]
    np.testing.assert_allclose(*tables, atol=1e-5)
    assert again.name == tiny_run.name and again.folder != tiny_run.folder


def test_paper_b_with_its_views(phantoms, home, tiny):
    split = splits.paper_b(phantoms)
    recipe = small("B-frozen", views=2, epochs=3)
    run = runs.find_or_train(recipe, phantoms, split, training.train, weights=WEIGHTS, runs=home)
    assert run.info["steps_per_epoch"] == -(-run.info["split"]["files"]["train"] // 8)
    assert run.info["overlaps"]["image"] > 0 and set(run.predictions["kind"]) == {"scan", "mask"}
    assert run.info["epoch_kept"] == run.history.loc[run.history["val_accuracy"].idxmax(), "epoch"]
    assert run.summary("validation")["n"] == len(split.part("validation"))


def test_collect_has_one_row_a_run(run, tiny_run, home):
    half = home / ".A-frozen-half-written"
    half.mkdir()
    (half / "run.json").write_text("{", encoding="utf-8")
    try:
        table = runs.collect(home)
    finally:
        (half / "run.json").unlink()
        half.rmdir()
    assert sorted(table["run"]) == sorted(path.parent.name for path in home.glob("A-*/run.json")) + sorted(
        path.parent.name for path in home.glob("B-*/run.json")
    )
    row = table.set_index("run").loc[run.name]
    assert row["test_accuracy"] == pytest.approx(run.summary()["accuracy"])
    assert row["test_accuracy_low"] <= row["test_accuracy"] <= row["test_accuracy_high"]
    assert (row["backbone"], row["split"], row["seed"]) == ("MobileNetV2", "paper A", 0)
    assert runs.collect(home.parent / "none").empty


def test_an_incomplete_folder_is_refused(tiny_run, phantoms, split, tmp_path):
    folder = tmp_path / tiny_run.name
    folder.mkdir()
    (folder / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match=r"is no finished run: history.csv, predictions.csv missing. Name another"):
        runs.open_run(folder)
    with pytest.raises(RunError, match="is no finished run"):  # and nothing is trained to be thrown away
        runs.find_or_train(small(), phantoms, split, must_not_train, weights=WEIGHTS, runs=tmp_path)
    with pytest.raises(RunError, match="run.json, history.csv, predictions.csv missing"):
        runs.open_run(tmp_path / "nowhere")


def test_a_run_by_someone_else_needs_no_model(tmp_path, run):
    for name in ("run.json", "history.csv"):
        (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    table = pd.DataFrame({"file_id": ["a", "b"], "split": "test", "label": ["normal", "benign"]})
    table[runs.PROBABILITIES] = [[0.1, 0.2, 0.7], [0.2, 0.5, 0.3]]
    table.to_csv(tmp_path / "predictions.csv", index=False)
    assert runs.open_run(tmp_path).confusion().tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_auto_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path))
    assert runs.place() == tmp_path / "runs" and runs.place().is_dir()
    assert runs.place(tmp_path / "mine") == tmp_path / "mine"


def test_run_json_is_plain_json(run):
    text = (run.folder / "run.json").read_text(encoding="utf-8")
    assert json.loads(text) == run.info and text.endswith("}\n")
