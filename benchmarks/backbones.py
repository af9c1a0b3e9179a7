"""What the embedded backbones are worth: on phantoms, and on the real BUSI beside random and ImageNet weights.

    python benchmarks/bench.py --only backbones        # BUSI_DIR: the folder of BUSI; BUSI_WEIGHTS: one of .h5 files

* removed: how much the averaged features change without a residual block, its branch set to zero.
* phantoms: grouped 5-fold, every one of 600 tested once, the recipes' own heads at the quick profile; then the last
  stage trained on with a rate of 1e-5.
* probe: logistic regression on averaged features, BUSI at 128 px, grouped 5-fold, all 780 scans. "random" is the mean
  of five draws of random weights: one draw alone can be 2.6 points luckier. The gain over it has a paired interval by a
  bootstrap over groups.
* never seen: the class output that was trained on phantoms alone, asked about BUSI. Choices were made on the scans of
  one half of BUSI's groups (`half`), the figure is of the other half.

With BUSI_DIR the table goes to busilib/results/tables/backbones.json as well.
"""

import os
import re
from dataclasses import replace
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
from busilib.learning import backbones, keras, models, training

SIZE = 128
UNSEEN_SIZE = {"ResNet50": 96, "InceptionResNetV2": 96}  # the best on the half of BUSI that choices were made on
DRAWS = 5  # of random weights
RECIPES = {"ResNet50": "A-frozen", "InceptionResNetV2": "B-frozen"}
TUNED = {"unfreeze": "last", "learning_rate": 1e-5, "epochs": 4}
CLOSING = r"(conv\d_block\d)_3_bn|(block\d+_\d+)_conv"  # the last layer with weights of a residual block's branch


def measure():
    """Return the rows of all four questions; those on BUSI only where BUSI_DIR names it."""
    scans, folder = catalogue.read(phantom.cached(600, 0)), os.environ.get("BUSI_DIR")
    rows = [one for name in RECIPES for one in on_phantoms(name, scans)]
    if not folder:
        names = [f"{what}, {name}" for name in RECIPES for what in ("probe on BUSI", "never seen BUSI")]
        return rows + [not_measured(name, "BUSI_DIR names no folder") for name in names]
    scans, table = data.load(folder), []
    for name in RECIPES:
        measured, lines = on_busi(name, scans)
        rows, table = rows + measured, table + lines
    about = {"dataset": scans.identity(), "image_size": SIZE, "folds": 5, "seed": 0}
    write_table("backbones", pd.DataFrame(table), about)
    return rows


def on_phantoms(name, scans):
    """Return the rows of one network on phantoms that neither it nor its head has seen."""
    (frozen, tuned), (random,) = quick(name, "phantom", scans), quick(name, "none", scans)
    changes = removed(name, images.load(scans.table["path"][:32], SIZE))
    note = f"relative, of the averaged features at {SIZE} px; the least is {min(changes, key=changes.get)}"
    rest, tuned_target = {"note": "other: random weights"}, {"note": "other: frozen", "target": "ratio >= 0.995"}
    return [
        row(f"quick accuracy on phantoms, {name}", frozen, "", random, target="ours >= 0.93", **rest),
        row(f"last stage fine-tuned on phantoms, {name}", tuned, "", frozen, **tuned_target),
        row(f"change without a block, {name}", min(changes.values()), "", target="ours >= 0.01", note=note),
    ]


def quick(name, weights, scans):
    """Return the share of scans right, each tested once: frozen; for "phantom" also with the last stage tuned."""
    hits, phases = [], ({}, TUNED)[: 1 + (weights == "phantom")]
    recipe = recipes.get(RECIPES[name], "quick", "clean", augment=False, augment_validation=False)
    for fold in range(5):
        split, line = splits.clean(scans, fold), []
        model = models.build(recipe, models.find_weights(weights, name))
        for changes in phases:
            setting = replace(recipe, **changes)
            frozen, trained = models.parts(model, setting)
            models.compile_for(setting, trained)
            inputs = training.still(setting, split, frozen)
            sets = (training.part(split, part, inputs) for part in ("train", "validation"))
            training.fit(trained, setting, *sets, seed=0)
            test, answers = training.part(split, "test", inputs)
            line.append(training.predict(trained, test).argmax(axis=1) == answers.argmax(axis=1))
        hits.append(line)
    return np.concatenate(hits, axis=1).mean(axis=1)


