"""repeat: a finished run is trained once more from its run.json alone, or a sentence says why not."""

import json

import pytest

from busilib import recipes, runs
from busilib.data import catalogue, phantom, splits
from busilib.errors import BusiError, RunError
from busilib.learning import comparators, models
from busitools import cli, repeat

RANDOM = models.Weights("none", "Random.")


def small(name, **changes):
    return recipes.get(name, **{"backbone": "Tiny", "image_size": 32, "epochs": 1, "dense": (8,)} | changes)


@pytest.fixture(scope="module")
def scans():
    return catalogue.read(phantom.cached(60, seed=0))


@pytest.fixture(scope="module")
def run_json(tmp_path_factory, tiny, scans):
    """The run.json of a second phase, alone in a folder. Its weights were drawn with another seed than its split."""
    home, run = tmp_path_factory.mktemp("runs"), None
    split = splits.make("A", "clean", scans, fold=1, seed=3)
    for name, changes in (("A-frozen", {}), ("A-tuned", {"dense": (8, 6)})):
        weights = None if run else RANDOM
        run = runs.find_or_train(small(name, **changes), scans, split, weights=weights, seed=5, start=run, runs=home)
    file = tmp_path_factory.mktemp("alone") / "run.json"
    file.write_bytes((run.folder / "run.json").read_bytes())
    return file


def changed(run_json, tmp_path, **changes):
    info = json.loads(run_json.read_text(encoding="utf-8"))
    for key, value in changes.items():
        info[key] = {**info[key], **value} if isinstance(value, dict) else value
    file = tmp_path / "run.json"
    file.write_text(json.dumps(info), encoding="utf-8")
    return file


def test_a_run_is_repeated_from_its_run_json_alone(run_json, tmp_path, capsys):
    before = json.loads(run_json.read_text(encoding="utf-8"))
    assert cli.main(["repeat", str(run_json.parent), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    accuracy = f"{before['scores']['test']['accuracy']:.4f}"
    assert f"code are the same as then. Test accuracy then {accuracy}, now {accuracy}" in out
    again = runs.open_run(out.splitlines()[0])
    assert again.info["key"] == before["key"] and again.folder.parent == tmp_path
    assert sorted(runs.collect(tmp_path)["name"]) == ["A-frozen", "A-tuned"]


@pytest.mark.parametrize("name", ["majority", "logistic", "svm"])
def test_a_comparator_is_repeated(name, scans, tmp_path):
    split, system = splits.make("A", "paper", scans, seed=2), comparators.get(name, "quick")
    weights = models.find_weights("phantom", "ResNet50") if name == "svm" else RANDOM
    before = runs.find_or_train(system, scans, split, weights=weights, seed=4, runs=tmp_path / "before")
    again, sentence = repeat.repeat(before.folder, folder=tmp_path / "again")
    assert again.info["key"] == before.info["key"] and "are the same" in sentence
    assert again.predictions.equals(before.predictions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": {"sha256": "0"}}, "Its scans cannot be had again"),
        ({"dataset": {"kind": "folder", "name": "clinic"}}, "It was trained on 'clinic': name the folder"),
        ({"split": {"sha256": "0"}}, "Its split cannot be had again, .* not the same: clean, fold 2 of 5"),
        ({"split": {"seed": 4}}, "Its split cannot be had again"),
        ({"split": {"sha256": "0", "name": "clean, 25 %"}}, "Its split cannot be had again, .*: clean, 25 %"),
        ({"split": {"protocol": "leaks"}}, "with protocol 'leaks': choose 'A' or 'B'"),
        ({"weights": {"kind": "file"}}, "needs the file of its weights"),
        (
            {"weights": {"kind": "phantom", "sha256": "0", "sentence": "S."}},
            "Its weights cannot be had again, .* not the same: S.",
        ),
        ({"recipe": {"colour": 1}}, "has other settings than this version's: .*colour"),
        ({"dataset": None}, "it lacks dataset.kind, dataset.name, dataset.sha256"),
    ],
)
def test_what_does_not_fit_is_refused(run_json, tmp_path, changes, message):
    alone = {"start": None, "started_from": None}  # so that nothing is trained
    changes = changes | ({"recipe": {"backbone": "ResNet50"}} if "weights" in changes else {})
    with pytest.raises((BusiError, ValueError), match=message):
        repeat.repeat(changed(run_json, tmp_path, **changes | alone), folder=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_run_json_of_an_older_version_is_refused(run_json, tmp_path):
    info = json.loads(run_json.read_text(encoding="utf-8"))
    del info["split"]["paper"]
    (tmp_path / "run.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(RunError, match="Another version wrote this run.json"):
        repeat.repeat(tmp_path)


def test_a_file_that_is_no_run_json_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match="is damaged"):
        repeat.repeat(tmp_path)
