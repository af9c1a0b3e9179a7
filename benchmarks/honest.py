"""Lesson 11 on the real BUSI: the ladder, and nested grouped folds in which every choice is made on training folds.

    BUSI_DIR=FOLDER python benchmarks/honest.py MOBILENET RESNET

Two files of weights for keras.applications.MobileNetV2 and ResNet50 (include_top=False). A run opens the outer test
folds once per seed: all choices below stand here, in a commit that is older than the run. Features are kept in the
user's cache.
"""

import json
import os
import pickle
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from features import LAYERS, MAXIMA, MEANS, answers, averages, stored
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from store import write_table

from busilib import metrics, runs, studies
from busilib.cache import cache_dir, write_file
from busilib.data import catalogue, images, splits
from busilib.learning import keras, models
from busilib.recipes import PROBABILITIES

# --- decided before the outer run -------------------------------------------------------------------------------------
VIEWS, COMPONENTS, DOTS = 8, 200, 10  # views per scan, principal components, pixels per scan that teach the lesion map
AXES, SAMPLE = 64, 60  # directions whose products are the second order, pixels per scan that choose them
TWO = [(size, i) for size in (224, 320) for i in (2, 5)]
ALL = [(size, i) for size in (224, 320) for i in MEANS + MAXIMA]
RESNET, EMBEDDED = [("ResNet50", 1), ("ResNet50", 2)], ("embedded", 2)
SETS = {  # name: blocks of features, (size or network, place), "map": averages inside and outside the lesion map
    "two depths, 224 px": [(224, 2), (224, 5)],
    "two depths, two sizes": TWO,
    "five depths": [(size, i) for size, i in ALL if i in MEANS],
    "five depths and maxima": ALL,
    "lesion map": [*TWO, "map"],
    "second order": [*TWO, "map", "second order"],
    "two networks": [*TWO, "map", "second order", *RESNET],
    "three networks": [*TWO, "map", "second order", *RESNET, EMBEDDED],
}
KERNELS = {"linear": (10, 20, 40), "rbf": (10, 30, 100)}  # kernel: the values of C
CURVED = ("lesion map", "three networks")  # the sets that are tried with the second kernel as well
BLENDS = (1, 3, 6, 24)  # how many of the candidates, the best by inner log loss, are averaged
FOLDS, SENSITIVITY = 5, 0.95  # folds, outer and inner (seed + 100); what the threshold promises on the inner folds
SAID = Path(__file__).with_suffix(".json")  # how often outer folds were opened, what was tried, what it costs


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
    for learn, ask in inner:
        maps[train[ask]] = lesion_maps(here, masks, train[learn], train[ask], seed)
    maps[test] = lesion_maps(here, masks, train, test, seed)
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
    stack = np.concatenate([blocks[(224, i)] for i in (2, 5)], axis=-1)  # (views, scans, channels)
    flat = stack[:, train].reshape(-1, stack.shape[-1])
    z = (stack - flat.mean(axis=0)) / (flat.std(axis=0) + 1e-6) / np.sqrt(stack.shape[-1])
    _, vectors = np.linalg.eigh(z[0, train] @ z[0, train].T)
    z = z @ np.linalg.qr(z[0, train].T @ vectors[:, -COMPONENTS:])[0]
    model = regression(10 / VIEWS).fit(z[:, train].reshape(-1, COMPONENTS), np.tile(y[train], VIEWS))
    return np.stack([model.predict_proba(view[test]) for view in z])


def candidates(blocks, y, train, test, inner):
    """Return dict name → (probabilities of the training scans, each from its inner fold; those of the test scans)."""
    grams, result = {}, {}
    for name, keys in SETS.items():
        for key in set(keys) - set(grams):
            grams[key] = products(blocks[key] if isinstance(key, str) else blocks[key].mean(axis=0), train)
        gram = sum(grams[key] for key in keys) / len(keys)
        square = np.diag(gram)
        kernels = {"linear": gram, "rbf": np.exp(-(square[:, None] + square - 2 * gram) / 4)}
        for kernel, grid in KERNELS.items():
            if kernel == "rbf" and name not in CURVED:
                continue
            x = components(kernels[kernel], train)
            for C in grid:
                guess, model = np.zeros((len(train), 3)), regression(C)
                for learn, ask in inner:
                    guess[ask] = model.fit(x[train[learn]], y[train[learn]]).predict_proba(x[train[ask]])
                answer = model.fit(x[train], y[train]).predict_proba(x[test])
                result[f"{name}, {kernel}, C={C}"] = guess, answer
    best = sorted(result, key=lambda name: log_loss(y[train], result[name][0]))
    blends = {f"the best {m} averaged": [result[name] for name in best[:m]] for m in BLENDS}
    return result | {
        name: tuple(np.mean(part, axis=0) for part in zip(*pairs, strict=True)) for name, pairs in blends.items()
    }


