"""Studies over many heads on one frozen base: what each leak is worth, scans against masks, the clean protocol.

Each returns a table, one row a measurement, and keeps it in the user's cache: what is finished is not computed again.
``heads`` is a `busilib.learning.heads.Heads`, ``scans`` a catalogue.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from busilib import metrics, published, runs, stored
from busilib.cache import cache_dir, write_file
from busilib.data import leaks, splits
from busilib.recipes import CLASSES
from busilib.runs import PROBABILITIES

SELECTION = {
    "validation": "early stopping on the test part",
    "best epoch": "the best of all epochs, chosen on the test part",
}
LEAKS = leaks.KINDS | SELECTION
# Read once, like `runs.CODE`: a study of an older version is not taken for today's.
CODE = "".join(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in (__file__, leaks.__file__))


def leaks_of(heads, scans, seed):
    """Measure every leak once: one row per kind of `LEAKS`, with the accuracies without and with_leak, n and n_train.

    ``n`` is the number of test files, ``n_train`` that of the images in the training set without the leak.

    ``seed`` draws the split and the head's first weights. The two rows on choosing an epoch come from one training:
    the same weights, once the epoch chosen on the validation part, once on the test part.
    """
    return _kept(f"leaks-{seed}", heads, scans, lambda: _leaks(heads, scans, seed))


def _leaks(heads, scans, seed):
    from busilib.learning import training

    split = leaks.clean(scans, seed)
    watched = heads.train(split, seed, every_epoch=True)
    truth = codes(split.part("test")["label"])
    by_epoch = (watched.epochs.argmax(axis=2) == truth).mean(axis=1)
    loss = -np.log(np.maximum(watched.epochs[:, np.arange(len(truth)), truth], 1e-7)).mean(axis=1)
    on_test = pd.DataFrame({"epoch": watched.history["epoch"], "val_loss": loss, "val_accuracy": by_epoch})

    def chosen(history, monitor, patience=None):
        return by_epoch[training.best_epoch(history, monitor, patience) - 1]

    honest = chosen(watched.history, "val_loss", heads.recipe.patience)
    rows = [
        ("validation", honest, chosen(on_test, "val_loss", heads.recipe.patience), len(truth)),
        ("best epoch", chosen(watched.history, "val_accuracy"), chosen(on_test, "val_accuracy"), len(truth)),
    ]
    for kind, make in leaks.MAKE.items():
        pair = make(scans, seed)
        same = pair.without.sha256 == split.sha256
        without = honest if same else accuracy(heads.train(pair.without, seed).predictions)
        leaking = heads.train(pair.with_leak, seed).predictions
        rows.append((kind, without, accuracy(leaking), int((leaking["split"] == "test").sum())))
    table = pd.DataFrame(rows, columns=["kind", "without", "with_leak", "n"])
    # The same for all pairs: a mask or an augmented copy is no other image.
    n_train = split.part("train")["image_id"].nunique()
    return table.assign(seed=seed, difference=table["with_leak"] - table["without"], n_train=n_train)


def worth(rows):
    """Return what each leak is worth, in the order of `LEAKS`: mean, low, high in points, and what (in words).

    The seeds draw splits of one data set, so the interval is `metrics.corrected_interval`'s.
    """
    intervals = {
        kind: metrics.corrected_interval(100 * group["difference"], group["n_train"], group["n"])
        for kind, group in rows.groupby("kind")
    }
    table = pd.DataFrame.from_dict(intervals, orient="index", columns=["mean", "low", "high"])
    return table.loc[[kind for kind in LEAKS if kind in intervals]].assign(what=lambda t: t.index.map(LEAKS))


def scans_or_masks(heads, scans, seed, split_seed=42):
    """Train paper A's network on scans, and on their masks, on one split of paper A: one row an input.

    Columns: inputs ("scan" or "mask"), seed, accuracy, normals (right of the test part's), confusion (3×3 list).
    Validation is the test part, as in the paper. ``split_seed`` draws the split, ``seed`` the head.
    """
    return _kept(f"inputs-{seed}-{split_seed}", heads, scans, lambda: _scans_or_masks(heads, scans, seed, split_seed))


def _scans_or_masks(heads, scans, seed, split_seed):
    split, rows = splits.paper_a(scans, split_seed), []
    for inputs, seen in (("scan", split), ("mask", leaks.as_masks(split, scans))):
        matrix = confusion(heads.train(seen, seed).predictions)
        rows.append((inputs, seed, metrics.accuracy(matrix), int(matrix[2, 2]), matrix.tolist()))
    return pd.DataFrame(rows, columns=["inputs", "seed", "accuracy", "normals", "confusion"])


def clean(heads, scans, seed, folds=5, class_weight=None):
    """Train on every fold of the clean protocol: the test folds' predictions, one row a scan, each scan once.

    Columns: file_id, label, group, fold, seed and the probabilities p_benign, p_malignant, p_normal; besides, of the
    validation parts the same with part "validation". ``seed`` draws the folds and the heads.
    """
    name = f"clean-{seed}-{folds}-{class_weight}"
    return _kept(name, heads, scans, lambda: _clean(heads, scans, seed, folds, class_weight))


def _clean(heads, scans, seed, folds, class_weight):
    tables = []
    for fold in range(folds):
        split = splits.clean(scans, fold, folds, seed)
        predictions = heads.train(split, seed, class_weight).predictions
        predictions = predictions.assign(group=split.table["group"], fold=fold, seed=seed)
        tables.append(predictions[predictions["split"] != "train"])
    table = pd.concat(tables, ignore_index=True).rename(columns={"split": "part"})
    return table[["file_id", "label", "group", "part", "fold", "seed", *PROBABILITIES]]


def three_ways():
    """Return one row a paper, from the stored results: what it prints, the same protocol here, and done properly.

    A list of dicts of text. Intervals are 95 %: Wilson's for one split, over groups for the pooled test folds.
    """

    def one(name):
        s = stored.load(name)["parts"]["test"]["summary"]
        return f"{s['accuracy']:.3f} [{s['accuracy_low']:.3f}, {s['accuracy_high']:.3f}] of {s['n']}"

    folds = stored.table("clean-ResNet50").query("part == 'test' and seed == 0")
    pooled = metrics.with_intervals(codes(folds["label"]), folds[PROBABILITIES].to_numpy(), folds["group"])
    value, low, high = pooled.loc["accuracy", ["value", "low", "high"]]
    proper = f"{value:.3f} [{low:.3f}, {high:.3f}] of {len(folds)}"
    printed_a, printed_b = published.A_SCORES.loc[3, "accuracy"] / 100, metrics.accuracy(published.B_CONFUSION)
    rows = [
        ("A: ResNet50", f"{printed_a:.3f} of {published.A_FILES['test']}", one("A-tuned-paper"), proper),
        (
            "B: Inception-ResNet-v2",
            f"{printed_b:.3f} of {published.B_FILES['test']}",
            one("B-frozen-paper"),
            one("B-frozen-clean"),
        ),
    ]
    columns = ("paper", "paper says", "same protocol here", "done properly")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def leaks_markdown():
    """Return what each leak is worth on the real BUSI, from the stored tables: a table in Markdown, one line a leak."""
    names = [name for name in stored.tables() if name.startswith("leaks-")]
    tables = {name.removeprefix("leaks-"): worth(stored.table(name)) for name in names}
    lines = [f"| leak | {' | '.join(f'{name}, points [95 %]' for name in tables)} |", "|---" * (len(tables) + 1) + "|"]
    for kind, what in LEAKS.items():
        cells = (
            f"{t.loc[kind, 'mean']:+.1f} [{t.loc[kind, 'low']:+.1f}, {t.loc[kind, 'high']:+.1f}]"
            for t in tables.values()
        )
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def clean_markdown():
    """Return the clean protocol's scores on the real BUSI, first seed, from the stored tables: one line a backbone."""
    columns = {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro F1",
        "auc": "AUC",
        "sensitivity_1": "sensitivity, malignant",
    }
    lines = [f"| clean protocol | scans | {' | '.join(columns.values())} |", "|---" * (len(columns) + 2) + "|"]
    for name in ("clean-MobileNetV2", "clean-ResNet50"):
        rows = stored.table(name).query("part == 'test' and seed == 0")
        found = metrics.with_intervals(codes(rows["label"]), rows[PROBABILITIES].to_numpy(), rows["group"])
        cells = (f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in found.loc[list(columns)].itertuples())
        lines.append(f"| {name.removeprefix('clean-')} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def backbones_markdown():
    """Return two tables in Markdown from the stored table "backbones": linear probes, and scans never seen."""
    table = stored.table("backbones")
    lines = [
        "| network | weights | probe: accuracy [95 %] | gain over random weights, points [95 %] |",
        "|---|---|---|---|",
    ]
    for r in table.query("question == 'probe'").itertuples():
        gain = (
            f"{100 * r.gain:+.1f} [{100 * r.gain_low:+.1f}, {100 * r.gain_high:+.1f}]" if r.weights != "random" else ""
        )
        lines.append(f"| {r.network} | {r.weights} | {r.accuracy:.3f} [{r.low:.3f}, {r.high:.3f}] | {gain} |")
    lines += [
        "",
        f"| network, trained on phantoms alone | BUSI scans | balanced accuracy [95 %] | {' | '.join(CLASSES)} |",
    ]
    lines.append("|---" * (3 + len(CLASSES)) + "|")
    for r in table.query("question == 'never seen'").itertuples():
        found = " | ".join(f"{value:.2f}" for value in r.sensitivities)
        lines.append(f"| {r.network} | {r.scans} | {r.accuracy:.3f} [{r.low:.3f}, {r.high:.3f}] | {found} |")
    return "\n".join(lines)


def codes(labels):
    """Return the class numbers of class names: int (N,)."""
    return np.array([CLASSES.index(label) for label in labels])


def confusion(predictions, part="test"):
    """Return the confusion matrix (3, 3) of one part of a table of predictions."""
    column = "split" if "split" in predictions else "part"
    table = predictions[predictions[column] == part]
    return metrics.confusion_matrix(codes(table["label"]), table[PROBABILITIES].to_numpy().argmax(axis=1))


def accuracy(predictions, part="test"):
    """Return the accuracy on one part of a table of predictions."""
    return metrics.accuracy(confusion(predictions, part))


def about(heads, scans, weights, seeds):
    """Return on what a study was measured, for `stored.write_table`."""
    return {
        "dataset": {"name": scans.name, "sha256": scans.sha256},
        "recipe": heads.recipe.as_dict(),
        "weights": {"kind": weights.kind, "sha256": weights.sha256, "sentence": weights.sentence},
        "seeds": list(seeds),
    }


def _kept(name, heads, scans, make):
    """Return a table from the cache, or make it and keep it; its key covers recipe, base, data and code."""
    from busilib.learning import features

    key = [name, heads.recipe.as_dict(), features.key(heads.frozen), scans.sha256, runs.CODE, CODE]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    file = cache_dir("studies") / f"{name}-{digest}.json"
    if not file.exists():
        with write_file(file) as temporary:
            make().to_json(temporary, orient="records", double_precision=15)
    return pd.read_json(file, orient="records", dtype=False)
