"""Every system that the two papers compare themselves with, and three baselines, behind one interface.

system = comparators.get("capsule", PROFILE)             # its settings
run = comparators.run(system, scans, split, seed=SEED)   # fitted, tested, and kept as a run folder

By hand it is ``system.fit(train, validation)``, then ``system.predict(pixels)``: see `base.Comparator`. Each class
says where its system comes from, what is known of it and what was chosen here.
"""

from dataclasses import fields, replace
from functools import partial

import numpy as np

from busilib import runs as _runs
from busilib.data import images, splits
from busilib.learning import models
from busilib.learning.comparators.base import Images, check_classes, check_folds, check_probabilities, measure
from busilib.learning.comparators.baselines import Logistic, Majority, NearestNeighbour
from busilib.learning.comparators.capsule import Capsules
from busilib.learning.comparators.cells import Cells
from busilib.learning.comparators.ensemble import Ensemble
from busilib.learning.comparators.forest import ShapeForest, TextureForest
from busilib.learning.comparators.frozen import Bcdnet, Frozen, InceptionSoftmax, Svm
from busilib.learning.comparators.lenet import LeNet
from busilib.recipes import CLASSES

BASELINES = (Majority, NearestNeighbour, Logistic)
PUBLISHED = (Svm, TextureForest, Capsules, Bcdnet, Ensemble, Cells, LeNet, InceptionSoftmax)
SYSTEMS = {kind.name: kind for kind in (*BASELINES, *PUBLISHED, ShapeForest)}

# What the quick profile makes smaller. "full" leaves the values that stand in each class.
QUICK = {
    "svm": {"image_size": 64},
    "bcdnet": {"image_size": 64},
    "inception": {"image_size": 75, "epochs": 30},
    "forest": {"image_size": 64, "trees": 200},
    "shape": {"trees": 200},
    "capsule": {"image_size": 48, "epochs": 12},
    "enas": {"image_size": 48, "epochs": 10, "stack": "NRN", "width": 12},
    "lenet": {"image_size": 48, "epochs": 15},
    "ensemble": {"image_size": 48, "epochs": 12, "folds": 2},
}


def get(name, profile="quick", **changes):
    """Return a system that has not learned anything yet, with a profile's settings; ``changes`` replace single ones.

    Raises ValueError for a name, profile or setting that does not exist.
    """
    if name not in SYSTEMS:
        raise ValueError(f"system {name!r} does not exist; choose one of: {', '.join(SYSTEMS)}")
    if profile not in ("quick", "full"):
        raise ValueError(f"PROFILE {profile!r} does not exist; choose one of: quick, full")
    known = [field.name for field in fields(SYSTEMS[name])]
    for change in changes:
        if change not in known:
            raise ValueError(f"{name} has no setting {change!r}; choose one of: {', '.join(known)}")
    return SYSTEMS[name](**(QUICK.get(name, {}) if profile == "quick" else {}) | changes)


def folds(scans, count=5, seed=0, protocol="clean"):
    """Return the splits of a grouped, stratified cross-validation: each scan is tested in just one of them.

    ``protocol="paper"`` gives paper A's single split instead, whose test part is its validation part as well. Raises
    SplitError when a class has fewer images (near-identical ones counted once) than there are folds, or when a part of
    a fold is without one of the classes.
    """
    if protocol == "paper":
        return [splits.paper_a(scans, seed)]
    table = scans.table
    check_folds(table["label"].map(CLASSES.index), table["group"], count)
    made = [splits.clean(scans, fold, count, seed) for fold in range(count)]
    for split in made:
        check_parts(split)
    return made


def check_parts(split):
    """Raise SplitError when a part of a split is without one of the classes."""
    for part in splits.PARTS:
        check_classes(split.part(part)["label"].map(CLASSES.index), f"{split.name}: the {part} part")


def run(system, scans, split, *, weights="auto", profile="quick", seed=0, runs="auto"):
    """Return the Run of a system on a split: a finished one with the same key, else it is trained now.

    ``weights`` is for systems with a frozen base: "auto", "imagenet", "phantom", "none" or a file, as in
    `models.find_weights`.
    """
    found = models.Weights("none", "No pretrained weights: all is learned here.")
    if isinstance(system, Frozen):
        found = models.find_weights(weights, system.backbone, scans.name, profile)
    return _runs.find_or_train(system, scans, split, partial(train, scans=scans), weights=found, seed=seed, runs=runs)


def train(system, split, *, scans, weights, seed=0, start=None):
    """Fit a system on a split and return a `busilib.runs.Trained`, with the costs of fitting in its info.

    ``system`` itself stays as it is. Raises SplitError when a part is without a class, RunError when what the system
    says is no probability.
    """
    check_parts(split)
    pixels = _pixels(system, split, scans)
    table = split.table[["file_id", "image_id", "kind", "split", "label"]].reset_index(drop=True)
    everything = Images(pixels, table["label"].map(CLASSES.index).to_numpy(), split.table["group"].to_numpy())
    known = []
    for part in ("train", "validation"):
        rows = table["file_id"].isin(split.part(part)["file_id"]).to_numpy()
        known.append(Images(*(values[rows] for values in everything)))
    learner = replace(system)
    with measure() as cost:
        history = learner.fit(*known, weights=weights, seed=seed)
    said = check_probabilities(learner.predict(pixels), len(pixels), f"{system.title} ({split.name})")
    table[_runs.PROBABILITIES] = said.round(6)
    count, learned = learner.parameters()
    info = {"epochs_run": len(history), "parameters": int(count), "parameters_trained": int(learned)}
    return _runs.Trained(learner.fitted, history, table, info | {f"fit_{name}": value for name, value in cost.items()})


def _pixels(system, split, scans):
    """Return what the system looks at: uint8 (N, size, size, 3), one a row of the split."""
    if system.reads == "scan":
        return images.load(split.table["path"], system.image_size)
    paths = scans.table.set_index("image_id")["mask_paths"]
    masks = [images.small_mask(paths[name], system.image_size) for name in split.table["image_id"]]
    return np.repeat(np.stack(masks)[..., None].astype(np.uint8) * 255, 3, axis=-1)
