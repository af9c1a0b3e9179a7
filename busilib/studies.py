"""Studies over many heads on one frozen base: what each leak is worth, scans against masks.

Each returns a table, one row per measurement, and keeps it in the user's cache: what is finished is not computed again.
``recipe`` stands on a frozen base, ``weights`` is what `learning.models.find_weights` gives, ``scans`` a catalogue.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from busilib import metrics, published, runs
from busilib.cache import cache_dir, write_file
from busilib.data import leaks, splits
from busilib.errors import RunError
from busilib.recipes import CLASSES, PROBABILITIES

LEAKS = leaks.KINDS | {"validation": "early stopping on the test set"}
LEAKS |= {"best epoch": "the best of all epochs, chosen on the test set"}
# Read once, like `runs.CODE`: a study of an older version is not taken for today's.
CODE = "".join(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in (__file__, leaks.__file__))


def leaks_of(recipe, weights, scans, seed, kinds=tuple(leaks.MAKE)):
    """Measure every leak once: one row per kind of `LEAKS`, with the accuracies without and with_leak.

    Columns: kind, without, with_leak, n (test files), n_train (training images), seed, difference. ``seed`` draws the
    split and the head's first weights. The two rows on choosing an epoch come from one training: the same weights,
    once the epoch chosen on the validation set, once on the test set. ``kinds``: which pairs of `leaks.MAKE` besides.
    """
    name = "-".join(["leaks", str(seed), *kinds])
    return _cached(name, recipe, weights, scans, lambda: _leaks(recipe, weights, scans, seed, kinds))


def _leaks(recipe, weights, scans, seed, kinds):
    from busilib.learning.training import best_epoch

    split = leaks.clean(scans, seed)
    history, on_test = _every_epoch(recipe, weights, split, seed)

    def chosen(history, monitor, patience=None):
        return on_test["val_accuracy"][best_epoch(history, monitor, patience) - 1]

    honest = chosen(history, recipe.monitor, recipe.patience)
    rows = [
        ("validation", honest, chosen(on_test, recipe.monitor, recipe.patience), split),
        ("best epoch", chosen(history, "val_accuracy"), chosen(on_test, "val_accuracy"), split),
    ]
    for kind in kinds:
        pair = leaks.MAKE[kind](scans, seed)
        same = pair.without.sha256 == split.sha256
        without = honest if same else accuracy(_train(recipe, weights, pair.without, seed))
        rows.append((kind, without, accuracy(_train(recipe, weights, pair.with_leak, seed)), pair.with_leak))
    table = pd.DataFrame(rows, columns=["kind", "without", "with_leak", "split"])
    table["n"] = [len(tested.part("test")) for tested in table.pop("split")]
    # The same for all pairs: a mask or an augmented copy is no other image.
    table["n_train"] = split.part("train")["image_id"].nunique()
    return table.assign(seed=seed, difference=table["with_leak"] - table["without"])


def _every_epoch(recipe, weights, split, seed):
    """Train to the last epoch; return its history, and the same with the test set in the validation set's place."""
    from busilib.learning import keras, training

    frozen = training.frozen_base(recipe.backbone, recipe.image_size, recipe.preprocessing, weights)
    inputs, labels = training.part(split, "test", training.still(recipe, split, frozen))
    answers = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            answers.append(training.predict(self.model, inputs))

    patient = replace(recipe, patience=None)
    history, _ = training.train_head(patient, split, weights=weights, seed=seed, callbacks=[Watch()])
    probabilities = np.stack(answers)  # (epochs, test files, classes)
    right = (probabilities.argmax(axis=2) == labels.argmax(axis=1)).mean(axis=1)
    loss = -np.log(np.maximum(probabilities[:, labels.astype(bool)], 1e-7)).mean(axis=1)
    return history, pd.DataFrame({"epoch": history["epoch"], "val_loss": loss, "val_accuracy": right})


