"""TensorFlow and JAX: the same weights give the same probabilities, the same study the same accuracy.

    python benchmarks/backends.py TASK FOLDER      one task by itself, on the backend that KERAS_BACKEND names

Each backend runs in a process of its own. With the same weights only rounding may differ. The study trains paper A's
first phase with the quick profile on five folds of 600 phantoms, three times; each backend draws its own numbers from
the same seeds (random weights too, where there are no others), so there the means are compared.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from rows import row

BACKENDS = ("tensorflow", "jax")
NETWORKS = {"ResNet50": 64, "InceptionResNetV2": 75}  # pixels per side with the quick profile
SCANS = 64
SEEDS = 3


def measure():
    """Return the rows: per network the largest difference of probabilities; the difference of the mean accuracies."""
    rows = []
    for name, apart in differences(NETWORKS, SCANS).items():
        note = f"largest difference of {SCANS} phantoms' probabilities, which vary by {apart['spread']:.2f} themselves"
        rows.append(row(f"probabilities, {name}", apart["largest"], "1", target="ours <= 0.001", note=note))
    means = {}
    for backend in BACKENDS:
        with tempfile.TemporaryDirectory() as folder:
            means[backend] = 100 * np.mean(json.loads(_child(backend, "accuracies", folder)))
    note = f"{SEEDS} seeds × 5 folds: " + ", ".join(f"{name} {mean:.1f} %" for name, mean in means.items())
    points = abs(means["tensorflow"] - means["jax"])
    return [*rows, row("mean accuracy", points, "points", target="ours <= 5", note=note)]


def differences(networks, scans):
    """Return for each network (name → pixels per side) what the backends make of the same weights and phantoms.

    TensorFlow writes model.keras, both read it. A dict name → {"largest": the largest difference of a probability,
    "spread": the standard deviation of a class's probability over the scans, the largest of the three}.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "task.json").write_text(json.dumps({"networks": networks, "scans": scans}))
        _child("tensorflow", "write", folder)
        _child("jax", "probabilities", folder)
        apart = {}
        for name in networks:
            ours, theirs = (np.load(Path(folder, f"{name}-{backend}.npy")) for backend in BACKENDS)
            apart[name] = {"largest": float(abs(ours - theirs).max()), "spread": float(ours.std(axis=0).max())}
        return apart


def write(folder):
    """Write NAME.keras and its pixels for each network that task.json names, and what this backend makes of them."""
    from busilib import recipes
    from busilib.data import catalogue, images, phantom
    from busilib.learning import keras, models, training

    task = json.loads((folder / "task.json").read_text())
    scans = catalogue.read(phantom.cached(task["scans"], seed=0)).table
    answers = keras.utils.to_categorical([recipes.CLASSES.index(label) for label in scans["label"]], 3)
    for name, size in task["networks"].items():
        recipe = recipes.get("A-frozen", backbone=name, image_size=size)
        model = models.build(recipe, models.find_weights("auto", name))
        pixels = images.load(scans["path"], size)
        # A head that has learned nothing gives every scan nearly the same answer, and then all backends agree.
        frozen, head = models.parts(model, recipe)
        head.compile("adam", "categorical_crossentropy")
        head.fit(training.predict(frozen, pixels), answers, epochs=40, batch_size=8, verbose=0)
        model.save(folder / f"{name}.keras")
        np.save(folder / f"{name}-pixels.npy", pixels)
    probabilities(folder)


def probabilities(folder):
    """Write NAME-BACKEND.npy, the probabilities (N, 3), for each network that task.json names."""
    from busilib.learning import keras

    for name in json.loads((folder / "task.json").read_text())["networks"]:
        model = keras.models.load_model(folder / f"{name}.keras", compile=False)
        answers = model.predict(np.load(folder / f"{name}-pixels.npy"), batch_size=16, verbose=0)
        np.save(folder / f"{name}-{keras.backend.backend()}.npy", answers)


def accuracies(folder):
    """Print the accuracy of the clean protocol's pooled test folds for each seed, as a JSON list."""
    from busilib import data, recipes, studies
    from busilib.data import splits
    from busilib.learning import models, training

    scans, recipe = data.load("phantom"), recipes.study("quick", "clean")
    weights = models.find_weights("auto", recipe.backbone)

    def answers(seed, fold):
        return training.train_head(recipe, splits.clean(scans, fold, seed=seed), weights=weights, seed=seed)[1]

    tables = [pd.concat([answers(seed, fold) for fold in range(5)]) for seed in range(SEEDS)]
    print(json.dumps([studies.accuracy(table) for table in tables]))


TASKS = {task.__name__: task for task in (write, probabilities, accuracies)}


def _child(backend, task, folder):
    """Do a task on a backend in a process of its own; return what it printed."""
    env = os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "BUSILIB_PROGRESS": "0"}
    done = subprocess.run([sys.executable, __file__, task, str(folder)], env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{task} on {backend} failed: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    TASKS[sys.argv[1]](Path(sys.argv[2]))
