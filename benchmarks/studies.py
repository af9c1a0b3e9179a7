"""Lessons 07, 08 and 10 on the real BUSI, many seeds; with --store their tables go into busilib/results.

    python benchmarks/studies.py leaks  BUSI --backbone ResNet50 --weights FILE [--seeds 10] [--store]
    python benchmarks/studies.py inputs BUSI …      scans against masks on paper A's split
    python benchmarks/studies.py clean  BUSI …      the clean protocol, 5 folds per seed
    python benchmarks/studies.py masks  BUSI        the forest on masks alone, and 150 other splits
    python benchmarks/studies.py sweep  BUSI … --seeds 6     phase 1 of docs/examples/sweep_03.yaml, by the library
    python benchmarks/studies.py picture            docs/images/leaks.png from the stored tables

Prints each seed's table. What is finished is read again from the user's cache.
"""

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from store import about, write_table

from busilib import figures, metrics, recipes, runs, studies
from busilib.data import catalogue, images, splits

# The split of the public script family that paper A resembles; that paper A used it is one reading.
SCRIPT_ORDER = ("benign", "normal", "malignant")
SWEEP_COLUMNS = "dataset_sha256 split_sha256 protocol preprocessing seed fold train test validation_is_test "
SWEEP_COLUMNS += "validation_accuracy test_accuracy test_accuracy_low test_accuracy_high test_macro_f1 test_majority "
SWEEP_COLUMNS += "seconds"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("study", choices=("leaks", "inputs", "clean", "masks", "sweep", "picture"))
    parser.add_argument("folder", nargs="?", help="of the real BUSI")
    parser.add_argument("--backbone", default="ResNet50")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--store", action="store_true")
    options = parser.parse_args()
    if options.study == "picture":
        return picture()
    if not options.folder:
        parser.error("name the folder of the real BUSI")
    study = {"masks": masks_alone, "sweep": swept}.get(options.study, on_heads)
    for name, table, measured_on in study(options):
        print(name, "has", len(table), "rows")
        if options.store:
            print(write_table(name, table, measured_on))


def masks_alone(options):
    scans = catalogue.read(options.folder, name="busi")
    for name, make in (("masks-alone", variants), ("masks-alone-splits", other_splits)):
        yield name, make(scans), {"dataset": scans.identity()}


def script_split(scans, order="natural", coded=False, seed=42):
    """Return (train, test): row numbers of the catalogue's table, int arrays, as the script would draw them.

    Classes come in the order benign, normal, malignant, files in natural order, and scikit-learn draws a stratified
    15 %. ``order``: "natural" (2 before 10) or "text" (10 before 2) within each class. ``coded``: stratify by the
    numbers benign 0, normal 1, malignant 2 instead of the names, which scikit-learn visits in another order.
    """
    table = scans.table.sort_values("image_id") if order == "text" else scans.table
    rows = np.concatenate([table.index[table["label"] == name] for name in SCRIPT_ORDER])
    classes = table["label"][rows].map(SCRIPT_ORDER.index) if coded else table["label"][rows]
    return train_test_split(rows, test_size=0.15, random_state=seed, stratify=classes)


def forest(seed=0):
    """Return the classifier of the masks' shapes: a random forest of 500 trees."""
    return RandomForestClassifier(500, random_state=seed, n_jobs=-1)


def tested(scans, features, split, model):
    """Fit ``model`` on the shape features (N, 12) of the training rows; return the test rows' confusion matrix."""
    (train, test), labels, values = split, studies.codes(scans.table["label"]), np.asarray(features)
    predicted = model.fit(values[train], labels[train]).predict(values[test])
    return metrics.confusion_matrix(labels[test], predicted)