def worth(rows):
    """Return what each leak is worth, in the order of `LEAKS`: mean, low, high (in points, over seeds), what.

    The seeds re-draw the splits of one data set, so the interval is `metrics.corrected_interval`.
    """
    table = {}
    for kind in [kind for kind in LEAKS if kind in set(rows["kind"])]:
        measured = rows[rows["kind"] == kind]
        sizes = measured["n_train"].mean(), measured["n"].mean()
        table[kind] = (*metrics.corrected_interval(100 * measured["difference"], *sizes), LEAKS[kind])
    return pd.DataFrame.from_dict(table, orient="index", columns=["mean", "low", "high", "what"])


def scans_or_masks(recipe, weights, scans, seed, split_seed=42):
    """Train paper A's network on scans, and on their masks, on one split of paper A: one row per input.

    Columns: inputs ("scan" or "mask"), seed, accuracy, normals (right of the test set's), confusion (3×3 list).
    Validation is the test set, as in the paper. ``split_seed`` draws the split, ``seed`` the head.
    """

    def make():
        split, rows = splits.paper_a(scans, split_seed), []
        for inputs, shown in (("scan", split), ("mask", leaks.as_masks(split, scans))):
            matrix = _test(_train(recipe, weights, shown, seed))
            rows.append((inputs, seed, metrics.accuracy(matrix), int(matrix[2, 2]), matrix.tolist()))
        return pd.DataFrame(rows, columns=["inputs", "seed", "accuracy", "normals", "confusion"])

    return _cached(f"inputs-{seed}-{split_seed}", recipe, weights, scans, make)


def _train(recipe, weights, split, seed):
    """Return the predictions of a head that is trained on a split."""
    from busilib.learning import training

    return training.train_head(recipe, split, weights=weights, seed=seed)[1]


def _cached(name, recipe, weights, scans, make):
    """Return a table from the cache, or make and keep it; its key covers recipe, weights, data, backend and code."""
    backend = runs.environment()["backend"]
    key = [name, recipe.as_dict(), weights.sha256 or weights.kind, scans.sha256, backend, runs.CODE, CODE]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    file = cache_dir("studies") / f"{name}-{digest}.json"
    if not file.exists():
        with write_file(file) as temporary:
            make().to_json(temporary, orient="records", double_precision=15)
    return pd.read_json(file, orient="records", dtype=False)


def codes(labels):
    """Return the class numbers of class names: int (N,)."""
    return np.array([CLASSES.index(label) for label in labels])


def _test(predictions):
    """Return the confusion matrix (3, 3) of the test rows of a table of predictions."""
    column = "split" if "split" in predictions else "part"
    return runs.confusion(predictions[predictions[column] == "test"])


def accuracy(predictions):
    """Return the accuracy on the test rows of a table of predictions."""
    return metrics.accuracy(_test(predictions))


def three_ways():
    """Return what the papers print, the same protocol here, done properly, and as good as it gets: one row per paper.

    A table of texts from the stored results. Intervals are 95 %: Wilson's for one split, over groups for the pooled
    test folds. The last column is lesson 11's nested folds with three networks, one figure for all rows.
    """

    def one(name):
        s = runs.stored(name)["parts"]["test"]["summary"]
        return f"{s['accuracy']:.3f} [{s['accuracy_low']:.3f}, {s['accuracy_high']:.3f}] of {s['n']}"

    def pooled(folds):
        scores = metrics.with_intervals(codes(folds["label"]), folds[PROBABILITIES].to_numpy(), folds["group"])
        return "{:.3f} [{:.3f}, {:.3f}] of {}, five folds".format(*scores.loc["accuracy", :"high"], len(folds))

    folds = runs.stored_table("clean-ResNet50").query("part == 'test' and seed == 0")
    best = runs.stored_table("honest-BUSI").set_index("rung").loc["nested"]
    nested = f"{best.accuracy:.3f} [{best.low:.3f}, {best.high:.3f}] of {len(folds)}, nested folds"
    tuned = runs.stored_table("folds-A").query("recipe == 'A-tuned'")
    scores = [*published.A_SCORES.query("part == 'test'")["accuracy"] / 100, metrics.accuracy(published.B_CONFUSION)]
    sizes = [published.A_FILES["test"]] * 2 + [published.B_FILES["test"]]
    table = {
        "paper": ["A: ResNet50, frozen", "A: ResNet50, fine-tuned", "B: Inception-ResNet-v2"],
        "paper says": [f"{score:.3f} of {n}" for score, n in zip(scores, sizes, strict=True)],
        "same protocol here": [one(f"{name}-paper") for name in ("A-frozen", "A-tuned", "B-frozen")],
        "done properly": [pooled(folds), pooled(tuned), pooled(runs.stored_table("folds-B"))],
        "as good as it honestly gets": [nested, "the same", "the same"],
    }
    return pd.DataFrame(table)


