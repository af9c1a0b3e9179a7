"""How time and memory grow with the data set: at the size of BUSI, at ten times, the duplicate search at a hundred.

    python benchmarks/growth.py STEP N      one step by itself: seconds of processor and of clock, MB

Each step runs in a process of its own, so that its peak of memory is its own; imports and data that it is given do not
count. The scans are phantoms, 780 and 7 800 (made once and kept in the user's cache: 7 800 take 200 MB and some four
minutes of processor). The 78 000 pictures are means of the small copies of two phantoms: their hashes and correlations
are as close together as BUSI's. One in a thousand has a changed copy, which must be found.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import psutil
from PIL import Image
from rows import row, with_peak

from busilib.data import catalogue, duplicates, images, phantom

BUSI = 780
# What grows: the key in a step's figures, its unit, and the least that is told apart.
FIGURES = {"time": ("cpu", "s of processor", 0.0), "memory": ("mb", "MB on top", 10.0)}


def measure():
    """Return the rows: for each step the exponent of time and of memory, and what 78 000 pictures need."""
    rows = []
    for step in STEPS:
        one, ten = (measured(step, n) for n in (BUSI, 10 * BUSI))
        target = None if step == "duplicate search" else "ours <= 1.1"
        for name, (key, unit, least) in FIGURES.items():
            small, large = (max(least, figures[key]) for figures in (one, ten))
            note = f"{small:.2f} {unit} at 780 scans, {large:.2f} at 7 800"
            rows.append(row(f"{step}, {name}", math.log10(large / small), "exponent", target=target, note=note))
    most = measured("duplicate search", 100 * BUSI)
    note = f"78 000 pictures, processor {most['cpu']:.0f} s; {most['result']}"
    rows.append(row("duplicate search at 100×, time", most["wall"], "s", target="ours <= 600", note=note))
    note = "peak of the whole process, its 320 MB of pictures included"
    return [*rows, row("duplicate search at 100×, peak", most["peak"], "MB", target="ours <= 2000", note=note)]


def measured(step, n):
    """Run one step on n scans in a fresh process and return its figures."""
    command = [sys.executable, __file__, step, str(n)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


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
    images = (Image.open(path).convert("L") for path in scans(min(n, 10 * BUSI)))
    pictures = small = np.stack([duplicates.small_copy(image) for image in images])
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


def augment(n):
    from busilib.learning.augmentation import RandomAffine

    pixels, layer = np.random.default_rng(0).integers(0, 256, (n, 128, 128, 3), dtype=np.uint8), RandomAffine(seed=0)
    through = lambda start: np.asarray(layer(pixels[start : start + 32], training=True)).shape  # noqa: E731
    through(0)  # the first call builds it
    return lambda: [through(start) for start in range(0, n, 32)]


def score(n):
    from busilib import metrics

    rng = np.random.default_rng(0)
    truth, groups = rng.integers(0, 3, n), rng.integers(0, n // 2, n)
    probabilities = rng.dirichlet((1, 1, 1), n)
    return lambda: metrics.with_intervals(truth, probabilities, groups)


STEPS = {
    "catalogue without the duplicate search": read_catalogue,
    "duplicate search": search,
    "images as arrays, 128 px": load_images,
    "augmentation, 128 px": augment,
    "scores with intervals": score,
}


def main(step, n):
    """Measure one step on n scans and print the figures as JSON."""
    function = STEPS[step](n)
    with tempfile.TemporaryDirectory() as empty:
        os.environ["BUSILIB_CACHE"] = empty  # from here on nothing is answered from a cache
        before, cpu, wall = psutil.Process().memory_info().rss / 1e6, time.process_time(), time.perf_counter()
        result, peak = with_peak(function)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(json.dumps({"cpu": cpu, "wall": wall, "mb": peak - before, "peak": peak, "result": str(result)[:100]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
