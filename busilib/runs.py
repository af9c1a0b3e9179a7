"""Runs: one trained model = one folder. Written whole or not at all, and opened again by its key.

RUNS/<name>/  run.json · history.csv · predictions.csv · the model · model_card.md
RUNS/bases/   frozen bases that no name finds again (of a file, or drawn at random), each stored once

The model is head.keras where the base is frozen, model.keras where it is trained as well, else model.joblib.
What was measured on the real BUSI comes with the package: `stored` and `stored_table`.
"""

import ast
import hashlib
import json
import os
import platform
import sys
import time
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files as package_files
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from filelock import FileLock

import busilib
from busilib import metrics
from busilib.cache import cache_dir, write_file, write_folder
from busilib.errors import RunError
from busilib.recipes import CLASSES, PROBABILITIES, Recipe


def _code(*names):
    """Return a hash of what files of this package do: their comments and docstrings do not count."""
    trees = [ast.parse((Path(busilib.__file__).parent / name).read_text(encoding="utf-8")) for name in names]
    for node in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Expr)):
        if isinstance(node.value, ast.Constant):  # a docstring
            node.value = ast.Constant("")
    return hashlib.sha256("".join(map(ast.unparse, trees)).encode()).hexdigest()


# What a result depends on. Read once, when the process starts: what runs is the code of then, whatever is edited later.
_LEARNING = sorted(f"learning/{file.name}" for file in Path(busilib.__file__).parent.glob("learning/*.py"))
_TRAINING = [name for name in _LEARNING if name not in ("learning/comparators.py", "learning/networks.py")]
CODE = {kind: _code("data/images.py", *names) for kind, names in (("recipe", _TRAINING), ("comparator", _LEARNING))}


MODELS = ("head.keras", "model.keras", "model.joblib")  # one of them is in a run's folder
FORMAT = 1  # of run.json: one more when an older library would misread it
KEYS = "key seed start started_from backend device date seconds recipe.name recipe.image_size scores.test dataset.name "
KEYS += "dataset.kind dataset.sha256 weights.kind weights.sha256 weights.sentence split.name split.protocol split.fold "
KEYS += "split.variant split.sha256 split.files split.declared split.overlaps"  # what is read from every run.json
BASE = "bases/{}.weights.h5"  # beside the run folders


@dataclass(frozen=True)
class Run:
    """A finished run. Everything is read from its folder, so it may come from anywhere."""

    folder: Path

    @property
    def name(self):
        """The name of the run's folder."""
        return self.folder.name

    @cached_property
    def info(self):
        """run.json as a dict; raise RunError when it is damaged, or of another version."""
        return read_info(self.folder / "run.json")

    @cached_property
    def history(self):
        """One row per epoch (counted from 1): accuracy, loss, val_accuracy, val_loss."""
        return _read_csv(self.folder / "history.csv", ["epoch"])

    @cached_property
    def predictions(self):
        """One row per file: file_id, image_id, kind, split, label, p_benign, p_malignant, p_normal.

        Raises RunError, with the line, for a row that is missing, doubled, or holds no probabilities.
        """
        file, files = self.folder / "predictions.csv", sum(self.info["split"]["files"].values())
        table = _read_csv(file, ["file_id", "image_id", "kind", "split", "label", *PROBABILITIES])
        values = table[PROBABILITIES].apply(pd.to_numeric, errors="coerce")
        fine = values.ge(-1e-6).all(axis=1) & (values.sum(axis=1) - 1).abs().le(1e-3)
        wrong = {"three probabilities whose sum is 1": ~fine, "one class of ours": ~table.label.isin(CLASSES)}
        wrong |= {"a file that no other line has": table.file_id.duplicated()}
        for what, rows in wrong.items():
            if rows.any():
                raise RunError(f"{file}, line {rows.argmax() + 2}: not {what}. Delete the folder and train anew.")
        if len(table) != files:
            raise RunError(f"{file} has {len(table)} rows for {files} files. Delete the folder and train anew.")
        return table

    def part(self, name="test"):
        """Return the predictions of one set, with the columns ``predicted`` and ``confidence`` added."""
        table = self.predictions[self.predictions["split"] == name].reset_index(drop=True)
        if table.empty:
            raise RunError(f"{self.name} has no predictions for the {name} set")
        probabilities = table[PROBABILITIES].to_numpy()
        predicted = [CLASSES[i] for i in probabilities.argmax(axis=1)]
        return table.assign(predicted=predicted, confidence=probabilities.max(axis=1))

    def confusion(self, name="test"):
        """Return the confusion matrix (3, 3) of one set: truth in rows, prediction in columns, class order."""
        return confusion(self.part(name))

    def summary(self, name="test"):
        """Return the scores of one set with their intervals: see `metrics.summary`."""
        return metrics.summary(self.confusion(name))

    @property
    def card(self):
        """The model card, in Markdown."""
        return (self.folder / "model_card.md").read_text(encoding="utf-8")

    def model(self):
        """Load the model, whose ``predict`` takes uint8 (N, size, size, 3) and gives probabilities (N, 3).

        A model.joblib, of scikit-learn, runs code when it is loaded: open only your own. Raises RunError when the
        folder has no model, as a sweep may leave it, or when its frozen base is another one; WeightsError when that
        cannot be had.
        """
        file = next((self.folder / name for name in MODELS if (self.folder / name).is_file()), None)
        if file is None:
            raise RunError(f"{self.name} has no {', '.join(MODELS)}: its model was not kept")
        if file.suffix == ".joblib":
            return joblib.load(file)
        from busilib.learning import keras, models

        try:
            model = keras.models.load_model(file, compile=False, safe_mode=True)  # no code inside a file is run
        except Exception as error:  # zipfile, h5py and Keras raise many kinds
            raise RunError(f"{file} cannot be loaded: {error}. Delete the folder and train anew.") from error
        if file.stem == "model":
            return model
        recipe, weights = recipe_of(self.info), models.Weights(self.info["weights"]["kind"], "")
        return models.assemble(recipe, weights, _load_base(self, recipe), model)


