"""A finished run once more, from its run.json alone."""

import json
import re
from dataclasses import fields
from pathlib import Path

from busilib import data, runs
from busilib.data import catalogue, phantom, splits
from busilib.errors import RunError
from busilib.recipes import Recipe


def repeat(file, dataset=None, weights=None, folder="runs/repeated"):
    """Train the run that a run.json tells of once more; return the new `runs.Run` and a sentence that compares them.

    ``dataset`` is where the scans are, when they are neither phantoms (made again) nor the BUSI of ``busi data get``;
    ``weights`` the file of the weights, when they came from one: run.json names no paths. Scans, split and weights are
    checked by their hashes. What a run started from is trained first. Raises RunError when something does not fit.
    """
    file = Path(file)
    file = file / "run.json" if file.is_dir() else file
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read as a run.json: {error}") from error
    run = _train(told, dataset, weights, folder)
    return run, _compared(told, run)


def _train(told, dataset, weights, folder):
    from busilib.learning import training

    if told["start"] and not told.get("started_from"):
        raise RunError(f"It started from {told['start']}, of which this run.json tells nothing: it is an older one")
    start = _train(told["started_from"], dataset, weights, folder) if told["start"] else None
    recipe, scans = _recipe(told["recipe"]), _scans(told["dataset"], dataset)
    return runs.find_or_train(
        recipe, scans, _split(told, scans), training.train,
        weights=_weights(told["weights"], recipe, weights), seed=told["seed"], start=start, runs=folder,
    )  # fmt: skip


def _recipe(told):
    names = {field.name for field in fields(Recipe)}
    if set(told) != names:
        raise RunError(f"Its recipe has other settings than this version's: {', '.join(sorted(set(told) ^ names))}")
    return Recipe(**told | {"dense": tuple(told["dense"])})


def _scans(told, dataset):
    made = re.match(r"phantom-n(\d+)-seed(\d+)-", told["name"])
    if dataset:
        scans = data.load(dataset)
    elif made:
        scans = catalogue.read(phantom.cached(int(made[1]), int(made[2])))
    elif told["name"] == "busi":
        scans = data.load("busi")
    else:
        raise RunError(f"It was trained on {told['name']!r}: name the folder of these scans (--dataset)")
    if scans.sha256 != told["sha256"]:
        raise RunError(f"The scans of {scans.name} are not those that it was trained on ({told['name']})")
    return scans


def _split(told, scans):
    name, seed = told["split"]["name"], told["seed"]
    clean = re.fullmatch(r"clean, fold (\d+) of (\d+)", name)
    if clean:
        split = splits.clean(scans, int(clean[1]) - 1, int(clean[2]), seed)
    elif name in ("paper A", "paper B"):
        split = splits.make(name[-1], "paper", scans, seed=seed)
    else:
        raise RunError(f"Its split {name!r} is of the lesson's own making: repeat the lesson")
    if split.sha256 != told["split"]["sha256"]:
        raise RunError(f"The split {name!r} drawn with seed {seed} is another one: it was drawn with a seed of its own")
    return split


def _weights(told, recipe, file):
    from busilib.learning import models

    if told["kind"] == "file" and not file:
        raise RunError(f"It needs the file of its weights (--weights). {told['sentence']}")
    found = models.find_weights(file or told["kind"], recipe.backbone, profile="full")
    if found.sha256 != told["sha256"]:
        raise RunError(f"These weights are not those that it started from. {told['sentence']}")
    return found


def _compared(told, run):
    old, new = (info.get("scores", {}).get("test", {}).get("accuracy") for info in (told, run.info))
    key = "Scans, split, settings and code are the same" if told["key"] == run.info["key"] else (
        "The code, the backend or a setting is not the same as then"
    )  # fmt: skip
    before = "unknown" if old is None else f"{old:.4f}"
    return f"{key}. Test accuracy then {before}, now {new:.4f}."
