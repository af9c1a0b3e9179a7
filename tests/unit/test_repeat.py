"""repeat: a finished run is trained once more from its run.json alone, or a sentence says why not."""

import json

import pytest

from busilib import recipes, runs
from busilib.data import catalogue, phantom, splits
from busilib.errors import RunError
from busilib.learning import models, training
from busitools import cli
from busitools import repeat as again


def small(name, **changes):
    return recipes.get(name, **{"backbone": "Tiny", "image_size": 32, "epochs": 2, "dense": (8,)} | changes)


@pytest.fixture(scope="module")
def told(tmp_path_factory, tiny):
    """The run.json of a second phase, alone in a folder, and what its test accuracy was."""
    home, scans = tmp_path_factory.mktemp("runs"), catalogue.read(phantom.cached(60, seed=0))
    split, weights, run = splits.make("A", "clean", scans, fold=1, seed=3), models.Weights("none", "Random."), None
    for name, changes in (("A-frozen", {}), ("A-tuned", {"dense": (8, 6)})):
        run = runs.find_or_train(
            small(name, **changes), scans, split, training.train, weights=weights, seed=3, start=run, runs=home
        )
    file = tmp_path_factory.mktemp("alone") / "run.json"
    file.write_bytes((run.folder / "run.json").read_bytes())
    return file


def changed(told, tmp_path, **changes):
    info = json.loads(told.read_text(encoding="utf-8"))
    for key, value in changes.items():
        info[key] = {**info[key], **value} if isinstance(value, dict) else value
    file = tmp_path / "run.json"
    file.write_text(json.dumps(info), encoding="utf-8")
    return file


def test_a_run_is_repeated_from_its_run_json_alone(told, tmp_path):
    before = json.loads(told.read_text(encoding="utf-8"))
    run, sentence = again.repeat(told, folder=tmp_path)
    assert run.info["key"] == before["key"] and run.folder.parent == tmp_path
    assert sorted(runs.collect(tmp_path)["name"]) == ["A-frozen", "A-tuned"]
    assert run.info["scores"]["test"]["accuracy"] == pytest.approx(before["scores"]["test"]["accuracy"])
    assert "are the same" in sentence and f"then {before['scores']['test']['accuracy']:.4f}" in sentence


def test_repeat_on_the_command_line(told, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(again, "_train", lambda info, dataset, weights, folder: runs.Run(told.parent))
    assert cli.main(["repeat", str(told.parent), "--out", str(tmp_path)]) == 0
    assert "Scans, split, settings and code are the same. Test accuracy then" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": {"sha256": "0"}}, "are not those that it was trained on"),
        ({"dataset": {"name": "clinic"}}, "It was trained on 'clinic': name the folder"),
        ({"split": {"sha256": "0"}}, "drawn with seed 3 is another one"),
        ({"split": {"name": "clean, fold 2 of 5, 25%"}}, "is of the lesson's own making: repeat the lesson"),
        ({"weights": {"kind": "file"}}, "needs the file of its weights"),
        ({"weights": {"sha256": "0"}}, "These weights are not those"),
        ({"recipe": {"colour": 1}}, "has other settings than this version's: colour"),
        ({"started_from": None}, "of which this run.json tells nothing"),
    ],
)
def test_what_does_not_fit_is_refused(told, tmp_path, changes, message):
    first = {"start": None} if "started_from" not in changes else {}  # alone, so that nothing is trained
    with pytest.raises(RunError, match=message):
        again.repeat(changed(told, tmp_path, **changes | first), folder=tmp_path / "runs")
    assert not (tmp_path / "runs").exists() or not runs.collect(tmp_path / "runs").size


def test_a_file_that_is_no_run_json_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match="cannot be read as a run.json"):
        again.repeat(tmp_path)
