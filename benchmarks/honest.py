"""Lesson 11 on the real BUSI: the ladder, and nested grouped folds in which every choice is made on training folds.

    BUSI_DIR=FOLDER python benchmarks/honest.py MOBILENET RESNET

Two files of weights for keras.applications.MobileNetV2 and ResNet50 (include_top=False). A run opens the outer test
folds once per seed. What is chosen among stands here and in honest.yaml as it stood in commit `c7cb6ea`, before the
first run; which rungs are shown and compared was changed afterwards. Features are kept in the user's cache.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import yaml
from features import LAYERS, answers, at_temperature, averages, stored, temperature
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from store import write_table

from busilib import metrics, runs, studies
from busilib.data import catalogue, images, splits
from busilib.learning import keras, models
from busilib.recipes import PROBABILITIES

# --- decided before the outer run -------------------------------------------------------------------------------------
VIEWS, COMPONENTS, DOTS = 8, 200, 10  # views per scan, principal components, pixels per scan that teach the lesion map
AXES, SAMPLE = 64, 60  # directions whose products are the second order, pixels per scan that choose them
FOLDS, SENSITIVITY = 5, 0.95  # folds, outer and inner (seed + 100); what the threshold promises on the inner folds
GRID = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def places(table, weights):
    """Return features per place, of blocks 6 and 13 at 224 px (scans, 14, 14, channels) and of block 13 at 320 px
    (scans, 400, channels), and the share of lesion (scans, 14, 14)."""

    def outputs(base):
        late = base.get_layer(LAYERS[2]).output
        if base.input_shape[1] == 320:
            return [keras.layers.Reshape((400, -1))(late)]
        low = keras.layers.AveragePooling2D(2)(base.get_layer(LAYERS[0]).output)
        return [keras.layers.Concatenate()([low, late])]

    here = []
    for size in (224, 320):
        pixels = images.load(table["path"], size)
        here += stored("places", lambda: answers(outputs, pixels, weights, 1), pixels, weights.sha256)  # noqa: B023
    masks = [images.mask_union(row, 224).reshape(14, 16, 14, 16).mean(axis=(1, 3)) for row in table.itertuples()]
    return here[0][0], here[1][0], np.stack(masks)


def lesion_maps(here, masks, learn, ask, seed):
    """Return (ask, 14, 14): where a logistic regression on the pixels of the scans ``learn`` sees a lesion."""
    dots = np.random.default_rng(seed).integers(14, size=(2, len(learn), DOTS))
    x, lesion = here[learn[:, None], dots[0], dots[1]], masks[learn[:, None], dots[0], dots[1]] > 0.5
    x, lesion = x.reshape(-1, here.shape[-1]), lesion.ravel()
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-3
    model = LogisticRegression(C=0.001, max_iter=40).fit((x - mean) / spread, lesion)
    slope = (model.coef_[0] / spread).astype("float32")
    return 1 / (1 + np.exp(-(here[ask] @ slope + (model.intercept_[0] - mean @ slope))))


def under_maps(here, masks, train, test, inner, seed):
    """Return (scans, features): averages inside and outside the maps, which are out of fold for training scans."""
    maps = np.zeros(masks.shape, dtype="float32")
    for learn, ask in [*((train[learn], train[ask]) for learn, ask in inner), (train, test)]:
        maps[ask] = lesion_maps(here, masks, learn, ask, seed)
    parts = []
    for weight in (maps, 1 - maps):
        share = weight / (weight.sum(axis=(1, 2), keepdims=True) + 1e-6)
        parts.append(np.einsum("nhw,nhwc->nc", share, here))
    return np.concatenate([*parts, np.sort(maps.reshape(len(maps), -1), axis=1)[:, ::-14]], axis=1)


def second_order(here, train, seed):
    """Return (scans, AXES · (AXES + 1) / 2): mean products of the training scans' main directions over all places."""
    spots = np.random.default_rng(seed).integers(here.shape[1], size=(len(train), SAMPLE))
    x = here[train[:, None], spots].reshape(-1, here.shape[-1])
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-3
    values, vectors = np.linalg.eigh(np.cov((x - mean) / spread, rowvar=False))
    turn = vectors[:, -AXES:] / np.sqrt(values[-AXES:]) / spread[:, None]
    z = here @ turn.astype("float32") - (mean @ turn).astype("float32")
    upper = (z.transpose(0, 2, 1) @ z / here.shape[1])[:, *np.triu_indices(AXES)]
    return np.sign(upper) * np.sqrt(np.abs(upper))  # the root keeps a few large products from ruling the rest


