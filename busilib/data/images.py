"""From files to arrays: pixels, masks, and the shape of a lesion."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pandas as pd
from PIL import Image

from busilib.cache import bar
from busilib.errors import DataError

SHAPE_FEATURES = (
    "area perimeter solidity eccentricity extent height_to_width row column circularity orientation parts convex_area"
).split()


def load(paths, size):
    """Return the images as one uint8 RGB array (N, size, size, 3), values 0–255.

    Grey, 1-bit and colour files become RGB alike; each is resized (bilinear, averaging when it shrinks) without
    keeping its aspect ratio, as both papers did.
    Raises DataError with the name of a file that cannot be read.
    """
    if size < 1:
        raise ValueError(f"images of {size} pixels per side do not exist: IMAGE_SIZE, or size, must be 1 or more")
    paths = list(paths)
    array = np.empty((len(paths), size, size, 3), dtype=np.uint8)

    def read(i):
        try:
            array[i] = _read(paths[i], os.stat(paths[i]).st_mtime_ns, size)
        except Exception as error:  # Pillow raises many kinds on damaged files
            raise DataError(f"{paths[i]} cannot be read as an image ({error}). Is the file complete?") from error

    with ThreadPoolExecutor() as pool:
        list(bar(pool.map(read, range(len(paths))), f"images at {size} px", total=len(paths), unit="image"))
    return array


@lru_cache(maxsize=2048)
def _read(path, changed, size):
    """Return one image (size, size, 3); the process remembers it until the file has ``changed`` (ns)."""
    with Image.open(path) as image:
        if is_deep(image):
            raise ValueError("more than 8 bits per channel, which would be cut")
        mode = "L" if image.mode in ("1", "L") else "RGB"  # a grey file is resized in one channel
        return np.asarray(image.convert(mode).resize((size, size), Image.Resampling.BILINEAR).convert("RGB"))


def is_deep(image):
    """Say whether a PIL image that was opened, but not yet decoded, has more than 8 bits per channel.

    Pillow cuts 16-bit colour to 8 without a word; what is to be decoded (its tiles) still says 16.
    """
    return image.mode.startswith(("I", "F")) or ";16" in str(image.tile)


def mask_pixels(image):
    """Return a mask (PIL image) as RGB: its alpha channel where that varies, for then the lesion is drawn there."""
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if len(set(alpha.getextrema())) > 1:
            return alpha.convert("RGB")
    return image.convert("RGB")


def mask_union(row, size=None):
    """Return where an image's lesions are: bool (height, width), True inside any of its masks.

    Args:
        row: a row of a catalogue's table.
        size: None for the image's own size, else a side or (height, width) in pixels; nearest neighbour.

    An image without masks gives False everywhere. A mask counts where it is brighter than half of its brightest
    pixel, so masks of 0 and 1 work as those of 0 and 255.
    """
    height, width = (row.height, row.width) if size is None else np.broadcast_to(size, 2).tolist()
    masks = _masks(row.mask_paths, (width, height), Image.Resampling.NEAREST)
    return np.any([np.zeros((height, width), dtype=bool), *(values > values.max() / 2 for values in masks)], axis=0)


def small_mask(paths, size=128, resample=Image.Resampling.BICUBIC):
    """Return where any of an image's masks is not black, after shrinking: bool (size, size)."""
    masks = _masks(paths, (size, size), resample)
    return np.any([np.zeros((size, size), dtype=bool), *(values > 0 for values in masks)], axis=0)


def _masks(paths, size, resample):
    """Yield the grey values of masks, resized to ``size`` = (width, height)."""
    for path in paths:
        with Image.open(path) as image:
            yield np.asarray(mask_pixels(image).convert("L").resize(size, resample))


def shape_table(catalogue, size=128, resample=Image.Resampling.BICUBIC, region="union"):
    """Return the twelve `SHAPE_FEATURES` of a catalogue's images: a float DataFrame, one row per image, in its order.

    See `small_mask` and `shape_features` for what is measured; an image without masks counts as one with a black mask.
    """
    rows = [shape_features(small_mask(paths, size, resample), region) for paths in catalogue.table["mask_paths"]]
    return pd.DataFrame(rows, columns=SHAPE_FEATURES, index=catalogue.table["image_id"])


def shape_features(mask, region="union"):
    """Return the twelve `SHAPE_FEATURES` of a bool mask (height, width) as a tuple of floats; zeros for a black mask.

    ``region``: "union" measures all connected parts as one region, "largest" only the largest part. Lengths and areas
    are in pixels, the orientation in radians; the circularity is 4π · area / perimeter². Measured by
    ``skimage.measure.regionprops``, where each is defined.
    """
    from skimage import measure

    if region not in ("union", "largest"):
        raise ValueError(f"region must be 'union' or 'largest', not {region!r}")
    if not mask.any():
        return (0.0,) * len(SHAPE_FEATURES)
    labels, parts = measure.label(mask, return_num=True)
    regions = measure.regionprops(labels if region == "largest" else mask.astype(np.uint8))
    one = max(regions, key=lambda candidate: candidate.area)
    top, left, bottom, right = one.bbox
    circularity = 4 * np.pi * one.area / one.perimeter**2 if one.perimeter else 0.0
    values = (one.area, one.perimeter, one.solidity, one.eccentricity, one.extent, (bottom - top) / (right - left))
    values += (*one.centroid, circularity, one.orientation, parts, one.area_convex)
    return tuple(float(value) for value in values)
