"""How time and memory grow with the data set: at the size of BUSI, at ten times, the duplicate search at a hundred.

Each step runs in a process of its own, so that its peak of memory is its own; imports and data that it is given do not
count. The scans are phantoms, 780 and 7 800 (made once and kept in the user's cache: 7 800 take 200 MB and some four
minutes of processor). The 78 000 pictures are means of the small copies of two phantoms: their hashes and correlations
are as close together as BUSI's. One in a thousand has a changed copy, which must be found.
"""

import math
import os
import tempfile
import time

import numpy as np
import psutil
from PIL import Image
from rows import apart, row, with_peak

from busilib.data import catalogue, duplicates, images, phantom

BUSI = 780
# What grows: the key in a step's figures, its unit, and the least that is told apart.
FIGURES = {"time": ("cpu", "s of processor", 0.0), "memory": ("mb", "MB on top", 10.0)}


def measure():
    """Return the rows: for each step the exponent of time and of memory, and what 78 000 pictures need."""
    rows = []
    for step in STEPS:
        one, ten = (apart(measured, step, n) for n in (BUSI, 10 * BUSI))
        target = None if step == "duplicate search" else "ours <= 1.1"
        for name, (key, unit, least) in FIGURES.items():
            small, large = (max(least, figures[key]) for figures in (one, ten))
            note = f"{small:.2f} {unit} at 780 scans, {large:.2f} at 7 800"
            rows.append(row(f"{step}, {name}", math.log10(large / small), "exponent", target=target, note=note))
    most = apart(measured, "duplicate search", 100 * BUSI)
    note = f"78 000 pictures, processor {most['cpu']:.0f} s; {most['result']}"
    rows.append(row("duplicate search at 100×, time", most["wall"], "s", target="ours <= 600", note=note))
    note = "peak of the whole process, its 320 MB of pictures included"
    return [*rows, row("duplicate search at 100×, peak", most["peak"], "MB", target="ours <= 2000", note=note)]


def measured(step, n):
    """Return the figures of one step on n scans: seconds of processor and of clock, MB on top, peak in MB, result."""
    function = STEPS[step](n)
    with tempfile.TemporaryDirectory() as empty:
        os.environ["BUSILIB_CACHE"] = empty  # from here on nothing is answered from a cache
        before, cpu, wall = psutil.Process().memory_info().rss / 1e6, time.process_time(), time.perf_counter()
        result, peak = with_peak(function)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu, "wall": wall, "mb": peak - before, "peak": peak, "result": str(result)[:100]}


def scans(n):
    """Return the paths of the scans of n phantoms."""
    return sorted(path for path in phantom.cached(n, seed=0).glob("*/*.png") if "_mask" not in path.stem)


# ---- the steps: each prepares what is not counted and returns the function that is


def read_catalogue(n):
    folder = phantom.cached(n, seed=0)
    duplicates.near_duplicates = lambda small: []  # a row of its own
    return lambda: catalogue.read(folder)


def search(n):
    rng, planted = np.random.default_rng(0), n // 1000
    opened = (Image.open(path).convert("L") for path in scans(min(n, 10 * BUSI)))
    pictures = small = np.stack([duplicates.small_copy(image) for image in opened])
    if n > len(small):
        pictures = np.concatenate([blend(small, rng) for _ in range(n // len(small))])
    copies = pictures[:planted, :, ::-1] + rng.integers(-5, 6, (planted, *small.shape[1:]))
    pictures[n - planted :] = np.clip(copies, 0, 255)

    def count():
        pairs = duplicates.near_duplicates(pictures)
        hits = sum(how == "horizontal" and j - i == n - planted for i, j, _, how in pairs)
        if hits < 0.95 * planted:
            raise RuntimeError(f"only {hits} of {planted} copies were found")
        return f"{len(pairs)} pairs, {hits} of the {planted} copies among them"

    return count


def blend(small, rng):
    """Return uint8 (n, 64, 64): each picture's mean with another one, mirrored or not."""
    partner = small[rng.permutation(len(small))]
    partner = np.where(rng.random(len(small))[:, None, None] < 0.5, partner, partner[:, :, ::-1])
    return ((small.astype(np.uint16) + partner) // 2).astype(np.uint8)


def load_images(n):
    paths = scans(n)
    return lambda: images.load(paths, 128)


STEPS = {
    "catalogue without the duplicate search": read_catalogue,
    "duplicate search": search,
    "images as arrays, 128 px": load_images,
}