def _read_csv(file, columns):
    try:
        table = pd.read_csv(file)
        table[columns]  # raises KeyError where one is missing
    except (ValueError, KeyError) as error:
        raise RunError(f"{file} is damaged: {error}. Delete the folder and train anew.") from error
    return table


def confusion(table):
    """Return the confusion matrix (3, 3) of a table of predictions: truth in rows, class order."""
    truth = table["label"].map(CLASSES.index).to_numpy(dtype=int)
    return metrics.confusion_matrix(truth, table[PROBABILITIES].to_numpy().argmax(axis=1), len(CLASSES))


def read_info(file):
    """Return what a run.json (Path) holds, as a dict; raise RunError when it is damaged, or of another version."""
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
        newer, classes = info.get("format", 1) > FORMAT, info.get("classes", list(CLASSES))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RunError(f"{file} is damaged: {error}. Delete the folder, and the run is trained anew.") from error
    if newer:
        raise RunError(f"{file} was written by a newer version of this library. Update it to read this run.")
    if classes != list(CLASSES):
        raise RunError(f"{file} has the classes {classes}, not {list(CLASSES)}: its model cannot be used.")
    inside = {f"{part}.{key}" for part, keys in info.items() if isinstance(keys, dict) for key in keys}
    if lacks := ", ".join(sorted(set(KEYS.split()) - inside - set(info))):
        raise RunError(f"{file} is damaged or old: it lacks {lacks}. Delete the folder and train anew.")
    return info


def open_run(folder):
    """Return the Run in ``folder``; raise RunError when the folder is not a finished run."""
    folder = Path(folder)
    if missing := [name for name in ("run.json", "history.csv", "predictions.csv") if not (folder / name).is_file()]:
        raise RunError(f"{folder} is no finished run: {', '.join(missing)} missing. Name another, or delete it.")
    return Run(folder)


