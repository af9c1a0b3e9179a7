"""Train on one hospital and test on another: the table of real scans in lesson 12.

    python benchmarks/hospitals.py BUSI_FOLDER OTHER_FOLDER WEIGHTS.h5

MobileNetV2, frozen, 224 px, averages of two depths, six views in training and in testing, logistic regression. Scans
with one change are tested in two views, beside the same two views of the scans as they are, which saves an hour.
OTHER_FOLDER holds patients.csv. Features are kept in the user's cache.
"""

import sys
from functools import cache

import numpy as np
import pandas as pd
from features import at_temperature, averages, temperature
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from store import write_table

from busilib import metrics, studies
from busilib.data import catalogue, images, splits
from busilib.learning import models

NAMES, SIZE, VIEWS, CUT, SEED = ("BUSI", "BUS-UCLM"), 224, 6, 0.12, 0
PATIENTS, LABELLED, WEIGHT, DRAWS = 5, 7, 10, 10  # patients, labelled scans per class, weight of a new scan, draws
MEASURES = ["accuracy", "balanced accuracy", "sensitivity", "AUC", "AUC against benign", "calibration error"]
MEASURES += ["sensitivity at the threshold", "specificity at the threshold"]
COLUMNS = ["part", "setting", "measure", "score", "low", "high", "gain", "gain_low", "gain_high"]
CHANGES = {"matched": "grey levels matched", "crop": "edges cut off", "painted": "marks painted out"}
FOLDS = StratifiedGroupKFold(5, shuffle=True, random_state=SEED)


def scores(truth, p, above):
    """Return MEASURES; NaN where a class is missing. ``above``: which scans lie above a threshold for malignancy."""
    if len(set(truth)) < 3:
        return np.full(len(MEASURES), np.nan)
    called, malignant, lesion = p.argmax(axis=1), truth == 1, truth < 2
    recall = [np.mean(called[truth == k] == k) for k in range(3)]
    only = roc_auc_score(truth[lesion], p[lesion, 1] / p[lesion, :2].sum(axis=1))
    order = [roc_auc_score(malignant, p[:, 1]), only, metrics.calibration_error(truth, p)]
    point = [above[malignant].mean(), 1 - above[~malignant].mean()]
    return np.array([np.mean(called == truth), np.mean(recall), recall[1], *order, *point])


def compared(groups, truth, answer, other=None):
    """Return (measures, 6): score, low, high, then the paired gain over ``other`` and its ends; intervals over groups.

    ``answer``, ``other``: (probabilities, above the threshold). Without ``other`` there is no gain: NaN.
    """

    def both(truth, p, above, *beside):
        ours = scores(truth, p, above)
        return np.concatenate([ours, ours - scores(truth, *beside)]) if beside else ours

    given = truth, *answer, *(other or ())
    table = np.stack([both(*given), *metrics.grouped_bootstrap(both, groups, *given, draws=100)], axis=1)
    return np.hstack(np.split(table, 2) if other else [table, np.full(table.shape, np.nan)])


def pixels_of(tables, k, change):
    """Return the scans of hospital k, uint8: as they are (""), or with one of CHANGES. No change needs a label."""
    edge, times = round(CUT * SIZE / (1 - 2 * CUT)) if change == "crop" else 0, 3 if change == "painted" else 1
    pixels = images.load(tables[k]["path"], times * SIZE + 2 * edge)
    if change == "matched":  # each grey level becomes the other hospital's level of the same rank
        other = images.load(tables[1 - k]["path"], SIZE)[..., 0]
        ranks = np.cumsum(np.bincount(pixels[..., 0].ravel(), minlength=256)) / pixels[..., 0].size
        pixels = np.quantile(other, ranks).round().astype("uint8")[pixels]
    if change == "painted":  # a grey opening takes away what is bright and narrower than five of these pixels
        grey = pixels[..., 0]
        opened = np.stack([ndimage.grey_opening(scan, size=5) for scan in grey])
        grey = np.where(grey.astype("int16") - opened > 50, opened, grey)
        grey = grey.reshape(len(grey), SIZE, 3, SIZE, 3).mean(axis=(2, 4)).round().astype("uint8")
        pixels = np.repeat(grey[..., None], 3, axis=-1)
    return np.ascontiguousarray(pixels[:, edge : edge + SIZE, edge : edge + SIZE])


