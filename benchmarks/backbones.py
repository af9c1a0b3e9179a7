"""What the embedded backbones are worth: on phantoms, and on the real BUSI beside random and ImageNet weights.

    python benchmarks/bench.py --only backbones        # BUSI_DIR: the folder of BUSI; BUSI_WEIGHTS: one of .h5 files

* phantoms: grouped 5-fold, every one of 600 tested once, the recipes' own heads at the quick profile.
* probe: logistic regression on averaged features, BUSI at 128 px, grouped 5-fold, all 780 scans. "random" is the mean
  of five draws of random weights: one draw alone can be 2.6 points luckier. The gain over it has a paired interval by a
  bootstrap over groups.
* never seen: the class output that was trained on phantoms alone, asked about BUSI. Choices were made on the scans of
  one half of BUSI's groups (`half`), the figure is of the other half.

With BUSI_DIR the table goes to busilib/results/tables/backbones.json as well.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from rows import not_measured, row
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from store import write_table

from busilib import data, metrics, recipes, studies
from busilib.data import catalogue, images, phantom, splits
from busilib.learning import embedded, keras, models, training

SIZE = 128
UNSEEN_SIZE = 96  # of 64, 75, 96 and 128 px the best on the half of BUSI that choices were made on, for both networks
DRAWS = 5  # of random weights
RECIPES = {"ResNet50": "A-frozen", "InceptionResNetV2": "B-frozen"}


def measure():
    """Return the rows of all three questions; those on BUSI only where BUSI_DIR names it."""
    rows = [phantoms(name) for name in RECIPES]
    folder = os.environ.get("BUSI_DIR")
    if not folder:
        names = [f"{what}, {name}" for name in RECIPES for what in ("probe on BUSI", "never seen BUSI")]
        return rows + [not_measured(name, "BUSI_DIR names no folder") for name in names]
    scans, table = data.load(folder), []
    for name in RECIPES:
        measured, lines = on_busi(name, scans)
        rows += measured
        table += lines
    about = {"dataset": scans.identity(), "image_size": SIZE, "folds": 5, "seed": 0}
    write_table("backbones", pd.DataFrame(table), about)
    return rows


def phantoms(name):
    """Return the row of the accuracy on phantoms that neither the backbone nor the head has seen."""
    scans = catalogue.read(phantom.cached(600, 0))
    accuracies = []
    for weights in ("phantom", "none"):
        changes = {"augment": False, "augment_validation": False}
        recipe = recipes.get(RECIPES[name], "quick", "clean", **changes)
        table = studies.clean(recipe, models.find_weights(weights, name), scans, 0)
        accuracies.append(studies.accuracy(table[table["part"] == "test"]))
    note = f"other: random weights; {recipe.image_size} px, grouped 5-fold on 600 phantoms"
    return row(f"quick accuracy on phantoms, {name}", accuracies[0], "", accuracies[1], target="ours >= 0.9", note=note)


def on_busi(name, scans):
    """Return the rows and the lines of the table for one network on the real BUSI."""
    files = sorted(Path(os.environ.get("BUSI_WEIGHTS", "/nowhere")).glob(f"*{name.lower()}*"))
    truth, groups = studies.codes(scans.table["label"]), scans.table["group"].to_numpy()
    right = lambda weights, seed=0: probe(averages(name, weights, scans, seed=seed), truth, groups) == truth  # noqa: E731
    draws = np.array([right(models.find_weights("none", name), seed) for seed in range(DRAWS)])
    hits = {"phantom": right(models.find_weights("phantom", name)), "random": draws.mean(axis=0)}
    hits |= {file.name: right(models.find_weights(str(file), name)) for file in files}
    table = [{"network": name, "question": "probe", "weights": what, "scans": len(truth)}
             | _scores(shares, hits["random"], groups) for what, shares in hits.items()]  # fmt: skip
    ours, other = table[0], table[1]
    note = f"other: random weights, {DRAWS} draws, {draws.mean(axis=1).min():.3f} to {draws.mean(axis=1).max():.3f}; "
    note += f"gain {ours['gain']:+.3f} [{ours['gain_low']:+.3f}, {ours['gain_high']:+.3f}]"
    rows = [row(f"probe on BUSI, {name}", ours["accuracy"], "", other["accuracy"], note=note)]
    rows.append(row(f"probe on BUSI, lower end of the gain, {name}", ours["gain_low"], "", target="ours >= 0.0001"))
    line = never_seen(name, scans)
    note = f"balanced accuracy, chance 0.333; {line['scans']} scans, sensitivities {line['sensitivities']}"
    rows.append(row(f"never seen BUSI, {name}", line["accuracy"], "", target="ours >= 0.55", note=note))
    return rows, table + [line]


def _scores(hits, random, groups):
    """Return accuracy and gain over random weights, each with its interval, of hits (share right of each scan)."""
    interval = metrics.grouped_bootstrap(np.mean, groups, hits)
    gain = metrics.grouped_bootstrap(lambda a, b: np.mean(a) - np.mean(b), groups, hits, random)
    scored = np.mean(hits), *interval, np.mean(hits) - np.mean(random), *gain
    keys = ("accuracy", "low", "high", "gain", "gain_low", "gain_high")
    return dict(zip(keys, map(float, scored), strict=True))


def averages(name, weights, scans, size=SIZE, seed=0):
    """Return the averaged features (N, channels) of scans; ``seed`` draws random weights."""
    recipe = recipes.get(RECIPES[name], "full", "clean", image_size=size)
    frozen, _ = models.parts(models.build(recipe, weights, seed), recipe)
    return training.features(frozen, images.load(scans.table["path"], size)).mean(axis=(1, 2))


def probe(values, truth, groups):
    """Return the predicted class of every scan by a logistic regression that has not seen its group."""
    answers = np.zeros_like(truth)
    for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(values, truth, groups):
        learner = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        answers[test] = learner.fit(values[train], truth[train]).predict(values[test])
    return answers


def half(scans, chosen):
    """Return which scans (bool) without objections lie in one half of the groups: chosen=True for choices."""
    groups = np.unique(scans.table["group"])
    first = np.random.default_rng(0).permutation(groups)[: len(groups) // 2]
    fair = scans.table["image_id"].isin(splits.without_objections(scans).table["image_id"])
    return (scans.table["group"].isin(first) == chosen).to_numpy() & fair.to_numpy()


def never_seen(name, scans, chosen=False, size=UNSEEN_SIZE):
    """Return the table's line for the class output that phantoms trained, on half of BUSI."""
    with np.load(embedded.path(name)) as file:
        kernel, bias = file["head"], file["head_bias"]
    logits = averages(name, models.find_weights("phantom", name), scans, size) @ kernel + bias
    rows = half(scans, chosen)
    truth, groups = studies.codes(scans.table["label"])[rows], scans.table["group"].to_numpy()[rows]
    shares = keras.ops.convert_to_numpy(keras.ops.softmax(logits[rows]))
    score = metrics.with_intervals(truth, shares, groups).round(3)
    value, low, high = (float(score.loc["balanced_accuracy", key]) for key in ("value", "low", "high"))
    sensitivities = [float(score.loc[f"sensitivity_{k}", "value"]) for k in range(3)]
    line = {"network": name, "question": "never seen", "weights": "phantom", "scans": int(rows.sum())}
    return line | {"accuracy": value, "low": low, "high": high, "sensitivities": sensitivities, "size": size}
