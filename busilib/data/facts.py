"""What is known about BUSI: package tables of its images and masks, and how a folder differs from them."""

from functools import cache
from importlib.resources import files

import pandas as pd


@cache
def _table(name):
    with files("busilib").joinpath("tables", f"busi_{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False)


def images():
    """Return the facts about BUSI's 780 images, one row each.

    Columns: image_id, label, width, height (pixels), file_sha256 (the original PNG), pixel_sha256 (the RGB pixels),
    group (near-identical scans, by the published list), objection ("", axilla, needle or multiclass), annotation
    (burned-in marks, "" when none), cross_class (1 when the group has two labels), also_like (an image of another
    group that shows the same picture, "" when none).
    """
    return _table("images").copy()


def masks():
    """Return the facts about BUSI's 798 masks: mask_id, image_id, pixel_sha256 (the RGB pixels)."""
    return _table("masks").copy()


def matches(table):
    """Return for each image of a catalogue's table the row number in `images` with the same pixels, or -1.

    Of several rows with the same pixels, the one with the image's own name goes first, then the one with its label.
    """
    known = _table("images")
    by_pixels = {}
    for number, row in enumerate(known.itertuples()):
        by_pixels.setdefault(row.pixel_sha256, []).append((number, row.image_id, row.label))
    found = []
    for row in table.itertuples():
        same = by_pixels.get(row.pixel_sha256, [])
        same = sorted(same, key=lambda one: (one[1] != row.image_id, one[2] != row.label))
        found.append(same[0][0] if same else -1)
    return found


def like_busi(found):
    """Say whether most images of a folder are BUSI's, given the row numbers of `matches`."""
    return sum(number >= 0 for number in found) > len(found) / 2


def differences(table, found):
    """Return sentences on how a folder of BUSI images differs from the facts table; none when it is the original."""
    known = _table("images").to_dict("records")
    ids, present, seen = {row["image_id"] for row in known}, set(table.image_id), set(found)
    missing = [row["image_id"] for k, row in enumerate(known) if k not in seen and row["image_id"] not in present]
    changed, added, renamed, moved = [], [], [], []
    for number, row in zip(found, table.itertuples(), strict=True):
        was = known[number]
        if number < 0:
            (changed if row.image_id in ids else added).append(row.image_id)
        elif was["image_id"] != row.image_id:
            renamed.append(f"{row.image_id} (was {was['image_id']})")
        if number >= 0 and was["label"] != row.label:
            moved.append(f"{row.image_id} (was {was['label']})")
    kinds = ((missing, _MISSING), (changed, _CHANGED), (added, _ADDED), (renamed, _RENAMED), (moved, _MOVED))
    return _sentences(kinds, "image") + _mask_differences(table)


_MISSING = ("of BUSI is missing", "of BUSI are missing")
_CHANGED = ("has other pixels than in BUSI", "have other pixels than in BUSI")
_ADDED = ("is not in BUSI", "are not in BUSI")
_RENAMED = ("has another name than in BUSI", "have another name than in BUSI")
_MOVED = ("has another label than in BUSI", "have another label than in BUSI")


def _sentences(kinds, noun):
    return [f"{count(names, noun)} {what[len(names) > 1]}: {some(names)}." for names, what in kinds if names]


def _mask_differences(table):
    """Compare the masks of the images that kept their names."""
    known = _table("masks")
    expected = {}
    for mask_id, image_id, pixels in known.itertuples(index=False):
        expected.setdefault(image_id, {})[mask_id] = pixels
    missing, changed, added = [], [], []
    for row in table.itertuples():
        here = dict(zip(row.mask_ids, row.mask_sha256, strict=True))
        there = expected.get(row.image_id, {})
        missing += [name for name in there if name not in here]
        added += [name for name in here if there and name not in there]
        changed += [name for name in here if name in there and here[name] != there[name]]
    if not any(len(names) for names in table.mask_ids):
        return []
    return _sentences(((missing, _MISSING), (changed, _CHANGED), (added, _ADDED)), "mask")


def count(things, noun):
    """Return "1 image", "2 images"."""
    return f"{len(things)} {noun}" + ("" if len(things) == 1 else "s")


def some(names, most=10):
    """Return the first names, separated by commas, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