def place(runs="auto"):
    """Return the folder where runs are kept: the user cache's for "auto", else the one that is named."""
    folder = cache_dir("runs") if runs == "auto" else Path(runs).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def find_or_train(recipe, scans, split, *, weights=None, seed=0, start=None, runs="auto"):
    """Return the Run of a recipe: a finished one with the same key, else it is trained now, under a file lock.

    ``recipe`` is a `recipes.Recipe`, or a comparator of `learning.comparators`; ``scans`` the catalogue that ``split``
    was made from. ``start`` is the Run whose model this one goes on from, with the weights that it began with; without
    it ``weights`` is what `models.find_weights` gives. The key covers recipe, weights, seed, data, split, backend,
    Keras' version, ``start`` and the code that trains. Raises RunError when ``weights`` are not those of ``start``.
    """
    weights, info, folder = _planned(recipe, scans, split, weights, seed, start, runs)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            began = time.perf_counter()
            trained = _train(recipe, scans, split, weights, seed, start)
            info |= trained.info | {"seconds": round(time.perf_counter() - began, 1), "peak_memory_mb": _peak_memory()}
            write(folder, trained, info)
    return open_run(folder)


def find(recipe, scans, split, *, weights=None, seed=0, start=None, runs="auto"):
    """Return the finished Run that `find_or_train` would find, None when there is none; the arguments are its own."""
    folder = _planned(recipe, scans, split, weights, seed, start, runs)[-1]
    return open_run(folder) if folder.is_dir() else None


def save(model, history, probabilities, recipe, scans, split, *, weights=None, seed=0, start=None, runs="auto"):
    """Save what was trained by hand as the run that `find_or_train` then finds, and return that Run.

    A model, or a training, that is not the recipe's is saved all the same, as "NAME-edited", and it is printed why: no
    lesson takes it for the paper's. So is a repetition whose answers differ from those of the finished run.

    Args:
        model: uint8 pixels to probabilities, its layers named "preprocessing", "base" and "head". Of a comparator: its
            Keras network, or its fitted classifier, without the frozen base where it has one.
        history: what ``fit`` returned, for the head or for a network that holds it; None for no Keras network.
        probabilities: (N, 3), one row per file of ``split``, in its order and the classes'.
        recipe, scans, split, weights, seed, start, runs: as for `find_or_train`.

    Raises RunError when ``probabilities`` are none, or not what the model says of the first files.
    """
    from busilib.learning import comparators, training

    weights, info, folder = _planned(recipe, scans, split, weights, seed, start, runs)
    probabilities = np.asarray(probabilities, dtype=float)
    if probabilities.shape != (len(split.table), len(CLASSES)):
        raise RunError(f"probabilities are {probabilities.shape}; {split.name} needs ({len(split.table)}, 3)")
    if isinstance(recipe, Recipe):
        edited, trained = training.by_hand(model, history, probabilities, recipe, split, weights)
    else:
        edited, trained = comparators.by_hand(model, history, probabilities, recipe, scans, split, weights, seed)
    if not edited and folder.is_dir():
        then = open_run(folder).predictions[PROBABILITIES]
        difference = (then - trained.predictions[PROBABILITIES]).abs().max(axis=None)
        edited = [f"answers that differ by {difference:.3f} from those of {folder.name}"] if difference > 0.001 else []
    if edited:
        digest = hashlib.sha256(json.dumps([edited, info["key"]]).encode() + trained.predictions.to_csv().encode())
        folder = folder.with_name(f"{recipe.name}-edited-{digest.hexdigest()[:12]}")
        info |= {"edited": edited, "recipe": info["recipe"] | {"name": f"{recipe.name}-edited"}}
        print(f"Saved as {folder.name}, not as {recipe.name}: it has other {'; other '.join(edited)}.")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            write(folder, trained, info | trained.info | {"seconds": None, "peak_memory_mb": _peak_memory()})
    return open_run(folder)


def _planned(recipe, scans, split, weights, seed, start, home):
    """Return the weights of a run, what run.json will hold of it, and its folder, which need not exist."""
    weights = _weights_of(start, weights) if start else weights
    info = _info(recipe, scans, split, weights, seed, start)
    return weights, info, place(home) / f"{recipe.name}-{info['key'][:12]}"


def _train(recipe, scans, split, weights, seed, start):
    from busilib.learning import comparators, training

    if isinstance(recipe, Recipe):
        return training.train(recipe, split, weights=weights, seed=seed, start=start)
    return comparators.train(recipe, split, scans=scans, weights=weights, seed=seed)