def outer(blocks, here, y, groups, train, test, seed):
    """Return (dict name → probabilities of the test fold: the rungs, "nested", every candidate; record of the choice).

    ``here``: what `places` returns.
    """
    deal = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed + 100)
    inner = list(deal.split(train, y[train], groups[train]))
    result = {}
    for name, keys in {"128 px": [(128, 5)], "224 px": [(224, 5)], "two depths": [(224, 2), (224, 5)]}.items():
        x = components(sum(products(blocks[key][0], train) for key in keys) / len(keys), train)
        result[name] = regression(10).fit(x[train], y[train]).predict_proba(x[test])
    each = with_views(blocks, y, train, test)
    result |= {"views in training": each[0], "views in testing": each.mean(axis=0)}
    blocks = blocks | {"map": under_maps(here[0], here[2], train, test, inner, seed)}
    blocks["second order"] = second_order(here[1], train, seed)
    pairs = candidates(blocks, y, train, test, inner)
    blends = [name for name in pairs if "averaged" in name]
    chosen = min(blends, key=lambda name: log_loss(y[train], pairs[name][0]))
    guess, answer = pairs[chosen]
    heat = minimize_scalar(lambda t: log_loss(y[train], cooled(guess, t)), bounds=(0.3, 3), method="bounded").x
    # The highest threshold that finds SENSITIVITY of the malignant scans of the inner folds.
    threshold = np.quantile(cooled(guess, heat)[y[train] == 1, 1], 1 - SENSITIVITY, method="lower")
    result |= {name: pair[1] for name, pair in pairs.items()}
    result |= {"nested": answer, "nested, scaled": cooled(answer, heat), "threshold": threshold}
    return result, {"seed": seed, "chosen": chosen, "temperature": heat, "threshold": threshold}


def cooled(p, temperature):
    """Return probabilities with the temperature applied to their logarithms."""
    powers = np.maximum(p, 1e-9) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


RUNGS = {"averages, 128 px": "128 px", "averages, 224 px": "224 px"}  # name in the table: name of the probabilities
RUNGS |= {name: name for name in ("two depths", "views in training", "views in testing")}
RUNGS |= {  # candidates with a fixed C, then what is chosen inside
    "two sizes": "two depths, two sizes, linear, C=10",
    "five depths": "five depths, linear, C=10",
    "maxima beside averages": "five depths and maxima, linear, C=10",
    "lesion map, masks as teachers": "lesion map, linear, C=10",
    "curved kernel": "lesion map, rbf, C=30",
    "second order": "second order, linear, C=20",
    "second network": "two networks, linear, C=20",
    "third network, the embedded one": "three networks, linear, C=20",
    "best 24 candidates averaged": "the best 24 averaged",
    "nested": "nested",
    "nested, scaled": "nested, scaled",
}


def seed_of(seed, scans, mobile, resnet):
    """Return (dict name → probabilities of all scans, records): every scan from the fold that never saw its group."""
    table, y, groups = scans.table, studies.codes(scans.table["label"]), scans.table["group"].to_numpy()
    blocks = {}
    for size, count in ((128, 1), (224, VIEWS), (320, VIEWS)):
        arrays = averages(images.load(table["path"], size), mobile, count)
        blocks |= {(size, i): block for i, block in enumerate(arrays)}
    embedded = models.find_weights("phantom", "ResNet50")
    for name, size, weights in (("ResNet50", 224, resnet), ("embedded", 64, embedded)):
        arrays = averages(images.load(table["path"], size), weights, 2, "ResNet50")  # as it is and mirrored: it is slow
        blocks |= {(name, i): block for i, block in enumerate(arrays)}
    pooled, records, here = {}, [], places(table, mobile)
    deal = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(y, y, groups)
    for fold, (train, test) in enumerate(deal):
        result, record = outer(blocks, here, y, groups, train, test, seed)
        records.append({"fold": fold} | record)
        for name, p in result.items():
            pooled.setdefault(name, np.zeros((len(y), *np.shape(p)[1:])))[test] = p
        print(seed, records[-1], flush=True)
    return pooled, records


