"""Runs: one trained model = one folder. Written whole or not at all, found again by its key.

runs/<name>/  run.json · history.csv · predictions.csv · model.keras or model.joblib · model_card.md
"""

import hashlib
import json
import os
import platform
import re
import sys
import time
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
from filelock import FileLock

import busilib
from busilib import metrics
from busilib.cache import cache_dir, report, write_file, write_folder
from busilib.errors import RunError
from busilib.recipes import CLASSES, Recipe

PROBABILITIES = [f"p_{name}" for name in CLASSES]


def _code():
    """Hash the code that a result depends on, so that a run of an older version is not taken for today's."""
    root = Path(busilib.__file__).parent
    digest = hashlib.sha256()
    for file in [*sorted((root / "learning").rglob("*.py")), root / "data" / "images.py"]:
        digest.update(file.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


# Read once, when the process starts: what runs is the code of then, whatever is edited meanwhile.
CODE = _code()


@dataclass(frozen=True)
class Trained:
    """What a training function hands over: a model, the epochs, the predictions and what else is worth knowing.

    ``history``: one row an epoch. ``predictions``: one row a file, with file_id, image_id, kind, split, label and
    p_benign, p_malignant, p_normal. ``info`` is added to run.json.
    """

    model: object
    history: pd.DataFrame
    predictions: pd.DataFrame
    info: dict


@dataclass(frozen=True)
class Run:
    """A finished run. Everything is read from its folder, so it may come from anywhere."""

    folder: Path

    @property
    def name(self):
        return self.folder.name

    @cached_property
    def info(self):
        """run.json as a dict."""
        return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))

    @cached_property
    def history(self):
        """One row an epoch (counted from 1): accuracy, loss, val_accuracy, val_loss."""
        return pd.read_csv(self.folder / "history.csv")

    @cached_property
    def predictions(self):
        """One row a file: file_id, image_id, kind, split, label, p_benign, p_malignant, p_normal."""
        return pd.read_csv(self.folder / "predictions.csv")

    def part(self, name="test"):
        """Return the predictions of one part, with the columns ``predicted`` and ``confidence`` added."""
        table = self.predictions[self.predictions["split"] == name].reset_index(drop=True)
        if table.empty:
            raise RunError(f"{self.name} has no predictions for the {name} part")
        probabilities = table[PROBABILITIES].to_numpy()
        predicted = [CLASSES[i] for i in probabilities.argmax(axis=1)]
        return table.assign(predicted=predicted, confidence=probabilities.max(axis=1))

    def confusion(self, name="test"):
        """Return the confusion matrix (3, 3) of one part: truth in rows, prediction in columns, class order."""
        return _confusion(self.part(name))

    def summary(self, name="test"):
        """Return the scores of one part with their intervals: see `metrics.summary`."""
        return metrics.summary(self.confusion(name))

    @property
    def card(self):
        """The model card, in Markdown."""
        return (self.folder / "model_card.md").read_text(encoding="utf-8")

    def model(self):
        """Load the model, whose ``predict`` takes uint8 (N, size, size, 3) and gives probabilities (N, 3).

        A model.joblib, of scikit-learn, runs code when it is loaded: open only your own. Raises RunError when the
        folder has no model, as a sweep may leave it.
        """
        if (self.folder / "model.joblib").is_file():
            import joblib

            return joblib.load(self.folder / "model.joblib")
        if not (self.folder / "model.keras").is_file():
            raise RunError(f"{self.name} has neither model.keras nor model.joblib: its model was not kept")
        import keras

        return keras.models.load_model(self.folder / "model.keras", compile=False)


def _confusion(table):
    codes = {label: i for i, label in enumerate(CLASSES)}
    return metrics.confusion_matrix(table["label"].map(codes), table[PROBABILITIES].to_numpy().argmax(axis=1))


def open_run(folder):
    """Return the Run in ``folder``; raise RunError when the folder is not a finished run."""
    folder = Path(folder)
    missing = [name for name in ("run.json", "history.csv", "predictions.csv") if not (folder / name).is_file()]
    if missing:
        raise RunError(f"{folder} is no finished run: {', '.join(missing)} missing. Name another, or delete it.")
    return Run(folder)


