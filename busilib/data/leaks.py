"""Leaks, one at a time: pairs of splits that differ in a single thing.

Both splits of a pair have the same test files, and as many training files of each class; one of them lets something
leak from the test set into training (or shows masks instead of scans). The difference of the two scores is what
that leak is worth.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from busilib.cache import cache_dir, write_file
from busilib.data import load
from busilib.data.splits import Split, check_split, files, without_objections
from busilib.errors import DataError


class Pair(NamedTuple):
    """Two splits with the same test set: ``without`` and ``with_leak``, whose protocol is a key of `KINDS`."""

    without: Split
    with_leak: Split


def base(catalogue, seed=0):
    """Return the clean split that every pair starts from: 15 % test at random, 15 % validation, the rest training.

    Objections are dropped. The test set is drawn as paper A did, stratified, copies or not; whatever shares a group
    with it is then kept out of the other two sets, and the validation set is grouped as well.
    """
    from sklearn.model_selection import StratifiedGroupKFold, train_test_split

    table = files(without_objections(catalogue)).assign(split="spare")  # siblings of test scans remain so
    counts = table["label"].value_counts()
    if counts.min() < 7 or len(counts) < 2:
        raise DataError(f"the leaks need two classes of at least 7 scans, not {counts.to_dict()}")
    _, test = train_test_split(table.index, test_size=0.15, random_state=seed, stratify=table["label"])
    table.loc[test, "split"] = "test"
    free = table[~table["group"].isin(table.loc[test, "group"])]
    folds = StratifiedGroupKFold(6, shuffle=True, random_state=seed)
    train, validation = next(iter(folds.split(free, free["label"], free["group"])))
    table.loc[free.index[train], "split"] = "train"
    table.loc[free.index[validation], "split"] = "validation"
    return table


def clean(catalogue, seed=0):
    """Return `base` as a checked Split, with no overlap at all."""
    return _checked("clean", seed, base(catalogue, seed))


def copies(catalogue, seed=0):
    """Siblings of test scans take the place of other training scans of the same class."""
    return _pair("copies", seed, base(catalogue, seed), np.random.default_rng(seed), "group")


def masks(catalogue, seed=0):
    """Every scan is replaced by its first mask: the network sees outlines, and black for a normal scan."""
    split = clean(catalogue, seed)
    return Pair(split, replace(as_masks(split, catalogue), protocol="masks", variant=""))


def outlined(catalogue):
    """Return the catalogue when every scan has a mask, else some phantoms, and say so: what masks show needs them."""
    if catalogue.table["mask_paths"].map(len).all():
        return catalogue
    print(f"Not every scan of {catalogue.name} has a mask: what is about masks is shown with phantoms.")
    return load("phantom")


def as_masks(split, catalogue):
    """Return a split of scans with the first mask of each in the scan's place. Raises DataError when one has none."""
    first = _first_masks(catalogue).set_index("image_id").reindex(split.table["image_id"])
    lost = first.index[first["file_id"].isna()]
    if len(lost):
        raise DataError(f"{len(lost)} images have no mask, the first is {lost[0]!r}: masks cannot stand for the scans")
    table = split.table.assign(kind="mask", file_id=first["file_id"].to_numpy(), path=first["path"].to_numpy())
    return check_split(replace(split, table=table, variant="masks"))


def partner(catalogue, seed=0):
    """Of each test image one file, scan or mask, is tested; the leak puts the other one into training.

    Masks are inputs on both sides of the pair, as in paper B. The partner takes the place of a training file of the
    same kind and class.
    """
    table, rng = base(catalogue, seed), np.random.default_rng(seed)
    outlines = _first_masks(catalogue).merge(table[["image_id", "split"]], on="image_id")
    tested = dict(zip(table["image_id"], rng.choice(["scan", "mask"], len(table)), strict=True))
    both = pd.concat([table, outlines], ignore_index=True)
    both = both[both["split"] != "spare"]
    both.loc[(both["split"] == "test") & (both["kind"] != both["image_id"].map(tested)), "split"] = "spare"
    return _pair("partner", seed, both, rng, "image", "group", variant="masks are inputs too")


def augmented(catalogue, seed=0):
    """Each training scan has an augmented copy; the leak: some are copies of test scans.

    That is what happens when a folder is augmented first and split afterwards. The copies (turned by up to 20°, scaled
    by 0.8 to 1.2, mirrored at random) are written into the user's cache.
    """
    table, rng = base(catalogue, seed), np.random.default_rng(seed)
    table = table[table["split"] != "spare"]
    extra = table[table["split"] != "validation"]
    paths = [_augmented_copy(path) for path in extra["path"]]
    extra = extra.assign(kind="augmented", file_id=extra["file_id"] + "_augmented", path=paths)
    table = pd.concat([table, extra.replace({"split": {"test": "spare"}})], ignore_index=True)
    return _pair("augmented", seed, table, rng, "image", "group", variant="augmented after the split")


MAKE = {"copies": copies, "masks": masks, "partner": partner, "augmented": augmented}
KINDS = {"copies": "near-identical scans on both sides", "masks": "masks as inputs, not scans"}
KINDS |= {"partner": "a scan's mask on the other side", "augmented": "augmentation before the split"}


def _first_masks(catalogue):
    return files(catalogue, masks=True).query("kind == 'mask'").drop_duplicates("image_id")


def _pair(kind, seed, table, rng, *declared, variant=""):
    """Return the Pair of a table: without its spare rows, and with them in place of training rows that are alike."""
    leaking = table.copy()
    for alike, rows in table[table["split"] == "spare"].groupby(["label", "kind"]):
        same = table.index[(table["split"] == "train") & (table["label"] + table["kind"] == "".join(alike))]
        rows = rows.index[: len(same)]  # never more than there is room for
        leaking.loc[rng.choice(same, len(rows), replace=False), "split"] = "out"
        leaking.loc[rows, "split"] = "train"
    without = _checked("clean", seed, table, variant=variant)
    return Pair(without, _checked(kind, seed, leaking, *declared))


def _checked(protocol, seed, table, *declared, variant=""):
    table = table[~table["split"].isin(["spare", "out"])].reset_index(drop=True)
    return check_split(Split("", protocol, 0, 1, seed, table, declared, variant=variant))


def _augmented_copy(path):
    """Write the augmented copy of a scan into the cache, once for all seeds, and return its path (str)."""
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    target = cache_dir("augmented") / f"{digest[:32]}.png"
    if not target.exists():
        rng = np.random.default_rng(int(digest[:12], 16))
        with Image.open(path) as image:
            image = image.copy() if image.mode == "L" else image.convert("RGB")
        image = ImageOps.mirror(image) if rng.random() < 0.5 else image
        angle, zoom = np.deg2rad(rng.uniform(-20, 20)), rng.uniform(0.8, 1.2)
        cos, sin, x, y = np.cos(angle) * zoom, np.sin(angle) * zoom, image.width / 2, image.height / 2
        affine = (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
        with write_file(target) as temporary:
            moved = image.transform(image.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
            moved.save(temporary, compress_level=1)
    return str(target)