def _weights_of(start, weights):
    """Return the weights that a second phase stands on: those that its first phase began with."""
    from busilib.learning.models import Weights

    began = start.info["weights"]
    if weights is not None and (weights.kind, weights.sha256) != (began["kind"], began["sha256"]):
        raise RunError(f"{start.name} began with other weights ({began['sentence']}) Leave weights out.")
    sentence = began["sentence"].partition(" Trained further from ")[0]
    return Weights(began["kind"], f"{sentence} Trained further from {start.name}.", None, began["sha256"])


def write(folder, trained, info):
    """Write a run folder: in a temporary folder first, renamed when complete."""
    table = trained.predictions
    # Scores stand here so that a thousand runs are read in a second; predictions.csv has the last word.
    info = info | {"format": FORMAT, "classes": CLASSES}
    info |= {"scores": {part: metrics.summary(confusion(rows)) for part, rows in table.groupby("split")}}
    with write_folder(folder) as working:
        if info["recipe"].get("unfreeze") == "none":
            trained.model.get_layer("head").save(working / "head.keras")
            info |= {"base": {"sha256": _save_base(trained.model.get_layer("base"), folder.parent, info)}}
        elif hasattr(trained.model, "save"):
            trained.model.save(working / "model.keras")
        elif trained.model is not None:  # what a notebook wrote anew could not be opened elsewhere
            joblib.dump(trained.model, working / "model.joblib")
        (working / "run.json").write_text(json.dumps(info, indent=1, default=str) + "\n", encoding="utf-8")
        trained.history.to_csv(working / "history.csv", index=False)
        table.to_csv(working / "predictions.csv", index=False)
        (working / "model_card.md").write_text(card(Run(working)), encoding="utf-8")


def _save_base(base, home, info):
    """Return the hash of a frozen base; it is stored beside the runs unless the name of its weights finds it again."""
    from busilib.learning import models

    sha256 = models.weights_sha256(base)
    file = home / BASE.format(sha256[:32])
    if (info["start"] or info["weights"]["kind"] in ("file", "none")) and not file.exists():
        file.parent.mkdir(exist_ok=True)
        with write_file(file) as temporary:
            base.save_weights(temporary)
    return sha256


def _load_base(run, recipe):
    """Return the frozen base of a run: from the file beside the runs, by the name of its weights, or drawn again."""
    from busilib.learning import models

    sha256, kind = run.info["base"]["sha256"], run.info["weights"]["kind"]
    file = run.folder.parent / BASE.format(sha256[:32])
    weights = models.find_weights(str(file) if file.exists() or kind == "file" else kind, recipe.backbone)
    base = models.backbone(recipe.backbone, recipe.image_size, weights, run.info["seed"])
    if models.weights_sha256(base) != sha256:
        raise RunError(f"{run.name} was trained on other {kind} weights than those here: copy bases/ with its folder")
    return base


def recipe_of(info):
    """Return the Recipe that a run.json (dict) tells of; raise RunError when this version has other settings."""
    try:
        return Recipe(**info["recipe"] | {"dense": tuple(info["recipe"]["dense"])})
    except (KeyError, TypeError) as error:
        raise RunError(f"Its recipe has other settings than this version's: {error}") from error


def card(run):
    """Return the model card of a run: what it is, on what it was trained, how well it does, what it is not for."""
    info, recipe, tested = run.info, run.info["recipe"], run.part("test")
    answers = tested["label"].map(CLASSES.index).to_numpy(), tested[PROBABILITIES].to_numpy()
    scores, error = metrics.probability_scores(*answers), metrics.calibration_error(*answers)
    settings = ", ".join(f"{name} {value}" for name, value in recipe.items() if name not in ("name", "title"))
    files = ", ".join(f"{part} {n}" for part, n in info["split"]["files"].items())
    overlaps = "; ".join(f"{kind}: {count}" for kind, count in info["split"]["overlaps"].items() if count)
    line = "| {class} | {n:.0f} | {sensitivity:.2f} [{sensitivity_low:.2f}, {sensitivity_high:.2f}] "
    line += "| {specificity:.2f} | {precision:.2f} |"
    classes = metrics.per_class(run.confusion("test"), CLASSES).query("n > 0").reset_index().to_dict("records")
    form = (package_files("busilib") / "tables" / "model_card.md").read_text(encoding="utf-8")
    return form.format(
        title=recipe.get("title", recipe["name"]), settings=settings, info=info, files=files,
        overlaps=overlaps or "none", accuracy=metrics.text(run.summary("test")), scores=scores, error=error,
        classes="\n".join(line.format(**row) for row in classes),
    )  # fmt: skip


