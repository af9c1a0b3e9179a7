"""The shape of a lesion, from its mask alone: what a classifier can know that never sees the scan."""

import numpy as np
import pandas as pd
from PIL import Image

FEATURES = (
    "area",
    "perimeter",
    "solidity",
    "eccentricity",
    "extent",
    "height_to_width",
    "row",
    "column",
    "circularity",
    "orientation",
    "parts",
    "convex_area",
)


def table(catalogue, size=128, resample=Image.Resampling.BICUBIC, region="union"):
    """Return the twelve `FEATURES` of every image of a catalogue: a float DataFrame, one row an image, in its order.

    See `small_mask` and `features` for what is measured; an image without masks counts as one with a black mask.
    """
    rows = [features(small_mask(paths, size, resample), region) for paths in catalogue.table["mask_paths"]]
    return pd.DataFrame(rows, columns=list(FEATURES), index=catalogue.table["image_id"])


def small_mask(paths, size=128, resample=Image.Resampling.BICUBIC):
    """Return where any of an image's masks is not black, after shrinking: bool (size, size)."""
    union = np.zeros((size, size), dtype=bool)
    for path in paths:
        with Image.open(path) as image:
            union |= np.asarray(image.convert("L").resize((size, size), resample)) > 0
    return union


def features(mask, region="union"):
    """Return the twelve `FEATURES` of a bool mask (height, width) as a tuple of floats; zeros for a black mask.

    ``region``: "union" measures all connected parts as one region, "largest" only the largest part. Lengths and areas
    are in pixels, the orientation in radians; the circularity is 4π · area / perimeter². Measured by
    ``skimage.measure.regionprops``, where each is defined.
    """
    from skimage import measure

    if region not in ("union", "largest"):
        raise ValueError(f"region must be 'union' or 'largest', not {region!r}")
    if not mask.any():
        return (0.0,) * len(FEATURES)
    labels, parts = measure.label(mask, return_num=True)
    regions = measure.regionprops(labels if region == "largest" else mask.astype(np.uint8))
    one = max(regions, key=lambda found: found.area)
    top, left, bottom, right = one.bbox
    round_ = 4 * np.pi * one.area / one.perimeter**2 if one.perimeter else 0.0
    values = (one.area, one.perimeter, one.solidity, one.eccentricity, one.extent, (bottom - top) / (right - left))
    values += (*one.centroid, round_, one.orientation, parts, one.area_convex)
    return tuple(float(value) for value in values)
