"""Near-duplicates: a perceptual hash proposes pairs, the correlation of small copies confirms them, flips included."""

import numpy as np
import pandas as pd
from PIL import Image

SIDE = 64
BLOCK = 512  # images at a time that are compared with all others: what bounds the memory
ROUNDING = 1e-5  # more than the products of float32 are off
FLIPS = {"none": (1, 1), "horizontal": (1, -1), "vertical": (-1, 1), "both": (-1, -1)}
# The same after rows and columns are exchanged: quarter turns, and mirrored ones.
QUARTERS = {"left": (-1, 1), "right": (1, -1), "diagonal": (1, 1), "antidiagonal": (-1, -1)}

# (largest Hamming distance of the 64-bit hashes, smallest correlation): the less the hashes agree, the more the pixels
# must. Chosen on BUSI: 226 of the published list's 254 pairs, 181 of the 193 links that make its groups, nine pairs
# that the list misses (all the same scan, looked at one by one), no false pair. The first false one comes at
# (18, 0.925): two dark tumours with a shadow.
LEVELS = ((8, 0.70), (16, 0.92), (22, 0.93))


def near_duplicates(images, levels=LEVELS):
    """Return the pairs of images that show nearly the same picture, as a list of (i, j, correlation, flipped).

    Args:
        images: grey arrays (height, width), 0–255, of any sizes; all are compared as 64×64 copies.
        levels: (distance, correlation) pairs. Perceptual hashes (imagehash.phash, 64 bits) at most ``distance`` apart
            propose a pair; a Pearson correlation of the small copies of at least ``correlation`` confirms it.

    i < j, sorted. ``flipped`` says how j was turned to match i: none, horizontal (left and right changed), vertical,
    both, left or right (a quarter turn), diagonal or antidiagonal (mirrored there); the best match is given.
    """
    small = np.array([small_copy(Image.fromarray(np.uint8(image))) for image in images]).reshape(-1, SIDE, SIDE)
    bits, coarse, best = _bits(small), _coarse(small), {}
    for flipped, (up, left) in (FLIPS | QUARTERS).items():
        turned = (small.swapaxes(1, 2) if flipped in QUARTERS else small)[:, ::up, ::left]
        for i, j, least in _proposals(bits, coarse, _bits(turned), _coarse(turned), levels):
            values = (_normalised(small[i]) * _normalised(turned[j])).sum(axis=1)
            for one, other, value in np.column_stack([i, j, values])[values >= least].tolist():
                if value > best.get((one, other), (0.0, ""))[0]:
                    best[one, other] = (min(value, 1.0), flipped)
    return [(int(i), int(j), *best[i, j]) for i, j in sorted(best)]


def small_copy(image):
    """Return uint8 (64, 64), the mean of each cell, of a grey PIL image."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def _normalised(small):
    """Return float32 (n, 4096) of mean 0 and length 1, so that a product of two rows is their correlation."""
    flat = small.reshape(len(small), SIDE * SIDE).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)


def _bits(small):
    """Return the perceptual hashes as float32 (n, 64) of -1 and 1, so that a product counts the equal bits."""
    from imagehash import phash

    signs = [np.where(phash(Image.fromarray(one)).hash.ravel(), 1, -1) for one in small]
    return np.array(signs, dtype=np.float32).reshape(len(small), 64)


def _coarse(small):
    """Return float32 (n, 257) whose product is never below the correlation of two images.

    Each row holds the normalised image's 16×16 means, and last the length of what they leave out: the means' product
    plus the product of the two lengths bounds the whole product (Cauchy and Schwarz).
    """
    means = small.reshape(-1, 16, 4, 16, 4).mean(axis=(2, 4), dtype=np.float32).reshape(-1, 256)
    length = np.array([max(SIDE * image.std(), 1e-9) for image in small], dtype=np.float32).reshape(-1, 1)
    means = 4 * (means - means.mean(axis=1, keepdims=True)) / length
    return np.hstack([means, np.sqrt(np.maximum(1 - (means**2).sum(axis=1, keepdims=True), 0) + 1e-6)])


def _proposals(bits, coarse, turned_bits, turned_coarse, levels):
    """Yield arrays (i, j, least), at most 64 long: pairs i < j that are near-duplicates if they correlate by least.

    Two products of short vectors, BLOCK images against all that follow them, rule out nearly all pairs.
    """
    alike, loosest = 64 - 2 * max(apart for apart, _ in levels), min(value for _, value in levels) - ROUNDING
    for start in range(0, len(bits), BLOCK):
        equal = bits[start : start + BLOCK] @ turned_bits[start:].T  # equal bits minus those that differ
        bound = coarse[start : start + BLOCK] @ turned_coarse[start:].T
        i, j = np.nonzero((equal >= alike) & (bound >= loosest))
        least = np.min([np.where(equal[i, j] >= 64 - 2 * apart, value, 2.0) for apart, value in levels], axis=0)
        likely = np.flatnonzero((bound[i, j] >= least - ROUNDING) & (i < j))
        for k in np.split(likely, range(64, len(likely), 64)):
            yield i[k] + start, j[k] + start, least[k]


def groups(n, pairs):
    """Return int (n,): the group of each of n images, numbered from 0 in order of first appearance.

    Images joined by a chain of pairs share a group. ``pairs`` holds tuples that begin with two image numbers.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends = np.array([pair[:2] for pair in pairs], dtype=int).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends), dtype=bool), (ends[:, 0], ends[:, 1])), shape=(n, n))
    return pd.factorize(connected_components(graph, directed=False)[1])[0]
