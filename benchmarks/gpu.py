"""On a GPU, with Keras on JAX: both papers whole, and how near training comes to its bare step.

    make bench ONLY=gpu                  (BUSI_DIR names the real BUSI; without it, phantoms of the same number)

Without a GPU its rows say so. Everything is float32, as on a laptop.
"""

import os
import tempfile
import time
from unittest.mock import patch

import numpy as np
from rows import not_measured, row

NETWORKS = {"ResNet50": 128, "InceptionResNetV2": 150}  # side in pixels in the papers
BATCH, STEPS = 128, 40
TARGETS = {"papers A and B, full protocol": "ours <= 180"}
TARGETS |= {f"{name} {size} px, training": "ratio >= 0.9" for name, size in NETWORKS.items()}


def measure():
    """Return the rows; each says that it was not measured where JAX sees no GPU."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    if gpu() is None:
        return [not_measured(name, "there is no GPU", target) for name, target in TARGETS.items()]
    rows = [papers(), *(training_row(name, size) for name, size in NETWORKS.items())]
    return [one | {"device": gpu()} for one in rows]


def gpu():
    """Return the name of the first GPU that JAX sees, or None."""
    try:
        import jax

        return jax.devices("gpu")[0].device_kind
    except (ImportError, RuntimeError):
        return None


def papers(profile="full", **changes):
    """Train the recipes of both papers with an empty cache; return the row. ``changes``: settings of the recipes."""
    from busilib import data, runs
    from busilib.data import splits
    from busilib.learning import models

    scans, times = data.load(os.environ.get("BUSI_DIR") or "phantom", profile=profile), {}
    # Features that an earlier run left would flatter it.
    with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", BUSILIB_CACHE=folder):
        for paper in "AB":
            start = None
            for name in (f"{paper}-frozen", f"{paper}-tuned"):
                began = time.perf_counter()
                recipe, split = splits.plan(name, scans, profile, **changes)
                weights = None if start else models.find_weights("auto", recipe.backbone, scans.kind)  # no download
                start = runs.find_or_train(recipe, scans, split, weights=weights, start=start, runs=folder)
                times[name] = time.perf_counter() - began
    note = f"{scans.name}: " + ", ".join(f"{name} {value:.0f} s" for name, value in times.items())
    name = "papers A and B, full protocol"
    return row(name, sum(times.values()), "s", target=TARGETS[name], note=f"{note}; compiling and saving included")


def training_row(name, size, batch=BATCH, steps=STEPS):
    """Return the row of a network that is trained as a whole: fit against the bare step."""
    from speed import NONE, fit_and_step

    from busilib import recipes
    from busilib.learning import models

    recipe = recipes.get("A-frozen", backbone=name, image_size=size, unfreeze="all")
    _, network = models.parts(models.build(recipe, NONE), recipe)
    models.compile_for(recipe, network)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch * steps, size, size, 3), dtype=np.uint8)
    whole, bare = fit_and_step(network, pixels, np.eye(3, dtype="float32")[rng.integers(0, 3, len(pixels))], batch, 1)
    note = f"other: train_on_batch on one batch of {batch} that lies on the device"
    title = f"{name} {size} px, training"
    return row(title, whole, "images/s", bare, target=TARGETS.get(title), note=note)
