"""What the embedded backbones are worth on the real BUSI, beside random and ImageNet weights.

    python benchmarks/backbones.py BUSI_FOLDER [WEIGHTS.h5 …]     # files, each of the network that its name holds

* probe: logistic regression on averaged features, BUSI at 128 px, grouped 5-fold, all 780 scans. "random" is the mean
  of five draws of random weights: one draw alone can be 2.6 points luckier. The gain over it has a paired interval by a
  bootstrap over groups.
* never seen: the class output that was trained on phantoms alone, asked about BUSI. Choices were made on the scans of
  one half of BUSI's groups, the figure is of the other half.

Both go to busilib/results/tables/backbones.json.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from store import write_table

from busilib import data, metrics, recipes, studies
from busilib.data import images, splits
from busilib.learning import backbones, keras, models

SIZE = 128
UNSEEN_SIZE = 96  # the best on the half of BUSI that choices were made on
DRAWS = 5  # of random weights
RECIPES = {"ResNet50": "A-frozen", "InceptionResNetV2": "B-frozen"}


def main(folder, *files):
    scans, table = data.load(folder), []
    for name in RECIPES:
        table += [*probes(name, files, scans), never_seen(name, scans)]
        print(pd.DataFrame(table).to_string(), flush=True)
    about = {"dataset": scans.identity(), "image_size": SIZE, "folds": 5, "seed": 0}
    print(write_table("backbones", pd.DataFrame(table), about))


def probes(name, files, scans):
    """Return the table's lines for the linear probes of one network on the real BUSI."""
    truth, groups = studies.codes(scans.table["label"]), scans.table["group"].to_numpy()
    right = lambda weights, seed=0: probe(averages(name, weights, scans, seed=seed), truth, groups) == truth  # noqa: E731
    draws = np.mean([right("none", seed) for seed in range(DRAWS)], axis=0)
    names = {Path(file).name: file for file in files if name.lower() in Path(file).name.lower()}
    hits = {"phantom": right("phantom"), "random": draws} | {key: right(file) for key, file in names.items()}
    table = []
    for weights, one in hits.items():
        gain = metrics.grouped_bootstrap(lambda a, b: np.mean(a) - np.mean(b), groups, one, draws)
        scores = one.mean(), *metrics.grouped_bootstrap(np.mean, groups, one), one.mean() - draws.mean(), *gain
        scores = zip(("accuracy", "low", "high", "gain", "gain_low", "gain_high"), map(float, scores), strict=True)
        table.append({"network": name, "question": "probe", "weights": weights, "scans": len(truth)} | dict(scores))
    return table


def averages(name, weights, scans, size=SIZE, seed=0):
    """Return the averaged features (N, channels) of scans; ``seed`` draws random weights."""
    recipe = recipes.get(RECIPES[name], "full", "clean", image_size=size)
    frozen, _ = models.parts(models.build(recipe, models.find_weights(weights, name), seed), recipe)
    return frozen.predict(images.load(scans.table["path"], size), verbose=0).mean(axis=(1, 2))


def probe(values, truth, groups):
    """Return the predicted class of every scan by a logistic regression that has not seen its group."""
    learner = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    return cross_val_predict(learner, values, truth, groups=groups, cv=folds)


def never_seen(name, scans, chosen=False):
    """Return the table's line for the class output that phantoms trained, on half of BUSI's groups.

    Only scans without objections count. ``chosen=True``: the half that choices were made on.
    """
    with np.load(backbones.path(name)) as file:
        logits = averages(name, "phantom", scans, UNSEEN_SIZE) @ file["head"] + file["head_bias"]
    groups = scans.table["group"].to_numpy()
    first = np.random.default_rng(0).permutation(np.unique(groups))
    fair = scans.table["image_id"].isin(splits.without_objections(scans).table["image_id"]).to_numpy()
    rows = (np.isin(groups, first[: len(first) // 2]) == chosen) & fair
    shares = keras.ops.convert_to_numpy(keras.ops.softmax(logits[rows]))
    score = metrics.with_intervals(studies.codes(scans.table["label"])[rows], shares, groups[rows]).round(3)
    value, low, high = (float(score.loc["balanced_accuracy", key]) for key in ("value", "low", "high"))
    sensitivities = [float(score.loc[f"sensitivity_{k}", "value"]) for k in range(3)]
    line = {"network": name, "question": "never seen", "weights": "phantom", "scans": int(rows.sum())}
    return line | {"accuracy": value, "low": low, "high": high, "sensitivities": sensitivities, "size": UNSEEN_SIZE}


if __name__ == "__main__":
    main(*sys.argv[1:])