def place(runs="auto"):
    """Return the folder where runs are kept: the user cache's for "auto", else the one that is named."""
    folder = cache_dir("runs") if runs == "auto" else Path(runs).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def find_or_train(recipe, scans, split, train, *, weights, seed=0, start=None, runs="auto"):
    """Return the Run of a recipe: a finished one with the same key, else it is trained now, under a file lock.

    ``train(recipe, split, weights=, seed=, start=)`` returns a `Trained` (busilib.learning.training.train does).
    ``scans`` is the catalogue that ``split`` was made from; ``start`` the Run whose model this one goes on from.
    The key covers the recipe, weights, seed, data, split, backend, ``start`` and the code of busilib.learning.
    """
    key = _key(recipe, scans, split, weights, seed, start)
    name = f"{recipe.name}-{key[:12]}"
    folder = place(runs) / name
    with FileLock(place(runs) / f".{name}.lock"):
        if not folder.is_dir():
            began = time.perf_counter()
            trained = train(recipe, split, weights=weights, seed=seed, start=start)
            info = _info(recipe, scans, split, weights, seed, start, key) | trained.info
            info |= {"seconds": round(time.perf_counter() - began, 1), "peak_memory_mb": _peak_memory()}
            write(folder, trained, info)
    report(run=name)
    return open_run(folder)


def write(folder, trained, info):
    """Write a run folder: in a temporary folder first, renamed when complete."""
    table = trained.predictions
    scores = {part: metrics.summary(_confusion(table[table["split"] == part])) for part in table["split"].unique()}
    info = info | {"scores": scores}  # so that a thousand runs are read in a second; predictions.csv has the last word
    with write_folder(folder) as working:
        (working / "run.json").write_text(json.dumps(info, indent=1, default=str) + "\n", encoding="utf-8")
        trained.history.to_csv(working / "history.csv", index=False)
        trained.predictions.to_csv(working / "predictions.csv", index=False)
        _save(trained.model, working)
        (working / "model_card.md").write_text(card(Run(working)), encoding="utf-8")


def _save(model, folder):
    if hasattr(model, "save"):  # Keras
        model.save(folder / "model.keras")
    else:
        import joblib

        joblib.dump(model, folder / "model.joblib")


def card(run):
    """Return the model card of a run: what it is, on what it was trained, how well it does, what it is not for."""
    info, recipe = run.info, run.info["recipe"]
    overlaps = [f"{kind}: {count}" for kind, count in info["overlaps"].items() if count] or ["none"]
    test = run.summary("test")
    table = metrics.per_class(run.confusion("test"), CLASSES)
    tested = run.part("test")
    answers = tested["label"].map(CLASSES.index), tested[PROBABILITIES].to_numpy()
    scores, error = metrics.probability_scores(*answers), metrics.calibration_error(*answers)
    rows = [
        f"| {name} | {row.n:.0f} | {row.sensitivity:.2f} [{row.sensitivity_low:.2f}, {row.sensitivity_high:.2f}] "
        f"| {row.specificity:.2f} | {row.precision:.2f} |"
        for name, row in table.iterrows()
    ]
    lines = [
        f"# Model card: {info['recipe']['name']}",
        "",
        "For teaching and research, not for diagnosis.",
        "",
        f"* **{_network(recipe)} {info['weights']['sentence']}",
        f"* **Data**: {info['dataset']['name']}, split {info['split']['name']} "
        f"({', '.join(f'{part} {n}' for part, n in info['split']['files'].items())} files).",
        f"* **Declared overlaps between the parts**: {'; '.join(overlaps)}.",
        f"* **Test accuracy**: {metrics.text(test)}.",
        f"* **Balanced accuracy** {scores['balanced_accuracy']:.2f}, **macro F1** {scores['macro_f1']:.2f}, **AUC** "
        f"{scores['auc']:.2f} (mean over the classes, each against the rest); expected calibration error {error:.2f}.",
        f"* **Seed** {info['seed']}; {info['backend']} on {info['device']}{_precision(info)}; {info['date']}.",
        "",
        "| class | n | sensitivity [95 %] | specificity | precision |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "One data set, from one hospital or made up; no patient identifiers; nothing is known about other scanners.",
        "",
    ]
    return "\n".join(lines)