# --- many runs -------------------------------------------------------------------------------------------------------


def collect(runs="auto"):
    """Return one row per finished run, as a table sorted by folder: its settings, scores and costs.

    ``runs`` is a folder of runs or of a sweep. Columns: ``run``; the recipe's settings; ``dataset``, ``protocol``,
    ``fold``, ``train`` and ``test`` (numbers of files); ``seed``, ``weights``, ``backend``, ``device``, ``seconds``
    (None: trained by hand), ``date``; ``test_…`` and ``validation_…`` for every score of `metrics.summary`; of a sweep
    also ``execution``, ``lesson`` and the lesson's parameters in capitals. ``validation_is_test`` marks the protocols
    that validate on the test set. A run that several executions made counts once.
    """
    table = pd.DataFrame([row(file.parent) for file in files(place(runs), "run.json")])
    return table.drop_duplicates("run", ignore_index=True) if len(table) else table


def files(folder, name):
    """Return the files of that name (or pattern) in all run folders of a folder of runs, or of a sweep, sorted."""
    return sorted([*Path(folder).glob(f"[!.]*/{name}"), *Path(folder).glob(f"[!.]*/runs/[!.]*/{name}")])


def model_files(folder):
    """Return the saved models of all run folders of a folder of runs, or of a sweep, sorted."""
    return sorted(file for name in MODELS for file in files(folder, name))


def row(folder):
    """Return the row of `collect` for one run folder, as a dict."""
    run = Run(Path(folder))
    info, data, split = run.info, run.info["dataset"], run.info["split"]
    # Another seed makes other phantoms; they are of one kind all the same.
    kind = f"{data['n']} phantoms, version {data['version']}" if data["kind"] == "phantom" else data["name"]
    columns = {"run": run.name} | info["recipe"]
    columns |= {"dense": "-".join(map(str, info["recipe"].get("dense", ())))}  # a table's cell holds no list
    columns |= {"dataset": data["name"], "dataset_kind": kind, "dataset_sha256": data["sha256"]}
    columns |= {"split": split["name"], "split_sha256": split["sha256"], "fold": split["fold"]}
    columns |= {"protocol": ", ".join(filter(None, (split["protocol"], split["variant"])))}
    columns |= {part: split["files"][part] for part in ("train", "test")}
    columns |= {"weights": info["weights"]["kind"]}
    columns |= {key: info[key] for key in ("seed", "backend", "device", "seconds", "date")}
    on_test = "validation = test" in split["declared"]
    for part, source in (("test", "test"), ("validation", "test" if on_test else "validation")):
        columns |= {f"{part}_{name}": value for name, value in info["scores"][source].items()}
    columns |= {"validation_is_test": on_test}
    execution = run.folder.parent.parent / "execution.json"  # of a sweep
    if execution.is_file():
        sweep = json.loads(execution.read_text(encoding="utf-8"))
        columns |= {"execution": execution.parent.name, "lesson": sweep["lesson"], **sweep["parameters"]}
        columns.pop("RUNS", None)
    return columns


# What makes two runs repetitions of one another when all of it is equal: only their seeds and folds differ.
SETTINGS = [field.name for field in fields(Recipe)] + ["dataset_kind", "protocol", "weights", "backend"]