def fitted(views, y, weight=None):
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    weight = None if weight is None else np.tile(weight, len(views))
    return model.fit(np.concatenate(views), np.tile(y, len(views)), logisticregression__sample_weight=weight)


def predicted(model, views):
    return np.mean([model.predict_proba(view) for view in views], axis=0)


def crossed(views, y, folds):
    """Return the probabilities of scans that the model of their fold, (train, test), has not seen."""
    p = np.zeros((len(y), 3))
    for train, test in folds:
        p[test] = predicted(fitted(views[:, train], y[train]), views[:, test])
    return p


def shares(y):
    return np.bincount(y, minlength=3) / len(y)


def journeys(views, y, groups):
    """Yield (part, setting, hospital tested, probabilities, those that they are paired with or None)."""
    home, by_patient = (crossed(views(k), y[k], FOLDS.split(y[k], y[k], groups[k])) for k in (0, 1))
    yield "journey", "BUSI → BUSI", 0, home, None
    yield "journey", "BUS-UCLM, folds by patient", 1, by_patient, None
    single = StratifiedKFold(5, shuffle=True, random_state=SEED).split(y[1], y[1])
    yield "journey", "BUS-UCLM, folds by image", 1, crossed(views(1), y[1], single), by_patient
    for k, there in ((0, 1), (1, 0)):
        way, model = f"{NAMES[k]} → {NAMES[there]}", fitted(views(k), y[k])
        p, two = predicted(model, views(there)), predicted(model, views(there)[:2])
        yield "journey", way, there, p, None
        for change, words in CHANGES.items():
            yield "cause", f"{way}, {words}", there, predicted(model, views(there, change)), two
        weighted = p * shares(y[there]) / shares(y[k])
        yield "cause", f"{way}, class shares known", there, weighted / weighted.sum(axis=1, keepdims=True), p


def repairs(views, y, patients, p, limit):
    """Yield, for each draw of PATIENTS of the other hospital, (tested scans, {setting: (p, above its threshold)}).

    ``p``, ``limit``: what the model from home says there, and its threshold. LABELLED scans of each class of these
    patients recalibrate and set a new threshold; all their scans train the head again.
    """
    rng, inputs = np.random.default_rng(SEED), np.clip(p, 1e-6, 1)
    for _ in range(DRAWS):
        new = np.zeros(len(p), dtype=bool)
        while np.bincount(y[1][new], minlength=3).min() < LABELLED:
            new = np.isin(patients, rng.choice(np.unique(patients), PATIENTS, replace=False))
        order = rng.permutation(np.flatnonzero(new))
        few = np.concatenate([order[y[1][order] == k][:LABELLED] for k in range(3)])
        weight = (shares(y[1]) / shares(y[1][few]))[y[1][few]]
        second = LogisticRegression().fit(np.log(inputs[few]), y[1][few], sample_weight=weight)
        both = np.concatenate([views(0), views(1)[:, new]], axis=1), np.concatenate([y[0], y[1][new]])
        ten = np.where(np.arange(len(both[1])) < len(y[0]), 1, WEIGHT)
        calibrated = {
            "temperature": at_temperature(inputs, temperature(inputs[few], y[1][few], 30, weight)),
            "recalibrated": second.predict_proba(np.log(inputs)),
        }
        trained = {
            "head trained again": predicted(fitted(*both, ten), views(1)),
            "these patients alone": predicted(fitted(views(1)[:, new], y[1][new]), views(1)),
        }
        # A head was trained on these scans: they cannot set its threshold.
        limits = {name: q[few][y[1][few] == 1, 1].min() for name, q in calibrated.items()}
        answers = {"as it is": p} | calibrated | trained
        yield ~new, {name: (q[~new], q[~new, 1] >= limits.get(name, limit)) for name, q in answers.items()}


