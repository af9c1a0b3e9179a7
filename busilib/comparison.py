"""Several systems on the same images: scores with intervals, and paired differences.

A system is a list of runs, one per fold; its answers are the test sets put together, where each image appears once.
"""

import pandas as pd

from busilib import metrics
from busilib.errors import RunError
from busilib.recipes import CLASSES
from busilib.runs import PROBABILITIES

MEASURES = {"accuracy": "accuracy", "macro_f1": "macro_f1", f"sensitivity_{CLASSES.index('malignant')}": "malignant"}


def pool(systems):
    """Return the answers of all systems, dict name → table with one row per image, in the same order for all.

    ``systems``: dict name → list of Runs, one per fold. The tables have image_id, label, p_benign,
    p_malignant, p_normal, truth and predicted (class numbers). Raises RunError when two folds of a system test the
    same image, when two systems were tested on different images, or when a probability is not a number.
    """
    pooled, images = {}, None
    for name, folds in systems.items():
        table = pd.concat([run.part("test") for run in folds]).sort_values("image_id", ignore_index=True)
        if twice := table.loc[table["image_id"].duplicated(), "image_id"].tolist():
            raise RunError(f"{name}: {len(twice)} images are tested in two folds, {twice[0]!r} for instance")
        if bad := table[PROBABILITIES].isna().any(axis=1).sum():
            raise RunError(f"{name}: {bad} images have a probability of NaN")
        images = images or set(table["image_id"])
        if odd := sorted(images ^ set(table["image_id"])):
            raise RunError(
                f"{next(iter(systems))} and {name} were not tested on the same images: {len(odd)} differ, {odd[0]!r} "
                "for instance. Run both on the same folds."
            )
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