def means(table, measures=("test_accuracy", "validation_accuracy", "test_macro_f1"), by=None):
    """Return the mean of each measure with its 95 % interval over seeds and folds: one row per setting.

    ``table`` is what `collect` gives. Rows are grouped by all settings, or by the columns ``by``; shown are those that
    differ. Columns: ``runs`` (how many), MEASURE, MEASURE_low, MEASURE_high. Where several splits of one data set are
    among the runs the interval is `metrics.corrected_interval`; over weight seeds on one split it is Student's t.
    """
    if table.empty:
        raise RunError("there are no runs to take the mean of")
    keys = list(by) if by else [name for name in SETTINGS if name in table]
    shown = [name for name in keys if by or name == "name" or table[name].nunique(dropna=False) > 1]
    rows = []
    for _, group in table.groupby(keys, dropna=False, sort=True):
        cells = {name: group[name].iloc[0] for name in shown} | {"runs": len(group)}
        resplit = group.groupby("dataset_sha256")["split_sha256"].nunique().max() > 1
        sizes = (group["train"].mean(), group["test"].mean()) if resplit else (1, 0)
        for measure in measures:
            interval = metrics.corrected_interval(group[measure], *sizes)
            cells |= dict(zip((measure, f"{measure}_low", f"{measure}_high"), interval, strict=True))
        rows.append(cells)
    return pd.DataFrame(rows)


def best(table, by="validation_accuracy"):
    """Return the best row of a `collect`ed table by *validation*: choosing by the test score would flatter it.

    Of equals the first. Raises ValueError for a score of the test set.
    """
    if not by.startswith("validation_"):
        raise ValueError(f"{by!r} is no validation score: who chooses by the test set has none left to test on")
    if table.empty:
        raise RunError("there are no runs to choose from")
    return table.loc[table[by].idxmax()]


# --- what run.json holds ---------------------------------------------------------------------------------------------


def _info(recipe, scans, split, weights, seed, start):
    """Return what is known of a run before it is trained; ``key`` is a hash of all that its result depends on."""
    info = {"recipe": recipe.as_dict(), "seed": seed, "dataset": scans.identity(), "split": split.identity()}
    info |= {"weights": {"kind": weights.kind, "sha256": weights.sha256, "sentence": weights.sentence}}
    # The start stands here whole, so that this file alone tells how to repeat the run.
    info |= {"start": start.name if start else None, "started_from": start.info if start else None} | environment()
    settings = [info["recipe"], seed, weights.sha256 or weights.kind, start.info["key"] if start else None]
    images = [scans.sha256, split.sha256, split.declared]
    code = [info["backend"], info["versions"]["keras"], CODE["recipe" if isinstance(recipe, Recipe) else "comparator"]]
    key = hashlib.sha256(json.dumps([settings, images, code], sort_keys=True).encode()).hexdigest()
    return {"key": key} | info


def environment():
    """Return on what this process computes: a dict of backend, device, versions (name → version) and date."""
    import keras

    backend, devices = keras.backend.backend(), keras.distribution.list_devices()
    device = ", ".join(name for name in devices if not name.startswith("cpu")) or f"CPU, {os.cpu_count()} cores"
    versions = {name: version(name) for name in ("keras", "numpy", "scikit-learn", "busi-notebooks")}
    versions |= {backend: import_module(backend).__version__, "python": platform.python_version()}
    return {"backend": backend, "device": device, "versions": versions, "date": time.strftime("%Y-%m-%d")}


def _peak_memory():
    """Return the peak memory of this process in MB (10^6 bytes); None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6)


# --- what comes with the package -------------------------------------------------------------------------------------


def stored_names(folder="results"):
    """Return the names of all stored runs, sorted; of the stored tables with "results/tables"."""
    return sorted(f.name[:-5] for f in (package_files("busilib") / folder).iterdir() if f.name.endswith(".json"))


def stored(name, folder="results"):
    """Return a stored run as a dict; raise RunError, with the names there are, when it does not exist."""
    if name not in stored_names(folder):
        raise RunError(f"There is no stored result {name!r}; there are: {', '.join(stored_names(folder))}")
    return json.loads((package_files("busilib") / folder / f"{name}.json").read_text(encoding="utf-8"))


def stored_table(name):
    """Return the rows of a stored table as a DataFrame, with ``attrs``: on what it was measured, as a dict."""
    content = stored(name, "results/tables")
    table = pd.DataFrame(content["rows"])
    table.attrs = content["about"]
    return table


def sentence(result):
    """Say in a line on what a stored run was measured: data, weights, device, seed, date."""
    text = "Measured on {dataset[name]} ({split[name]}), {recipe[image_size]} px, seed {seed}, {device}, {date}. "
    return text.format(**result) + result["weights"]["sentence"]
