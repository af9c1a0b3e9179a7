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
from rows import row, with_peak

from busilib.data import catalogue, duplicates, images, phantom

BUSI = 780
LINEAR = "ours <= 1.1"
NOISE = 10.0  # MB: less than this is not told apart
PLANTED = 1000


def measure():
    """Return the rows: for each step the exponent of time and of memory, and what 78 000 pictures need."""
    rows = []
    for step in STEPS:
        one, ten = (measured(step, n) for n in (BUSI, 10 * BUSI))
        target = None if step == "duplicate search" else LINEAR
        time_note = (
            f"processor: {one['cpu']:.2f} s at 780 scans, {ten['cpu']:.2f} s at 7 800 (clock {ten['wall']:.2f} s)"
        )
        memory_note = (
            f"{one['mb']:.0f} MB on top at 780 scans, {ten['mb']:.0f} MB at 7 800; below {NOISE:g} counts as it"
        )
        memory = [max(NOISE, found["mb"]) for found in (one, ten)]
        rows.append(
            row(f"{step}, time", math.log10(ten["cpu"] / one["cpu"]), "exponent", target=target, note=time_note)
        )
        rows.append(
            row(f"{step}, memory", math.log10(memory[1] / memory[0]), "exponent", target=target, note=memory_note)
        )
    found = measured("duplicate search", 100 * BUSI)
    note = f"78 000 pictures, processor {found['cpu']:.0f} s; {found['said']}"
    rows.append(row("duplicate search at 100×, time", found["wall"], "s", target="ours <= 600", note=note))
    note = "peak of the whole process, its 320 MB of pictures included"
    rows.append(row("duplicate search at 100×, peak", found["peak"], "MB", target="ours <= 2000", note=note))
    return rows


def measured(step, n):
    """Run one step on n scans in a fresh process and return its figures."""
    done = subprocess.run([sys.executable, __file__, step, str(n)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{step} at {n}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def scans(n):
    """Return the folder of n phantoms and the paths of its scans."""
    folder = phantom.cached(n, seed=0)
    return folder, sorted(path for path in folder.glob("*/*.png") if "_mask" not in path.stem)


# ---- the steps: each prepares what is not counted and returns the function that is


def read_catalogue(n):
    folder, _ = scans(n)
    duplicates.near_duplicates = lambda small: []  # a row of its own
    return lambda: catalogue.read(folder)


def search(n):
    from PIL import Image

    folder, paths = scans(min(n, 10 * BUSI))
    small = np.stack([duplicates.small_copy(Image.open(path).convert("L")) for path in paths])
    if n == len(small):
        return lambda: f"{len(duplicates.near_duplicates(small))} pairs"
    rng = np.random.default_rng(0)
    pictures = np.concatenate([blend(small, rng) for _ in range(n // len(small))])
    first, last = np.arange(n // PLANTED), n - 1 - np.arange(n // PLANTED)
    noise = rng.integers(-5, 6, pictures[last].shape)
    pictures[last] = np.clip(pictures[first][:, :, ::-1] + noise, 0, 255)
    planted = {(i, j, "horizontal") for i, j in zip(first.tolist(), last.tolist(), strict=True)}

    def count():
        pairs = duplicates.near_duplicates(pictures)
        found = planted & {(i, j, how) for i, j, _, how in pairs}
        if len(found) < 0.95 * len(planted):
            raise RuntimeError(f"only {len(found)} of {len(planted)} copies were found")
        return f"{len(pairs)} pairs, {len(found)} of the {len(planted)} copies among them"

    return count


def blend(small, rng):
    """Return uint8 (n, 64, 64): each picture's mean with another one, mirrored or not."""
    partner = small[rng.permutation(len(small))]
    partner = np.where(rng.random(len(small))[:, None, None] < 0.5, partner, partner[:, :, ::-1])
    return ((small.astype(np.uint16) + partner) // 2).astype(np.uint8)


def load_images(n):
    _, paths = scans(n)
    return lambda: images.load(paths, 128)


def augment(n):
    from busilib.learning.augmentation import RandomAffine

    pixels, layer = np.random.default_rng(0).integers(0, 256, (n, 128, 128, 3), dtype=np.uint8), RandomAffine(seed=0)
    layer(pixels[:32], training=True)  # the first call builds it

    def through():
        for start in range(0, n, 32):
            np.asarray(layer(pixels[start : start + 32], training=True))

    return through


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
        said, peak = with_peak(function)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    said = said if isinstance(said, str) else ""
    print(json.dumps({"cpu": cpu, "wall": wall, "mb": peak - before, "peak": peak, "said": said}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
