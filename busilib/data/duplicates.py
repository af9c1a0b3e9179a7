"""Near-duplicates: a perceptual hash proposes pairs, the correlation of small copies confirms them, flips included."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

SIDE = 64
BLOCK = 1024  # images at a time, as rows and as columns of a table of all pairs: what bounds the memory
ROUNDING = 1e-5  # more than the products of float32 are off
FLIPS = {"none": (1, 1), "horizontal": (1, -1), "vertical": (-1, 1), "both": (-1, -1)}

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

    i < j, sorted. ``flipped`` says how j was turned to match i: none, horizontal (left and right changed), vertical
    or both; the best match of the four is given.
    """
    small = [_small(image) for image in images]
    small = np.stack(small) if small else np.zeros((0, SIDE, SIDE), np.uint8)
    bits, coarse = _hashes(small), _coarse(small)
    best = {}

    def search(flip):
        flipped, (up, left) = flip
        turned = small[:, ::up, ::left]
        for i, j, least in _proposals(bits, coarse, _hashes(turned), _coarse(turned), levels):
            values = _correlations(small[i], turned[j])
            for k in np.flatnonzero(values >= least):
                yield int(i[k]), int(j[k]), min(float(values[k]), 1.0), flipped

    # A thread a flip: products this small gain nothing from threads of their own, and on a busy machine wait for them.
    with threadpool_limits(1), ThreadPoolExecutor(min(len(FLIPS), os.cpu_count() or 1)) as pool:
        for found in pool.map(lambda flip: list(search(flip)), FLIPS.items()):
            for i, j, value, flipped in found:
                if value > best.get((i, j), (0.0, ""))[0]:
                    best[i, j] = (value, flipped)
    return [(i, j, *best[i, j]) for i, j in sorted(best)]


def small_copy(image):
    """Return uint8 (64, 64), the mean of each cell, of a grey PIL image."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def _small(image):
    image = np.asarray(image, dtype=np.uint8)
    return image if image.shape == (SIDE, SIDE) else small_copy(Image.fromarray(image))


def _normalised(small):
    """Return float32 (n, 4096) of mean 0 and length 1, so that a product of two rows is their correlation."""
    flat = small.reshape(len(small), SIDE * SIDE).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.where(length > 0, length, 1)


def _hashes(small):
    """Return the perceptual hashes as float32 (n, 64) of -1 and 1, so that a product counts the equal bits."""
    from imagehash import phash

    signs = [np.where(phash(Image.fromarray(one)).hash.ravel(), 1, -1) for one in small]
    return np.array(signs, dtype=np.float32).reshape(len(small), 64)


def _coarse(small, kept=12):
    """Return float32 (n, kept² + 1) whose product is never below the correlation of two images.

    Each row holds the normalised image's lowest cosine waves, and last the length of all that they leave out. The
    waves' product plus the product of the two lengths bounds the whole product (Cauchy and Schwarz).
    """
    from scipy.fft import dct

    waves = dct(np.eye(SIDE, dtype=np.float32), norm="ortho", axis=0)[:kept]
    coarse = np.empty((len(small), kept**2 + 1), dtype=np.float32)
    for start in range(0, len(small), BLOCK):
        pixels = _normalised(small[start : start + BLOCK])
        low = (waves @ pixels.reshape(-1, SIDE, SIDE) @ waves.T).reshape(len(pixels), kept**2)
        left = np.maximum((pixels**2).sum(axis=1) - (low**2).sum(axis=1), 0)
        coarse[start : start + BLOCK, :-1] = low
        coarse[start : start + BLOCK, -1] = np.sqrt(left + 1e-6)  # so that rounding never makes it too short
    return coarse


def _proposals(bits, coarse, turned_bits, turned_coarse, levels):
    """Yield arrays (i, j, least) of pairs i < j that may be near-duplicates, when they correlate by ``least`` or more.

    Two products of short vectors, a block of rows and of columns at a time, rule out nearly all pairs.
    """
    alike, loosest = 64 - 2 * max(distance for distance, _ in levels), min(least for _, least in levels) - ROUNDING
    for rows in range(0, len(bits), BLOCK):
        for columns in range(rows, len(bits), BLOCK):
            equal = bits[rows : rows + BLOCK] @ turned_bits[columns : columns + BLOCK].T  # minus those that differ
            bound = coarse[rows : rows + BLOCK] @ turned_coarse[columns : columns + BLOCK].T
            near = np.flatnonzero((equal >= alike) & (bound >= loosest))
            apart, bound = (64 - equal.ravel()[near]) / 2, bound.ravel()[near]
            least = np.min([np.where(apart <= distance, value, 2.0) for distance, value in levels], axis=0)
            i, j = near // equal.shape[1] + rows, near % equal.shape[1] + columns
            good = (bound >= least - ROUNDING) & (i < j)
            yield i[good], j[good], least[good]


def _correlations(small, turned, step=64):
    """Return the Pearson correlations (n,) of the images of two equally long stacks, one by one.

    Few at a time (``step``), so that they stay in the processor's own memory.
    """
    values = np.empty(len(small), dtype=np.float32)
    for start in range(0, len(small), step):
        one, other = (_normalised(stack[start : start + step]) for stack in (small, turned))
        values[start : start + step] = (one[:, None, :] @ other[:, :, None]).ravel()
    return values


def groups(n, pairs):
    """Return int (n,): the group of each of n images, numbered from 0 in order of first appearance.

    Images joined by a chain of pairs share a group. ``pairs`` holds tuples that begin with two image numbers.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends = np.array([(pair[0], pair[1]) for pair in pairs], dtype=int).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends), dtype=bool), (ends[:, 0], ends[:, 1])), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    _, first, which = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[which]
