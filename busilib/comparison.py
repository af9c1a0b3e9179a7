"""Several systems on the same images: scores with intervals, and paired differences.

A system is a list of runs, one a fold; its answers are the test parts put together, where each image appears once.
"""

import numpy as np
import pandas as pd

from busilib import metrics
from busilib.errors import RunError
from busilib.recipes import CLASSES
from busilib.runs import PROBABILITIES


def pool(systems):
    """Return the answers of all systems, dict name → table of one row an image, in the same order for all.

    ``systems``: dict name → list of Runs, one a fold. The tables have image_id, fold (from 1), label, p_benign,
    p_malignant, p_normal, truth and predicted (class numbers). Raises RunError when two folds of a system test the
    same image, when two systems were tested on different images, or when a probability is not a number.
    """
    pooled = {}
    for name, folds in systems.items():
        parts = [run.part("test").assign(fold=number) for number, run in enumerate(folds, start=1)]
        table = pd.concat(parts).sort_values("image_id").reset_index(drop=True)
        twice = table.loc[table["image_id"].duplicated(), "image_id"]
        if len(twice):
            raise RunError(f"{name}: {len(twice)} images are tested in two folds, {twice.iloc[0]!r} for instance")
        values = table[PROBABILITIES].to_numpy(dtype=float)
        if not np.isfinite(values).all():
            raise RunError(f"{name}: {(~np.isfinite(values)).any(axis=1).sum()} images have a probability of NaN")
        truth = table["label"].map(CLASSES.index)
        pooled[name] = table.assign(truth=truth, predicted=values.argmax(axis=1))
    first, *others = pooled
    for name in others:
        odd = set(pooled[first]["image_id"]) ^ set(pooled[name]["image_id"])
        if odd:
            raise RunError(
                f"{first} and {name} were not tested on the same images: {len(odd)} differ, {sorted(odd)[0]!r} for "
                "instance. Run both on the same folds."
            )
    return pooled


MEASURES = {"accuracy": "accuracy", "macro_f1": "macro_f1", f"sensitivity_{CLASSES.index('malignant')}": "malignant"}


def scores(pooled, groups, draws=500):
    """Return one row a system, best first: n, right, accuracy, macro_f1 and malignant (sensitivity), with intervals.

    ``groups``: Series image_id → group of near-identical scans; whole groups are drawn for the intervals (95 %).
    """
    rows = {}
    for name, table in pooled.items():
        rows[name] = {"n": len(table), "right": int((table["truth"] == table["predicted"]).sum())}
        of = table["image_id"].map(groups)
        found = metrics.with_intervals(table["truth"], table[PROBABILITIES], of, draws=draws)
        for key, measure in MEASURES.items():
            value, low, high = found.loc[key, ["value", "low", "high"]]
            rows[name] |= {measure: value, f"{measure}_low": low, f"{measure}_high": high}
    return pd.DataFrame(rows).T.astype({"n": int, "right": int}).sort_values("accuracy", ascending=False, kind="stable")


def differences(pooled, groups, best, draws=500):
    """Return one row a system: its accuracy minus that of ``best`` on the same images, with its 95 % interval.

    Columns: difference, difference_low, difference_high.

    Paired: a draw takes the same groups for both. An interval that holds 0 leaves open which of the two is better.
    """
    rows = {}
    for name, table in pooled.items():
        arrays = (table["truth"], table["predicted"], pooled[best]["predicted"])
        low, high = metrics.grouped_bootstrap(_gain, table["image_id"].map(groups), *arrays, draws=draws)
        gain = _gain(*map(np.asarray, arrays))
        rows[name] = {"difference": gain, "difference_low": low, "difference_high": high}
    return pd.DataFrame(rows).T


def markdown(table):
    """Return the stored table "comparators" (`busilib.stored.table`) as the README shows it, one line a system."""
    lines = [
        "| system | accuracy [95 %] | macro F1 [95 %] | malignant found | difference to the best | base | parameters "
        "| CPU time | memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        gap = f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"
        lines.append(
            f"| {row['title']} | {row['accuracy']:.3f} [{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}] "
            f"| {row['macro_f1']:.3f} [{row['macro_f1_low']:.3f}, {row['macro_f1_high']:.3f}] | {row['malignant']:.2f} "
            f"| {gap if row['difference'] else 'the best'} | {row['backbone']} | {row['parameters']:,} "
            f"| {row['cpu_seconds']:.0f} s | {row['memory_mb']:.0f} MB |"
        )
    return "\n".join(lines)


def _gain(truth, predicted, best):
    return float(np.mean(predicted == truth) - np.mean(best == truth))
