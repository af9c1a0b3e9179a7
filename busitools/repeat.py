"""A finished run once more, from its run.json alone."""

from pathlib import Path

from busilib import data, runs
from busilib.data import phantom, splits
from busilib.errors import RunError
from busilib.learning import comparators, models
from busilib.recipes import PAPERS


def repeat(file, dataset=None, weights=None, folder="runs/repeated"):
    """Train the run of a run.json once more; return the new `runs.Run` and a sentence that compares them.

    Scans, split and weights are checked by their hashes. What a run started from is trained first.

    Args:
        file: the run.json, or the folder that holds it.
        dataset: where the scans are, when they are neither phantoms (made again) nor the BUSI of ``busi data get``:
            run.json names no paths.
        weights: the file of the weights, when they came from one.
        folder: where the new run goes.

    Raises:
        RunError: something does not fit, or an older version wrote the run.json.
    """
    file = Path(file) / "run.json" if Path(file).is_dir() else Path(file)
    info = runs.read_info(file)
    run = _train(info, dataset, weights, folder)
    then, now = (one.get("scores", {}).get("test", {}).get("accuracy", float("nan")) for one in (info, run.info))
    same = "the same as then" if info["key"] == run.info["key"] else "not all the same as then"
    return run, f"Scans, split, settings and code are {same}. Test accuracy then {then:.4f}, now {now:.4f}."


def _train(info, dataset, file, folder):
    if info.get("edited"):
        raise RunError(f"It was trained by hand, with other {', '.join(info['edited'])}: run.json does not hold how")
    try:
        recipe = runs.recipe_of(info) if info["recipe"]["name"] in PAPERS else comparators.get(**info["recipe"])
        scans, first, seed = _scans(info["dataset"], dataset), info["started_from"], info["seed"]
        split, given = _split(info["split"], scans), info["weights"]
    except (KeyError, TypeError) as error:
        raise RunError(f"Another version wrote this run.json, and this one cannot repeat it: {error}") from error
    # A second phase stands on the weights of its first.
    start = _train(first, dataset, file, folder) if first else None
    weights = None if start else _weights(given, recipe, file)
    return runs.find_or_train(recipe, scans, split, weights=weights, seed=seed, start=start, runs=folder)


def _scans(identity, dataset):
    if not dataset and identity["kind"] == "folder":
        raise RunError(f"It was trained on {identity['name']!r}: name the folder of these scans (--dataset)")
    if not dataset and identity["kind"] == "phantom":
        dataset = phantom.cached(identity["n"], identity["seed"], identity.get("scanner", "first"))
    return _same("scans", data.load(dataset or "busi"), identity)


def _split(identity, scans):
    fold, folds, seed = identity["fold"], identity["folds"], identity["seed"]
    return _same("split", splits.make(identity["paper"], identity["protocol"], scans, fold, folds, seed), identity)


def _weights(identity, recipe, file):
    if identity["kind"] == "none":
        return models.Weights("none", identity["sentence"])
    if identity["kind"] == "file" and not file:
        raise RunError(f"It needs the file of its weights (--weights). {identity['sentence']}")
    backbone = recipe.settings["backbone"] if isinstance(recipe, comparators.System) else recipe.backbone
    return _same("weights", models.find_weights(file or identity["kind"], backbone, profile="full"), identity)


def _same(what, thing, identity):
    if thing.sha256 != identity["sha256"]:
        name = identity.get("name") or identity["sentence"]
        raise RunError(f"Its {what} cannot be had again, for what there is now is not the same: {name}")
    return thing