def components(gram, train):
    """Return (scans, COMPONENTS): principal components of the training scans, from a matrix of inner products."""
    values, vectors = np.linalg.eigh(gram[np.ix_(train, train)])
    values, vectors = values[-COMPONENTS:], vectors[:, -COMPONENTS:]
    return gram[:, train] @ (vectors / np.sqrt(np.maximum(values, 1e-6)))


def products(block, train):
    """Return the inner products of features that have the training scans' mean 0 and spread 1, per feature."""
    mean, spread = block[train].mean(axis=0), block[train].std(axis=0)
    scaled = (block - mean) / np.where(spread > 1e-6, spread, 1)
    return scaled @ scaled.T / block.shape[1]


def regression(C):
    return LogisticRegression(C=C, max_iter=100, tol=1e-3)


def with_views(blocks, y, train, test):
    """Return the probabilities of the test scans, (views, scans, 3): every view is an example in training."""
    stack = np.concatenate([blocks["224-2"], blocks["224-5"]], axis=-1)  # (views, scans, channels)
    flat = stack[:, train].reshape(-1, stack.shape[-1])
    z = (stack - flat.mean(axis=0)) / (flat.std(axis=0) + 1e-6) / np.sqrt(stack.shape[-1])
    _, vectors = np.linalg.eigh(z[0, train] @ z[0, train].T)
    z = z @ np.linalg.qr(z[0, train].T @ vectors[:, -COMPONENTS:])[0]
    model = regression(10 / VIEWS).fit(z[:, train].reshape(-1, COMPONENTS), np.tile(y[train], VIEWS))
    return np.stack([model.predict_proba(view[test]) for view in z])


def candidates(blocks, y, train, test, inner):
    """Return dict name → (probabilities of the training scans, each from its inner fold; those of the test scans)."""
    grams = {key: products(block.mean(axis=0), train) for key, block in blocks.items()}
    result = {}
    for name, keys in GRID["sets"].items():
        gram = sum(grams[key] for key in keys) / len(keys)
        square = np.diag(gram)
        kernels = {"linear": gram, "rbf": np.exp(-(square[:, None] + square - 2 * gram) / 4)}
        for kernel in kernels if name in GRID["curved"] else ["linear"]:
            x = components(kernels[kernel], train)
            for C in GRID["kernels"][kernel]:
                guess = cross_val_predict(regression(C), x[train], y[train], cv=inner, method="predict_proba")
                answer = regression(C).fit(x[train], y[train]).predict_proba(x[test])
                result[f"{name}, {kernel}, C={C}"] = guess, answer
    best = sorted(result, key=lambda name: log_loss(y[train], result[name][0]))
    for m in GRID["blends"]:
        result[f"the best {m} averaged"] = [np.mean([result[name][k] for name in best[:m]], axis=0) for k in (0, 1)]
    return result


def outer(blocks, here, y, groups, train, test, seed):
    """Return (dict name → probabilities of the test fold: the rungs, "nested", every candidate; record of the choice).

    ``here``: what `places` returns.
    """
    deal = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed + 100)
    inner = list(deal.split(train, y[train], groups[train]))
    result = {}
    for name, keys in GRID["first"].items():
        x = components(sum(products(blocks[key][0], train) for key in keys) / len(keys), train)
        result[name] = regression(10).fit(x[train], y[train]).predict_proba(x[test])
    each = with_views(blocks, y, train, test)
    result |= {"views in training": each[0], "views in testing": each.mean(axis=0)}
    maps, second = under_maps(here[0], here[2], train, test, inner, seed), second_order(here[1], train, seed)
    pairs = candidates(blocks | {"map": maps[None], "second order": second[None]}, y, train, test, inner)
    chosen = min((name for name in pairs if "averaged" in name), key=lambda name: log_loss(y[train], pairs[name][0]))
    guess, answer = pairs[chosen]
    heat = temperature(guess, y[train], 3)
    # The highest threshold that finds SENSITIVITY of the malignant scans of the inner folds.
    limit = np.quantile(at_temperature(guess, heat)[y[train] == 1, 1], 1 - SENSITIVITY, method="lower")
    result |= {name: pair[1] for name, pair in pairs.items()}
    result |= {"nested": answer, "nested, scaled": at_temperature(answer, heat), "threshold": np.full(len(test), limit)}
    return result, {"seed": seed, "chosen": chosen, "temperature": heat, "threshold": limit}


