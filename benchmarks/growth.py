"""The search for near-identical pictures at the size of BUSI, at ten times and at a hundred times: time and memory.

Each size runs in a process of its own, so that its peak of memory is its own. The pictures are the small copies of
phantoms, 780 and 7 800 (made once and kept in the user's cache: 7 800 take 200 MB and some four minutes of processor);
78 000 are means of two of them: their hashes and correlations are as close together as BUSI's. One in a thousand has a
changed copy, which must be found.
"""

import resource
import time

import numpy as np
from PIL import Image
from rows import apart, row

from busilib.data import duplicates, phantom

BUSI = 780


def measure():
    """Return the rows: seconds and the peak of memory for 78 000 pictures; the notes have those for fewer."""
    small, ten, hundred = (apart(search, n) for n in (BUSI, 10 * BUSI, 100 * BUSI))
    note = f"{hundred['result']}; 780 pictures {small['seconds']:.2f} s, 7 800 {ten['seconds']:.2f} s"
    rows = [row("duplicate search at 100×, time", hundred["seconds"], "s", target="ours <= 600", note=note)]
    note = f"of the whole process, its pictures included; 780 pictures {small['mb']:.0f} MB, 7 800 {ten['mb']:.0f} MB"
    return [*rows, row("duplicate search at 100×, peak", hundred["mb"], "MB", target="ours <= 2000", note=note)]


def search(n):
    """Search n pictures; return a dict of the seconds, the peak of the process (MB) and how many pairs there are."""
    rng, planted, first = np.random.default_rng(0), n // 1000, min(n, 10 * BUSI)
    paths = sorted(path for path in phantom.cached(first, seed=0).glob("*/*.png") if "_mask" not in path.stem)
    pictures = small = np.stack([duplicates.small_copy(Image.open(path).convert("L")) for path in paths])
    if n > first:
        pictures = np.concatenate([blend(small, rng) for _ in range(n // first)])
    copies = pictures[:planted, :, ::-1] + rng.integers(-5, 6, (planted, *small.shape[1:]))
    pictures[n - planted :] = np.clip(copies, 0, 255)
    start = time.perf_counter()
    pairs = duplicates.near_duplicates(pictures)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    hits = sum(how == "horizontal" and j - i == n - planted for i, j, _, how in pairs)
    if hits < 0.95 * planted:
        raise RuntimeError(f"only {hits} of {planted} copies were found")
    return {"seconds": seconds, "mb": peak, "result": f"{len(pairs)} pairs, {hits} of the {planted} copies among them"}


def blend(small, rng):
    """Return uint8 (n, 64, 64): each picture's mean with another one, mirrored or not."""
    partner = small[rng.permutation(len(small))]
    partner = np.where(rng.random(len(small))[:, None, None] < 0.5, partner, partner[:, :, ::-1])
    return ((small.astype(np.uint16) + partner) // 2).astype(np.uint8)
