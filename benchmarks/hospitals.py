"""Train on one hospital and test on another: the table of real scans in lesson 12.

    python benchmarks/hospitals.py BUSI_FOLDER OTHER_FOLDER WEIGHTS.h5 FEATURES_FOLDER

MobileNetV2, frozen, 224 px, averages of two depths, two views (as it is, mirrored) in training and in testing, logistic
regression. OTHER_FOLDER holds patients.csv. Features are kept in FEATURES_FOLDER, and computed when they are not there.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import store
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from busilib import metrics
from busilib.data import catalogue, images, splits
from busilib.learning import models, training
from busilib.recipes import CLASSES

SIZE, CUT, FOLDS, SEED = 224, 0.12, 5, 0
MEASURES = ("accuracy", "balanced accuracy", "sensitivity", "AUC", "AUC against benign", "calibration error")


def scores(truth, p):
    """Return MEASURES; NaN where a class is missing. AUC: malignant against the rest, and against benign alone."""
    if len(set(truth)) < len(CLASSES):
        return [np.nan] * len(MEASURES)
    recall = [np.mean(p[truth == k].argmax(axis=1) == k) for k in range(3)]
    lesion = truth < 2
    only = roc_auc_score(truth[lesion], p[lesion, 1] / p[lesion, :2].sum(axis=1))
    rest = roc_auc_score(truth == 1, p[:, 1])
    return [
        np.mean(p.argmax(axis=1) == truth),
        np.mean(recall),
        recall[1],
        rest,
        only,
        metrics.calibration_error(truth, p),
    ]


def network(weights):
    """Return the frozen base from uint8 pixels to the averages of two depths (N, 1856)."""
    import keras

    base = models.backbone("MobileNetV2", SIZE, weights)
    before = models.preprocessing("MobileNetV2", SIZE, "own", weights)
    ends = (base.get_layer("block_13_expand_relu").output, base.output)
    averages = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(end) for end in ends])
    return keras.Model(before.input, keras.Model(base.input, averages)(before.output))


def pixels_of(hospitals, k, change):
    """Return the scans of hospital k: "asis", "matched" (in grey levels to the other's), or "crop" (edges cut off)."""
    edge = round(CUT * SIZE / (1 - 2 * CUT)) if change == "crop" else 0
    pixels, other = (images.load(hospitals[i].table.path, SIZE + 2 * edge) for i in (k, 1 - k))
    if change == "matched":
        ranks = np.cumsum(np.bincount(pixels[..., 0].ravel(), minlength=256)) / pixels[..., 0].size
        pixels = np.quantile(other[..., 0], ranks).astype("uint8")[pixels]
    return np.ascontiguousarray(pixels[:, edge : edge + SIZE, edge : edge + SIZE])


def fitted(views, y, rows):
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    return model.fit(np.concatenate([view[rows] for view in views]), np.tile(y[rows], len(views)))


def predicted(model, views):
    return np.mean([model.predict_proba(view) for view in views], axis=0)


def crossed(views, y, groups, folds):
    """Return the probabilities of scans that the model of their fold has not seen."""
    p = np.zeros((len(y), len(CLASSES)))
    for train, test in folds(FOLDS, shuffle=True, random_state=SEED).split(y, y, groups):
        p[test] = predicted(fitted(views, y, train), views[:, test])
    return p


def main(busi, other, file, folder):
    weights, folder = models.find_weights(file, "MobileNetV2", "folder", "full"), Path(folder)
    hospitals = splits.without_objections(catalogue.read(busi)), catalogue.read(other)
    y, groups = ([scans.table[c].to_numpy() for scans in hospitals] for c in ("label", "group"))
    y = [np.array([CLASSES.index(label) for label in labels]) for labels in y]

    def views(k, change="asis"):
        kept = folder / f"{k}-{change}.npy"
        if not kept.exists():
            pixels, base = pixels_of(hospitals, k, change), network(weights)
            np.save(kept, np.stack([training.predict(base, view) for view in (pixels, pixels[:, :, ::-1])]))
        return np.load(kept).astype("float32")

    names, tests = ("BUSI", "BUS-UCLM"), {}
    tests["BUSI → BUSI"] = 0, crossed(views(0), y[0], groups[0], StratifiedGroupKFold)
    for k in (0, 1):
        way, model = f"{names[k]} → {names[1 - k]}", fitted(views(k), y[k], slice(None))
        tests[way] = 1 - k, predicted(model, views(1 - k))
        for change, words in (("matched", "grey levels matched"), ("crop", "edges cut off")):
            tests[f"{way}, {words}"] = 1 - k, predicted(model, views(1 - k, change))
        there, here = (np.bincount(y[i]) / len(y[i]) for i in (1 - k, k))
        weighted = tests[way][1] * there / here
        tests[f"{way}, class shares known"] = 1 - k, weighted / weighted.sum(axis=1, keepdims=True)
        if k == 0:
            tests["BUS-UCLM, folds by patient"] = 1, crossed(views(1), y[1], groups[1], StratifiedGroupKFold)
            tests["BUS-UCLM, folds by image"] = 1, crossed(views(1), y[1], groups[1], StratifiedKFold)
    rows = []
    for setting, (k, p) in tests.items():
        low, high = metrics.grouped_bootstrap(scores, groups[k], y[k], p)
        rows += [[setting, *row] for row in zip(MEASURES, scores(y[k], p), low, high, strict=True)]
    table = pd.DataFrame(rows, columns=["setting", "measure", "score", "low", "high"]).round(4)
    print(table.pivot(index="setting", columns="measure", values="score").loc[list(tests), list(MEASURES)].round(3))
    about = {"datasets": [scans.identity() for scans in hospitals], "weights": weights.sha256, "seed": SEED}
    store.write_table("hospitals", table, about | {"patients": int(hospitals[1].table.patient.nunique())})


if __name__ == "__main__":
    main(*sys.argv[1:])
