"""What the masks alone would give on paper A's test part: a forest on twelve numbers, and how much its choices matter.

The split is that of the public script family which paper A resembles: classes in the order benign, normal, malignant,
files in natural order, scikit-learn's stratified 15 % with ``random_state=42``. That paper A used it is one reading.
"""

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from busilib import metrics
from busilib.data import images
from busilib.recipes import CLASSES

SCRIPT_ORDER = ("benign", "normal", "malignant")


def script_split(catalogue, order="natural", coded=False, seed=42):
    """Return (train, test): row numbers of the catalogue's table, int arrays, as the script would draw them.

    ``order``: "natural" (2 before 10) or "text" (10 before 2) within each class. ``coded``: stratify by the numbers
    benign 0, normal 1, malignant 2 instead of the names, which scikit-learn visits in another order.
    """
    table = catalogue.table
    ids = table["image_id"] if order == "text" else pd.Series(range(len(table)))
    rows = np.concatenate(
        [ids[(table["label"] == name).to_numpy()].sort_values().index.to_numpy() for name in SCRIPT_ORDER]
    )
    labels = table["label"].to_numpy()[rows]
    if coded:
        labels = np.array([SCRIPT_ORDER.index(label) for label in labels])
    train, test = train_test_split(np.arange(len(rows)), test_size=0.15, random_state=seed, stratify=labels)
    return rows[train], rows[test]


def forest(seed=0):
    """Return the classifier: 500 trees."""
    return RandomForestClassifier(500, random_state=seed, n_jobs=-1)


def regression(seed=0):
    """Return logistic regression on standardised features, as a second opinion; it draws nothing at random."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))


def confusion(catalogue, features, split, model):
    """Fit ``model`` on the features (N, 12) of the training rows and count the test rows: a matrix (3, 3)."""
    train, test = split
    codes = catalogue.table["label"].map(CLASSES.index).to_numpy()
    values = np.asarray(features)
    return metrics.confusion_matrix(codes[test], model.fit(values[train], codes[train]).predict(values[test]))


def variants(catalogue, seeds=range(5)):
    """Return one row a variant and seed: variant, seed, right, confusion (3×3 list), for the seeds of the forest."""
    plain = images.shape_table(catalogue)
    largest = images.shape_table(catalogue, region="largest")
    nearest = images.shape_table(catalogue, resample=Image.Resampling.NEAREST)
    bilinear = images.shape_table(catalogue, resample=Image.Resampling.BILINEAR)
    natural = script_split(catalogue)
    made = {
        "as described": (plain, natural, forest),
        "logistic regression": (plain, natural, regression),
        "largest part, not the union": (largest, natural, forest),
        "stratified by coded labels": (plain, script_split(catalogue, coded=True), forest),
        "files in text order": (plain, script_split(catalogue, order="text"), forest),
        "nearest-neighbour resize": (nearest, natural, forest),
        "bilinear resize": (bilinear, natural, forest),
    }
    rows = []
    for name, (features, split, model) in made.items():
        for seed in seeds if model is forest else [0]:
            matrix = confusion(catalogue, features, split, model(seed))
            rows.append((name, seed, int(np.trace(matrix)), matrix.tolist()))
    return pd.DataFrame(rows, columns=["variant", "seed", "right", "confusion"])


def other_splits(catalogue, n=150, seed=0):
    """Return one row a stratified split drawn anew, n of them: seed, right, confusion; the base rate of a match."""
    features, rows = images.shape_table(catalogue), []
    for number in range(n):
        matrix = confusion(catalogue, features, script_split(catalogue, seed=1000 + number), forest(seed))
        rows.append((1000 + number, int(np.trace(matrix)), matrix.tolist()))
    return pd.DataFrame(rows, columns=["seed", "right", "confusion"])
