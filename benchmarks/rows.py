"""One row of the benchmarks' table, and what the measuring modules share.

A measuring module is benchmarks/NAME.py with ``measure() -> list of rows``. What cannot be measured on a machine is a
`not_measured` row: bench.py then leaves the earlier one in its place.
"""

import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from unittest.mock import patch

import joblib
import pandas as pd

import busilib

COLUMNS = ("name", "ours", "other", "ratio", "unit", "target", "reached", "device", "date", "version", "note")


def row(name, ours, unit, other=None, better="higher", target=None, note="", device=None):
    """Return one row, a dict with the keys `COLUMNS`.

    Args:
        name: what is measured, unique in its module and the same every time, whatever the machine finds.
        ours, unit: our figure and its unit ("images/s", "s", "MB").
        other: the same figure of what ours is compared with, measured side by side; None when there is none.
        better: "higher" (images per second) or "lower" (seconds): ratio > 1 always means that ours is better.
        target: "ratio >= 10" or "ours <= 0.3"; None when there is none.
        note: what ``other`` is, what it was measured on.
        device: what computed; None for the processor, with the cores that this process may use.
    """
    ratio = None if other is None else ours / other if better == "higher" else other / ours
    reached = None if target is None else bool(pd.eval(target, local_dict={"ours": ours, "ratio": ratio}))
    # Four significant digits: more are noise in a file that is committed.
    ours, other, ratio = (None if value is None else float(f"{value:.4g}") for value in (ours, other, ratio))
    where = (device or f"CPU, {joblib.cpu_count()} cores", time.strftime("%Y-%m-%d"), busilib.__version__)
    return dict(zip(COLUMNS, (name, ours, other, ratio, unit, target, reached, *where, note), strict=True))


def not_measured(name, reason, target=None):
    """Return the row of a figure that cannot be had here."""
    return dict.fromkeys(COLUMNS) | {"name": name, "target": target, "note": f"not measured: {reason}"}


def apart(function, *arguments, **environment):
    """Return what a module's function gives in a fresh process, whose environment has these variables besides.

    Nothing that another measurement imported, cached or holds in memory is there, and what goes wrong stays there.
    """
    with patch.dict(os.environ, environment), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def seconds(*functions, repeats=5):
    """Return the median wall time (s) of each function, called in turns so that a slow moment hits all alike."""
    times = [[] for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]
