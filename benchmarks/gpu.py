"""On a GPU: both papers whole, and how near training comes to its bare step.

    KERAS_BACKEND=jax make bench ONLY=gpu        (BUSI_DIR names the real BUSI; without it, phantoms of the same number)

Without a GPU that Keras' backend sees its rows say so. Everything is float32, as on a laptop.
"""

import os
import tempfile
import time
from unittest.mock import patch

import numpy as np
from rows import not_measured, row
from speed import NONE, fit_and_step

from busilib import data, recipes, runs
from busilib.data import splits
from busilib.learning import models

NETWORKS = {"ResNet50": 128, "InceptionResNetV2": 150}  # side in pixels in the papers
BATCH, STEPS = 128, 40
TARGETS = {"papers A and B, full protocol": "ours <= 180"}
TARGETS |= {f"{name} {size} px, training": "ratio >= 0.9" for name, size in NETWORKS.items()}


def measure():
    """Return the rows; each says that it was not measured where there is no GPU."""
    device = runs.environment()["device"]
    if device.startswith("CPU"):
        return [not_measured(name, "there is no GPU", target) for name, target in TARGETS.items()]
    rows = [papers(), *(training_row(name, size) for name, size in NETWORKS.items())]
    return [one | {"device": device} for one in rows]


def papers(profile="full", **changes):
    """Train the recipes of both papers with an empty cache; return the row. ``changes``: settings of the recipes."""
    scans, times = data.load(os.environ.get("BUSI_DIR") or "phantom", profile=profile), {}
    # Features that an earlier run left would flatter it.
    with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", BUSILIB_CACHE=folder):
        start = None
        for name in ("A-frozen", "A-tuned", "B-frozen", "B-tuned"):
            began, start = time.perf_counter(), start if name.endswith("tuned") else None
            recipe, split = splits.plan(name, scans, profile, **changes)
            weights = None if start else models.find_weights("auto", recipe.backbone, scans.kind)  # no download
            start = runs.find_or_train(recipe, scans, split, weights=weights, start=start, runs=folder)
            times[name] = time.perf_counter() - began
    note = f"{scans.name}: " + ", ".join(f"{name} {value:.0f} s" for name, value in times.items())
    name = "papers A and B, full protocol"
    return row(name, sum(times.values()), "s", target=TARGETS[name], note=f"{note}; compiling and saving included")


def training_row(name, size, batch=BATCH, steps=STEPS):
    """Return the row of a network that is trained as a whole: fit against the bare step."""
    recipe = recipes.get("A-frozen", backbone=name, image_size=size, unfreeze="all")
    _, network = models.parts(models.build(recipe, NONE), recipe)
    models.compile_for(recipe, network)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch * steps, size, size, 3), dtype=np.uint8)
    labels = np.eye(3, dtype="float32")[rng.integers(0, 3, len(pixels))]
    whole, bare = fit_and_step(network, pixels, labels, batch, epochs=1)
    title, note = f"{name} {size} px, training", f"other: the step on one batch of {batch} that lies on the device"
    return row(title, whole, "images/s", bare, target=TARGETS.get(title), note=note)