def _precision(info):
    precision = info.get("computing", {}).get("precision", "float32")
    return "" if precision == "float32" else f", trained in {precision}"


def _network(recipe):
    if "unfreeze" in recipe:  # a recipe of the two papers
        return (
            f"Network**: {recipe['backbone']}, {recipe['image_size']} px, preprocessing {recipe['preprocessing']}, "
            f"unfrozen: {recipe['unfreeze']}."
        )
    settings = [f"{name} {value}" for name, value in recipe.items() if name not in ("name", "title")]
    return f"System**: {recipe['title']}: {', '.join(settings)}."


def collect(runs="auto"):
    """Return one row a finished run, as a table sorted by folder: its settings, scores and costs.

    ``runs`` is a folder of runs or of a sweep. Columns: ``run``; the recipe's settings; ``dataset``, ``protocol``,
    ``fold`` and ``train`` (how many files); ``seed``, ``weights``, ``backend``, ``device``, ``seconds``, ``date``;
    ``test_…`` and ``validation_…`` for every score of `metrics.summary`; of a sweep also ``execution``, ``lesson`` and
    the lesson's parameters in capitals. ``validation_is_test`` marks the protocols that validate on the test part.
    A run that several executions made counts once.
    """
    table = pd.DataFrame([row(file.parent) for file in files(place(runs), "run.json")])
    return table.drop_duplicates("run", ignore_index=True) if len(table) else table


def files(folder, name):
    """Return the files of that name (or pattern) in all run folders of a folder of runs, or of a sweep, sorted."""
    return sorted([*Path(folder).glob(f"[!.]*/{name}"), *Path(folder).glob(f"[!.]*/runs/[!.]*/{name}")])


def row(folder):
    """Return the row of `collect` for one run folder, as a dict."""
    run = Run(Path(folder))
    info, recipe = run.info, {key: value for key, value in run.info["recipe"].items() if key != "dense"}
    named = re.fullmatch(r"(clean), fold (\d+) of \d+(.*)|(paper) [AB](.*)", info["split"]["name"])
    fold = int(named[2]) - 1 if named and named[2] else 0
    # A table's cell holds no list: widths as "256-128". Comparators have no such setting.
    found = {"run": run.name} | recipe | {"dense": "-".join(map(str, info["recipe"].get("dense", ())))}
    found |= {
        "dataset": info["dataset"]["name"],
        # Another seed makes other phantoms; they are of one kind all the same.
        "dataset_kind": re.sub(r"-seed\d+", "", info["dataset"]["name"]),
        "split": info["split"]["name"],
        "protocol": "".join(part or "" for part in named.group(1, 3, 4, 5)) if named else info["split"]["name"],
        "fold": fold,
        "train": info["split"]["files"]["train"],
        "weights": info["weights"]["kind"],
    }
    found |= {key: info[key] for key in ("seed", "backend", "device", "seconds", "date")}
    validated_on_test = "validation = test" in info["declared"]
    for part, source in (("test", "test"), ("validation", "test" if validated_on_test else "validation")):
        scores = info.get("scores", {}).get(source) or run.summary(source)
        found |= {f"{part}_{name}": value for name, value in scores.items()}
    return found | {"validation_is_test": validated_on_test} | _execution(run.folder.parent.parent / "execution.json")


def _execution(file):
    """What a sweep knows of the execution that made a run; nothing when there is none."""
    if file.parent.name == "" or not file.is_file():
        return {}
    told = json.loads(file.read_text(encoding="utf-8"))
    own = {name: value for name, value in told["parameters"].items() if name != "RUNS"}
    return {"execution": file.parent.name, "lesson": told["lesson"]} | own


# What makes two runs repetitions of one another when all of it is equal: only their seeds and folds differ.
SETTINGS = [field.name for field in fields(Recipe)] + ["dataset_kind", "protocol", "weights", "backend"]