def measures(y, p, threshold=None):
    """Return the scores of one seed's probabilities, dict; ``threshold``: one per scan, the operating point's."""
    malignant, called = y == 1, p.argmax(axis=1)
    scores = {"accuracy": np.mean(called == y), "balanced": balanced_accuracy_score(y, called)}
    scores |= {"auc": roc_auc_score(y, p, multi_class="ovr"), "auc_malignant": roc_auc_score(malignant, p[:, 1])}
    scores |= {"ece": metrics.calibration_error(y, p), "sensitivity": np.mean(called[malignant] == 1)}
    if threshold is not None:
        above = p[:, 1] >= threshold
        scores |= {"point_sensitivity": above[malignant].mean(), "point_specificity": 1 - above[~malignant].mean()}
    return scores


def rows_of(scans, seeds):
    """Return the table: one row per rung, then the nested rows; ``seeds`` is [probabilities that `seed_of` returns]."""
    y, groups = studies.codes(scans.table["label"]), scans.table["group"]
    heads = runs.stored_table("clean-MobileNetV2").query("part == 'test'").groupby("seed")
    heads = [head.set_index("file_id").loc[scans.table["image_id"], PROBABILITIES].to_numpy() for _, head in heads]
    ladder = {"paper A's head, 128 px": heads[: len(seeds)]}
    ladder |= {name: [p[key] for p in seeds] for name, key in RUNGS.items()}
    names = [name for name in seeds[0] if "C=" in name or "averaged" in name]
    ladder["chosen on the test folds"] = [
        max((p[name] for name in names), key=lambda q: np.mean(q.argmax(1) == y)) for p in seeds
    ]
    rows, below = [], None
    for name, each in ladder.items():
        thresholds = [p["threshold"] if name == "nested, scaled" else None for p in seeds]
        row = {"rung": name} | pd.DataFrame(map(measures, [y] * len(each), each, thresholds)).mean().to_dict()
        right = np.mean([p.argmax(axis=1) == y for p in each], axis=0)  # over the seeds, per scan
        row["low"], row["high"] = metrics.grouped_bootstrap(np.mean, groups, right)
        if below is not None and name != "nested":  # which has no rung below: it chooses among them
            row["gain"] = np.mean(right - below)
            row["gain_low"], row["gain_high"] = metrics.grouped_bootstrap(np.mean, groups, right - below)
        rows.append(row)
        below = right
    return pd.DataFrame(rows)


def main(mobile, resnet, seeds=3):
    scans = splits.without_objections(catalogue.read(os.environ["BUSI_DIR"], name="busi"))
    mobile = models.find_weights(mobile, "MobileNetV2", "busi", "full")
    resnet = models.find_weights(resnet, "ResNet50", "busi", "full")
    pooled, choices = [], []
    for seed in range(int(seeds)):
        file = cache_dir("honest") / f"second-{seed}.pickle"
        if not file.exists():
            with write_file(file) as temporary:
                temporary.write_bytes(pickle.dumps(seed_of(seed, scans, mobile, resnet)))
        probabilities, records = pickle.loads(file.read_bytes())  # written by the line above
        pooled.append(probabilities)
        choices += records
    table = rows_of(scans, pooled).round(4)
    print(table.to_string())
    about = {"dataset": scans.identity(), "seeds": list(range(len(pooled))), "choices": choices}
    about |= json.loads(SAID.read_text(encoding="utf-8"))
    about["majority"] = float(scans.table["label"].value_counts(normalize=True).max().round(4))
    about["weights"] = [{"sentence": each.sentence, "sha256": each.sha256} for each in (mobile, resnet)]
    print(write_table("honest-BUSI", table, about))


if __name__ == "__main__":
    main(*sys.argv[1:])
