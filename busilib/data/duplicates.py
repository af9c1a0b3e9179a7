"""Near-duplicates: a perceptual hash proposes pairs, the correlation of small copies confirms them, flips included."""

import numpy as np
from PIL import Image

SIDE = 64
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
    pixels, bits = _normalised(small), _hashes(small)
    best = {}
    for flipped, (up, left) in FLIPS.items():
        turned = np.ascontiguousarray(small[:, ::up, ::left])
        for i, j, value in _matches(pixels, bits, _normalised(turned), _hashes(turned), levels):
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


def _matches(pixels, bits, turned_pixels, turned_bits, levels, block=1024):
    """Yield (i, j, correlation) with i < j, a block of rows at a time so that memory stays small."""
    farthest = max(distance for distance, _ in levels)
    for start in range(0, len(pixels), block):
        apart = (64 - bits[start : start + block] @ turned_bits.T) / 2
        for i, j in np.argwhere(apart <= farthest):
            if start + i < j:
                value = float(pixels[start + i] @ turned_pixels[j])
                if any(apart[i, j] <= distance and value >= least for distance, least in levels):
                    yield int(start + i), int(j), min(value, 1.0)


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