def means(table, measures=("test_accuracy", "validation_accuracy", "test_macro_f1"), by=None):
    """Return the mean of each measure with its 95 % interval over seeds and folds: one row a setting.

    ``table`` is what `collect` gives. Rows are grouped by all settings, or by the columns ``by``; shown are those that
    differ. Columns: ``runs`` (how many), MEASURE, MEASURE_low, MEASURE_high. The interval is Student's t; folds and
    re-drawn test parts share scans, so their runs are not independent and the interval is somewhat too narrow.
    """
    if table.empty:
        raise RunError("there are no runs to take the mean of")
    keys = list(by) if by else [name for name in SETTINGS if name in table]
    shown = [name for name in keys if by or name == "name" or table[name].nunique(dropna=False) > 1]
    rows = []
    for _, group in table.groupby(keys, dropna=False, sort=True):
        found = {name: group[name].iloc[0] for name in shown} | {"runs": len(group)}
        for measure in measures:
            values = metrics.mean_interval(group[measure])
            found |= dict(zip((measure, f"{measure}_low", f"{measure}_high"), values, strict=True))
        rows.append(found)
    return pd.DataFrame(rows)


def best(table, by="validation_accuracy"):
    """Return the best row of a `collect`ed table by *validation*: choosing by the test score would flatter it.

    Of equals the first. Raises ValueError for a measure of the test part.
    """
    if not by.startswith("validation_"):
        raise ValueError(f"{by!r} is not of the validation part: who chooses by the test part has none left to test on")
    if table.empty:
        raise RunError("there are no runs to choose from")
    return table.loc[table[by].idxmax()]


def write_table(table, folder):
    """Write a `collect`ed table into a folder as runs.parquet and runs.csv; return the two paths."""
    files = [Path(folder) / name for name in ("runs.parquet", "runs.csv")]
    with write_file(files[0]) as temporary:
        table.to_parquet(temporary, index=False)
    with write_file(files[1]) as temporary:
        table.to_csv(temporary, index=False)
    return files


def _key(recipe, scans, split, weights, seed, start):
    parts = {
        "recipe": recipe.as_dict(),
        "weights": weights.sha256 or weights.kind,
        "seed": seed,
        "dataset": scans.sha256,
        "split": split.sha256,
        "declared": split.declared,
        "backend": _backend(),
        "start": start.info["key"] if start else None,
        "code": CODE,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _info(recipe, scans, split, weights, seed, start, key):
    return {
        "key": key,
        "recipe": recipe.as_dict(),
        "seed": seed,
        "start": start.name if start else None,
        "started_from": start.info if start else None,  # whole, so that this file alone tells how to repeat the run
        "dataset": {"name": scans.name, "sha256": scans.sha256},
        "split": {
            "name": split.name,
            "sha256": split.sha256,
            "files": {part: int(n) for part, n in split.table["split"].value_counts().sort_index().items()},
        },
        "declared": list(split.declared),
        "overlaps": split.overlaps,
        "weights": {"kind": weights.kind, "sha256": weights.sha256, "sentence": weights.sentence},
    } | environment()


def environment():
    """Return on what this process computes: a dict of backend, device, versions (name → version) and date."""
    return {
        "backend": _backend(),
        "device": _device(),
        "versions": {name: _version(name) for name in ("keras", "tensorflow", "jax", "numpy", "scikit-learn")}
        | {"python": platform.python_version(), "busi-notebooks": busilib.__version__},
        "date": time.strftime("%Y-%m-%d"),
    }


def _backend():
    import keras

    return keras.backend.backend()


def _device():
    if _backend() == "jax":
        import jax

        accelerators = [d.device_kind for d in jax.devices() if d.platform != "cpu"]
    else:
        import tensorflow

        accelerators = [
            d.name.rsplit("physical_device:", 1)[-1] for d in tensorflow.config.list_physical_devices("GPU")
        ]
    return ", ".join(accelerators) or f"CPU, {os.cpu_count()} cores"


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _peak_memory():
    """Peak memory of this process in MB (10^6 bytes); None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6)