def removed(name, pixels):
    """Return {residual block: relative change of the averaged features of uint8 pixels without its branch}."""
    network = models.backbone(name, pixels.shape[1], models.find_weights("phantom", name))
    averaged = keras.Model(network.input, keras.layers.GlobalAveragePooling2D()(network.output))
    answer = lambda: averaged.predict(pixels / np.float32(255), verbose=0)  # noqa: E731
    whole, changes = answer(), {}
    for layer in network.layers:
        if block := re.fullmatch(CLOSING, layer.name):
            weights = layer.get_weights()
            layer.set_weights([np.zeros_like(weight) for weight in weights])
            changes[block[1] or block[2]] = float(np.linalg.norm(answer() - whole) / np.linalg.norm(whole))
            layer.set_weights(weights)
    return changes


def on_busi(name, scans):
    """Return the rows and the lines of the table for one network on the real BUSI."""
    files = sorted(Path(os.environ.get("BUSI_WEIGHTS", "/nowhere")).glob(f"*{name.lower()}*"))
    truth, groups = studies.codes(scans.table["label"]), scans.table["group"].to_numpy()
    right = lambda weights, seed=0: probe(averages(name, weights, scans, seed=seed), truth, groups) == truth  # noqa: E731
    draws = np.array([right("none", seed) for seed in range(DRAWS)])
    hits = {"phantom": right("phantom"), "random": draws.mean(axis=0)} | {file.name: right(str(file)) for file in files}
    table = []
    for weights, one in hits.items():
        gain = metrics.grouped_bootstrap(lambda a, b: np.mean(a) - np.mean(b), groups, one, hits["random"])
        scores = one.mean(), *metrics.grouped_bootstrap(np.mean, groups, one), one.mean() - draws.mean(), *gain
        scores = zip(("accuracy", "low", "high", "gain", "gain_low", "gain_high"), map(float, scores), strict=True)
        table.append({"network": name, "question": "probe", "weights": weights, "scans": len(truth)} | dict(scores))
    ours, other = table[0], table[1]
    note = f"other: random weights, {DRAWS} draws, {draws.mean(axis=1).min():.3f} to {draws.mean(axis=1).max():.3f}; "
    note += f"gain {ours['gain']:+.3f} [{ours['gain_low']:+.3f}, {ours['gain_high']:+.3f}]"
    rows = [row(f"probe on BUSI, {name}", ours["accuracy"], "", other["accuracy"], note=note)]
    rows.append(row(f"probe on BUSI, lower end of the gain, {name}", ours["gain_low"], "", target="ours >= 0.0001"))
    line = never_seen(name, scans, size=UNSEEN_SIZE[name])
    note = f"balanced accuracy, chance 0.333; {line['scans']} scans, sensitivities {line['sensitivities']}"
    rows.append(row(f"never seen BUSI, {name}", line["accuracy"], "", target="ours >= 0.68", note=note))
    return rows, table + [line]


def averages(name, weights, scans, size=SIZE, seed=0):
    """Return the averaged features (N, channels) of scans; ``seed`` draws random weights."""
    recipe = recipes.get(RECIPES[name], "full", "clean", image_size=size)
    frozen, _ = models.parts(models.build(recipe, models.find_weights(weights, name), seed), recipe)
    return frozen.predict(images.load(scans.table["path"], size), verbose=0).mean(axis=(1, 2))


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


def never_seen(name, scans, chosen=False, size=96):
    """Return the table's line for the class output that phantoms trained, on half of BUSI."""
    with np.load(backbones.path(name)) as file:
        logits = averages(name, "phantom", scans, size) @ file["head"] + file["head_bias"]
    rows = half(scans, chosen)
    truth, groups = studies.codes(scans.table["label"])[rows], scans.table["group"].to_numpy()[rows]
    shares = keras.ops.convert_to_numpy(keras.ops.softmax(logits[rows]))
    score = metrics.with_intervals(truth, shares, groups).round(3)
    value, low, high = (float(score.loc["balanced_accuracy", key]) for key in ("value", "low", "high"))
    sensitivities = [float(score.loc[f"sensitivity_{k}", "value"]) for k in range(3)]
    line = {"network": name, "question": "never seen", "weights": "phantom", "scans": int(rows.sum())}
    return line | {"accuracy": value, "low": low, "high": high, "sensitivities": sensitivities, "size": size}