def variants(scans, seeds=range(5)):
    """Return one row per variant and seed: variant, seed, right, confusion (3×3 list), for the seeds of the forest."""
    plain, natural = images.shape_table(scans), script_split(scans)
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    made = {
        "as described": (plain, natural, forest),
        "logistic regression": (plain, natural, lambda seed: regression),
        "largest part, not the union": (images.shape_table(scans, region="largest"), natural, forest),
        "stratified by coded labels": (plain, script_split(scans, coded=True), forest),
        "files in text order": (plain, script_split(scans, order="text"), forest),
        "nearest-neighbour resize": (images.shape_table(scans, resample=Image.Resampling.NEAREST), natural, forest),
        "bilinear resize": (images.shape_table(scans, resample=Image.Resampling.BILINEAR), natural, forest),
    }
    rows = []
    for name, (features, split, model) in made.items():
        for seed in seeds if model is forest else [0]:
            matrix = tested(scans, features, split, model(seed))
            rows.append((name, seed, int(np.trace(matrix)), matrix.tolist()))
    return pd.DataFrame(rows, columns=["variant", "seed", "right", "confusion"])


def other_splits(scans, n=150, seed=0):
    """Return one row per stratified split drawn anew, n of them: seed, right, confusion; the base rate of a match."""
    features, numbers = images.shape_table(scans), range(1000, 1000 + n)
    matrices = [tested(scans, features, script_split(scans, seed=number), forest(seed)) for number in numbers]
    right = [int(np.trace(matrix)) for matrix in matrices]
    return pd.DataFrame({"seed": numbers, "right": right, "confusion": [matrix.tolist() for matrix in matrices]})


def clean(recipe, weights, scans, seed):
    """Train a head on every fold of the clean protocol: its answers to the validation and the test fold, row by row."""
    from busilib.learning import training

    tables = []
    for fold in range(5):
        split = splits.clean(scans, fold, seed=seed)
        table = training.train_head(recipe, split, weights=weights, seed=seed)[1].rename(columns={"split": "part"})
        table = table.assign(group=split.table["group"], fold=fold, seed=seed)
        tables.append(table[table["part"] != "train"].drop(columns=["image_id", "kind"]))
    return pd.concat(tables, ignore_index=True)


def on_heads(options):
    from busilib.learning import models

    scans = catalogue.read(options.folder, name="busi")
    protocol = "clean" if options.study == "clean" else "paper"
    recipe = recipes.get("A-frozen", "full", protocol, backbone=options.backbone)
    weights = models.find_weights(options.weights, options.backbone, "busi", "full")
    study = {"leaks": studies.leaks_of, "inputs": studies.scans_or_masks, "clean": clean}[options.study]
    tables = []
    for seed in range(options.seeds):
        tables.append(study(recipe, weights, scans, seed))
        print(tables[-1].round(3).head(8).to_string(), flush=True)
    measured_on = about(recipe, weights, scans, range(options.seeds))
    yield f"{options.study}-{options.backbone}", pd.concat(tables, ignore_index=True), measured_on


def swept(options):
    from busilib.learning import models

    scans, rows = catalogue.read(options.folder, name="busi"), []
    weights = models.find_weights(options.weights, options.backbone, "busi", "full")
    for protocol, preprocessing, seed in product(("clean", "paper"), ("own", "rescale"), range(options.seeds)):
        recipe, split = splits.plan("A-frozen", scans, "full", protocol, 0, seed, preprocessing=preprocessing)
        rows.append(runs.row(runs.find_or_train(recipe, scans, split, weights=weights, seed=seed).folder))
    table, measured_on = pd.DataFrame(rows), about(recipe, weights, scans, range(options.seeds))
    print(runs.means(table, by=["protocol", "preprocessing"]).round(4).to_string(index=False))
    measured_on |= {"recipe": "A-frozen, full profile: lesson 03, phase 1; a seed draws the split as well"}
    yield "sweep-03", table[SWEEP_COLUMNS.split()].round(4), measured_on


def picture():
    stored = {name: runs.stored_table(f"leaks-{name}") for name in ("ResNet50", "MobileNetV2")}
    tables = {f"BUSI, {name}": studies.worth(table).set_index("what") for name, table in stored.items()}
    (Path(__file__).parents[1] / "docs" / "images" / "leaks.png").write_bytes(figures.worth(tables).png)


if __name__ == "__main__":
    main()