def all_blocks(table, mobile, resnet):
    """Return the features of all scans, dict "size-place" or "network-place" → (views, scans, channels)."""
    embedded = models.find_weights("phantom", "ResNet50")
    sources = [(size, size, mobile, count, "MobileNetV2") for size, count in ((128, 1), (224, VIEWS), (320, VIEWS))]
    # As they are and mirrored: a ResNet50 is slow.
    sources += [("ResNet50", 224, resnet, 2, "ResNet50"), ("embedded", 64, embedded, 2, "ResNet50")]
    blocks = {}
    for key, size, weights, count, network in sources:
        arrays = averages(images.load(table["path"], size), weights, count, network)
        blocks |= {f"{key}-{i}": block for i, block in enumerate(arrays)}
    return blocks


def seed_of(seed, table, blocks, here):
    """Return (dict name → probabilities of all scans, records): every scan from the fold that never saw its group."""
    y, groups, pooled, records = studies.codes(table["label"]), table["group"].to_numpy(), {}, []
    deal = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(y, y, groups)
    for fold, (train, test) in enumerate(deal):
        result, record = outer(blocks, here, y, groups, train, test, seed)
        records.append({"fold": fold} | record)
        for name, p in result.items():
            pooled.setdefault(name, np.zeros((len(y), *p.shape[1:])))[test] = p
        print(seed, records[-1], flush=True)
    return pooled, records


def measures(y, p):
    """Return the scores of one seed's probabilities, dict."""
    s = metrics.probability_scores(y, p)
    scores = {"accuracy": s["accuracy"], "balanced": s["balanced_accuracy"], "auc": s["auc"]}
    scores |= {"auc_malignant": roc_auc_score(y == 1, p[:, 1]), "ece": metrics.calibration_error(y, p)}
    return scores | {"sensitivity": s["sensitivity_1"]}


def rows_of(table, seeds):
    """Return the table: one row per rung, then the nested rows; ``seeds`` is [probabilities that `seed_of` returns]."""
    y, groups = studies.codes(table["label"]), table["group"]
    heads = runs.stored_table("clean-MobileNetV2").query("part == 'test'").groupby("seed")
    heads = [head.set_index("file_id").loc[table["image_id"], PROBABILITIES].to_numpy() for _, head in heads]
    ladder = {"paper A's head, 128 px": heads[: len(seeds)]}
    ladder |= {name: [p[name] for p in seeds] for name in (*GRID["first"], "views in training", "views in testing")}
    ladder |= {name: [p[key] for p in seeds] for name, key in GRID["rungs"].items()}
    names = [name for name in seeds[0] if "C=" in name or "averaged" in name]
    best = [max((p[name] for name in names), key=lambda q: np.mean(q.argmax(1) == y)) for p in seeds]
    ladder["chosen on the test folds"], rows = best, []
    right = {name: np.mean([p.argmax(axis=1) == y for p in each], axis=0) for name, each in ladder.items()}
    for name, each in ladder.items():  # right: per scan, over the seeds
        row = {"rung": name} | pd.DataFrame([measures(y, p) for p in each]).mean().to_dict()
        row["low"], row["high"] = metrics.grouped_bootstrap(np.mean, groups, right[name])
        if beside := GRID["beside"].get(name):
            gain = right[name] - right[beside]
            row |= {"beside": beside, "gain": gain.mean()}
            row["gain_low"], row["gain_high"] = metrics.grouped_bootstrap(np.mean, groups, gain)
        if name == "nested, scaled":
            above = np.stack([p[name][:, 1] >= p["threshold"] for p in seeds])
            row |= {"point_sensitivity": above[:, y == 1].mean(), "point_specificity": 1 - above[:, y != 1].mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def main(mobile, resnet, seeds=3):
    scans = splits.without_objections(catalogue.read(os.environ["BUSI_DIR"], name="busi"))
    mobile = models.find_weights(mobile, "MobileNetV2", "busi", "full")
    resnet = models.find_weights(resnet, "ResNet50", "busi", "full")
    features = all_blocks(scans.table, mobile, resnet), places(scans.table, mobile)
    pooled, choices = zip(*(seed_of(seed, scans.table, *features) for seed in range(int(seeds))), strict=True)
    table = rows_of(scans.table, pooled).round(4)
    print(table.to_string())
    about = {"dataset": scans.identity(), "seeds": list(range(len(pooled))), "choices": sum(choices, [])}
    about |= json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    about["majority"] = float(scans.table["label"].value_counts(normalize=True).max().round(4))
    about["weights"] = [{"sentence": each.sentence, "sha256": each.sha256} for each in (mobile, resnet)]
    print(write_table("honest-BUSI", table, about))


if __name__ == "__main__":
    main(*sys.argv[1:])