def stopped(train, new, groups):
    """Return which new scans are further from their five nearest training scans than 95 % of the latter are."""
    scaler = StandardScaler().fit(train)
    neighbours = NearestNeighbors(n_neighbors=60).fit(scaler.transform(train))
    far, rows = neighbours.kneighbors(scaler.transform(train))
    far = np.where(groups[rows] == groups[:, None], np.inf, far)  # no scan of its own group
    usual = np.sort(far, axis=1)[:, :5].mean(axis=1)
    return neighbours.kneighbors(scaler.transform(new), 5)[0].mean(axis=1) > np.quantile(usual, 0.95)


def refusals(x, groups, right):
    """Yield (measure, share, low, high) of scans stopped at home, held out, and away, and of who was ``right`` away."""
    at_home = np.zeros(len(x[0]), dtype=bool)
    for train, test in FOLDS.split(x[0], groups=groups[0], y=np.zeros(len(x[0]))):
        at_home[test] = stopped(x[0][train], x[0][test], groups[0][train])
    no = stopped(x[0], x[1], groups[0])
    rows = {"own scans stopped": (at_home, groups[0]), "stopped": (no, groups[1])}
    rows |= {"right if stopped": (right[no], groups[1][no]), "right if let through": (right[~no], groups[1][~no])}
    for measure, (values, who) in rows.items():
        yield measure, values.mean(), *metrics.grouped_bootstrap(np.mean, who, values * 1.0)


def main(busi, other, file):
    weights = models.find_weights(file, "MobileNetV2", "folder", "full")
    hospitals = splits.without_objections(catalogue.read(busi, "BUSI")), catalogue.read(other, "BUS-UCLM")
    tables = [scans.table for scans in hospitals]
    y, groups = [studies.codes(table["label"]) for table in tables], [table["group"].to_numpy() for table in tables]

    @cache
    def views(k, change=""):
        arrays = averages(pixels_of(tables, k, change), weights, 2 if change else VIEWS)
        return np.concatenate([arrays[2], arrays[5]], axis=-1)

    tests, rows, limits = {}, [], {}

    def add(part, setting, table):
        print(part, setting, table[:, 0].round(3).tolist(), flush=True)
        rows.extend([part, setting, measure, *row] for measure, row in zip(MEASURES, table, strict=True))

    for part, setting, k, p, beside in journeys(views, y, groups):
        home = setting.split(" →")[0].split(",")[0]
        if home not in limits:  # the first of each is held out at home, where nine of ten malignant scans lie above it
            limits[home] = np.quantile(p[y[k] == 1, 1], 0.1)
        answer, paired = ((q, q[:, 1] >= limits[home]) if q is not None else None for q in (p, beside))
        add(part, setting, compared(groups[k], y[k], answer, paired))
        tests[setting] = p
    way, each = tests["BUSI → BUS-UCLM"], {}
    for tested, answers in repairs(views, y, tables[1]["patient"].to_numpy(), way, limits["BUSI"]):
        for name, answer in answers.items():
            paired = None if name == "as it is" else answers["as it is"]
            each.setdefault(name, []).append(compared(groups[1][tested], y[1][tested], answer, paired))
    for name, draws in each.items():
        add("repair", name, np.mean(draws, axis=0))
    grey = [pixels_of(tables, k, "")[..., 0] for k in (0, 1)]
    looks = [np.stack([scans.mean(axis=(1, 2)), scans.std(axis=(1, 2))], axis=1) for scans in grey]
    for kind, x in {"features": [views(k).mean(axis=0) for k in (0, 1)], "mean and spread": looks}.items():
        refused = refusals(x, groups, way.argmax(axis=1) == y[1])
        rows.extend(["refusal", f"by {kind}", *row, *3 * [np.nan]] for row in refused)
    about = {"datasets": [scans.identity() for scans in hospitals], "scans": [len(truth) for truth in y]}
    about |= {"patients": int(tables[1]["patient"].nunique()), "draws": DRAWS, "seed": SEED, "views": VIEWS}
    about |= {"weights": {"sentence": weights.sentence, "sha256": weights.sha256}}
    write_table("hospitals", pd.DataFrame(rows, columns=COLUMNS).round(4), about)


if __name__ == "__main__":
    main(*sys.argv[1:])