# --- several systems on the same images -------------------------------------------------------------------------------

MEASURES = {"accuracy": "accuracy", "macro_f1": "macro_f1", f"sensitivity_{CLASSES.index('malignant')}": "malignant"}


def pool(systems):
    """Return the answers of all systems, dict name → table with one row per image, in the same order for all.

    ``systems``: dict name → list of Runs, one per fold, whose test sets are put together. The tables have image_id,
    label, p_benign, p_malignant, p_normal, truth and predicted (class numbers). Raises RunError when two folds of a
    system test the same image, or when two systems were tested on different images.
    """
    pooled, images = {}, None
    for name, folds in systems.items():
        table = pd.concat([run.part("test") for run in folds]).sort_values("image_id", ignore_index=True)
        if twice := table.loc[table["image_id"].duplicated(), "image_id"].tolist():
            raise RunError(f"{name}: {len(twice)} images are tested in two folds, {twice[0]!r} for instance")
        images = images or set(table["image_id"])
        if odd := sorted(images ^ set(table["image_id"])):
            first = next(iter(systems))
            raise RunError(f"{first} and {name} were tested on different images, {len(odd)} of them: {odd[0]!r}, …")
        predicted = table[PROBABILITIES].to_numpy().argmax(axis=1)
        pooled[name] = table.assign(truth=table["label"].map(CLASSES.index), predicted=predicted)
    return pooled


def scores(pooled, groups, draws=500):
    """Return one row per system, best first: n, right, accuracy, macro_f1 and malignant (sensitivity), with intervals.

    ``groups``: Series image_id → group of near-identical scans; whole groups are drawn for the intervals (95 %).
    """
    rows = {}
    for name, table in pooled.items():
        drawn = table["image_id"].map(groups)
        intervals = metrics.with_intervals(table["truth"], table[PROBABILITIES], drawn, draws=draws)
        rows[name] = {"n": len(table), "right": int((table["truth"] == table["predicted"]).sum())}
        for key, measure in MEASURES.items():
            names = (measure, f"{measure}_low", f"{measure}_high")
            rows[name] |= dict(zip(names, intervals.loc[key, ["value", "low", "high"]], strict=True))
    return pd.DataFrame(rows).T.astype({"n": int, "right": int}).sort_values("accuracy", ascending=False, kind="stable")


def differences(pooled, groups, best, draws=500):
    """Return one row per system: its accuracy minus that of ``best`` on the same images, with its 95 % interval.

    Columns: difference, difference_low, difference_high. Paired: a draw takes the same groups for both. An interval
    that holds 0 leaves open which of the two is better.
    """
    rows = {}
    for name, table in pooled.items():
        right = [(one["predicted"] == one["truth"]).to_numpy() for one in (table, pooled[best])]
        gain = lambda one, other: float(one.mean() - other.mean())  # noqa: E731
        low, high = metrics.grouped_bootstrap(gain, table["image_id"].map(groups), *right, draws=draws)
        rows[name] = {"difference": gain(*right), "difference_low": low, "difference_high": high}
    return pd.DataFrame(rows).T
