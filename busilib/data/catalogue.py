"""The catalogue: any folder in the BUSI layout becomes one table, one row an image.

scans = catalogue.read("Dataset_BUSI_with_GT")
scans.table      # image_id, label, path, mask_paths, width, height, pixel_sha256, group, flags, …
scans.counts()   # images, masks and files of each class
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from busilib.data import duplicates, facts
from busilib.data.facts import count, some
from busilib.data.folder import find_folder, pixel_sha256, read_files
from busilib.data.natural import natural_key
from busilib.errors import DataError
from busilib.recipes import CLASSES

__all__ = ["FLAGS", "Catalogue", "check", "mask_union", "pixel_sha256", "read", "report", "report_data"]

FLAGS = ("axilla", "needle", "contradictory", "marks", "objection", "colour")


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The images of one data set.

    Attributes:
        table: one row an image, sorted by class (benign, malignant, normal), then naturally by name. Columns:
            image_id (str, unique); label; path (pathlib.Path); mask_paths (tuple of Path); mask_ids (tuple of str,
            "benign (1)_mask"); mask_sha256 (tuple of str, of the RGB pixels); width, height (pixels); pixel_sha256
            (of the RGB pixels); group (str, near-identical images share one); flags (tuple, a part of
            `FLAGS`; write ``table["flags"]``, for ``table.flags`` is something of pandas' own).
        name: "busi", or the folder's name.
        sha256: of the sorted lines "image_id label pixel_sha256 mask_sha256 …"; any changed pixel changes it.
        warnings: sentences on what is unusual; the folder can be used all the same.
        pairs: the near-duplicates found: image_a, image_b, correlation, flipped.
    """

    table: pd.DataFrame
    name: str
    sha256: str
    warnings: tuple[str, ...] = ()
    pairs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=_PAIRS))

    @property
    def classes(self):
        """The classes present, in the order benign, malignant, normal."""
        return tuple(label for label in CLASSES if (self.table.label == label).any())

    def counts(self):
        """Return a DataFrame: a row for each class present and "total"; columns images, masks, files."""
        masks = self.table.mask_paths.map(len)
        rows = {}
        for label in self.classes:
            here = self.table.label == label
            rows[label] = {"images": int(here.sum()), "masks": int(masks[here].sum())}
        counts = pd.DataFrame.from_dict(rows, orient="index", columns=["images", "masks"])
        counts["files"] = counts.images + counts.masks
        counts.loc["total"] = counts.sum()
        return counts.astype(int).rename_axis("label")


_PAIRS = ["image_a", "image_b", "correlation", "flipped"]


def read(folder, name=None):
    """Read a folder in the BUSI layout (or the one inside ``folder``), masks included, and return its `Catalogue`.

    What BUSI's facts table knows (groups, objections, marks) is joined by the pixels, so that a renamed or re-encoded
    copy still matches; near-duplicates and contradictory labels are looked for in any folder. ``name="busi"`` says that
    it must be BUSI, and every difference is a warning even when nothing matches.

    Raises:
        DataError: the folder cannot be used: damaged files, masks without image, unknown classes, no images at all …
    """
    root = find_folder(folder)
    files, pairs = read_files(root)
    table, warnings = _table(files)
    found = facts.matches(table)
    truth = _phantom_truth(root, table, warnings)
    busi = facts.like_busi(found)
    known = facts.images().astype(str).reindex(found, fill_value="").reset_index(drop=True)
    links = [(i, j) for i, j, *_ in pairs] + _same(table.pixel_sha256) + _known_links(known)
    links += _same(truth["group"]) if truth is not None else []
    numbers = duplicates.groups(len(table), links)
    table["group"] = [f"g{number + 1:04d}" for number in numbers]
    table["flags"] = _flags(table, files, known, truth)
    warnings += facts.differences(table, found) if busi or name == "busi" else []
    return Catalogue(
        table=table,
        name=name or ("busi" if busi else root.name),
        sha256=_hash(table),
        warnings=tuple(warnings),
        pairs=pd.DataFrame([(table.image_id[i], table.image_id[j], r, how) for i, j, r, how in pairs], columns=_PAIRS),
    )


def _table(files):
    """Turn the table of files into one row an image; return it and the warnings about its masks and classes."""
    scans, masks = files[~files.is_mask].reset_index(drop=True), files[files.is_mask]
    missing = [label for label in CLASSES if label not in set(scans.label)]
    warnings = [f"There are no images of the class {' or '.join(missing)}."] if missing else []
    prefix = scans.scan.str.casefold().duplicated().any()
    if prefix:
        warnings.append("Images of different classes share their names: image_id has the class in front.")
    of = {}
    for row in masks.itertuples():
        of.setdefault((row.label, row.scan), []).append(row)
    rows, lesion = [], []
    for scan in scans.itertuples():
        mine = of.get((scan.label, scan.scan), [])
        image_id = f"{scan.label} {scan.scan}" if prefix else scan.scan
        paths = tuple(Path(mask.path) for mask in mine)
        ids = tuple(image_id + path.stem[len(scan.scan) :] for path in paths)
        hashes = tuple(mask.pixel_sha256 for mask in mine)
        sizes = (scan.width, scan.height, scan.pixel_sha256)
        rows.append((image_id, scan.label, Path(scan.path), paths, ids, hashes, *sizes))
        lesion.append(sum(mask.lesion for mask in mine))
    columns = ["image_id", "label", "path", "mask_paths", "mask_ids", "mask_sha256", "width", "height", "pixel_sha256"]
    table = pd.DataFrame(rows, columns=columns)
    return table, warnings + _mask_warnings(table, lesion)


def _mask_warnings(table, lesion):
    has = table.mask_paths.map(len) > 0
    if not has.any():
        return ["There are no masks: lessons that need the lesion's outline leave it out."]
    ids, lesion = table.image_id, np.array(lesion)
    kinds = (
        (ids[~has], "without a mask"),
        (ids[has & (table.label != "normal") & (lesion == 0)], "with a lesion, but a mask that is all black"),
        (ids[has & (table.label == "normal") & (lesion > 0)], "called normal, but with a mask that is not black"),
    )
    return [f"{count(names, 'image')} {what}: {some(list(names))}." for names, what in kinds if len(names)]


def _same(values):
    """Return the links (i, j) that chain the rows with equal values; empty values are not linked."""
    last, links = {}, []
    for i, value in enumerate(values):
        if value and value in last:
            links.append((last[value], i))
        last[value] = i
    return links


def _known_links(known):
    """Return the links that the facts table knows: its groups, and the pairs that its groups miss."""
    first = {image_id: i for i, image_id in reversed(list(enumerate(known.image_id))) if image_id}
    links = [(i, first[other]) for i, other in enumerate(known.also_like) if other in first]
    return _same(known.group) + links


def _phantom_truth(root, table, warnings):
    """Return the rows of phantom.csv in the table's order, or None when the folder holds no phantoms.

    Images that only one of the two knows are added to ``warnings``.
    """
    path = root / "phantom.csv"
    if not path.is_file():
        return None
    truth = pd.read_csv(path, dtype=str, keep_default_na=False)
    if not {"image_id", "group", "marks"} <= set(truth.columns) or truth.image_id.duplicated().any():
        raise DataError(f"{path} is damaged. Delete the folder and make the phantoms again.")
    odd = sorted(set(truth.image_id) ^ set(table.image_id), key=natural_key)
    if odd:
        warnings.append(f"{count(odd, 'image')} only in the folder or only in phantom.csv: {some(odd)}.")
    return truth.set_index("image_id").reindex(table.image_id, fill_value="").reset_index()


def _flags(table, files, known, truth):
    """Return each image's flags, in the order of `FLAGS`."""
    labels = table.groupby("group").label.transform("nunique")
    marks = known.annotation != ""
    if truth is not None:
        marks |= ~truth.marks.str.lower().isin(["", "0", "false", "none"])
    has = pd.DataFrame({"axilla": known.objection == "axilla", "needle": known.objection == "needle"})
    has["contradictory"] = (labels > 1) | (known.cross_class == "1")
    has["marks"] = marks
    has["objection"] = has.axilla | has.needle | has.contradictory
    has["colour"] = files.colour[~files.is_mask].to_numpy()
    return [tuple(flag for flag in FLAGS if row[flag]) for row in has.to_dict("records")]


def _hash(table):
    lines = sorted(
        " ".join((row.image_id, row.label, row.pixel_sha256, *row.mask_sha256)) for row in table.itertuples()
    )
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def mask_union(row, size=None):
    """Return where an image's lesions are: bool (height, width), True inside any of its masks.

    Args:
        row: a row of a catalogue's table.
        size: None for the image's own size, else a side or (height, width) in pixels; nearest neighbour.

    An image without masks gives False everywhere. A mask counts where it is brighter than half of its brightest
    pixel, so masks of 0 and 1 work as those of 0 and 255.
    """
    height, width = (row.height, row.width) if size is None else np.broadcast_to(size, 2).tolist()
    union = np.zeros((height, width), dtype=bool)
    for path in row.mask_paths:
        with Image.open(path) as image:
            grey = image.convert("RGB").convert("L")
        if grey.size != (width, height):
            grey = grey.resize((width, height), Image.Resampling.NEAREST)
        values = np.asarray(grey)
        union |= values > values.max() / 2
    return union


def report_data(catalogue):
    """Return what `report` says as a dict of plain values, for JSON."""
    table = catalogue.table
    masks, flags = table.mask_paths.map(len), table["flags"]
    sizes = {side: [int(table[side].min()), float(table[side].median()), int(table[side].max())] for side in _SIDES}
    sets = table.groupby("group", sort=True)
    several = [rows for _, rows in sets if len(rows) > 1]
    contradictory = [rows for rows in several if rows.label.nunique() > 1]
    return {
        "usable": True,
        "name": catalogue.name,
        "sha256": catalogue.sha256,
        "counts": catalogue.counts().to_dict("index"),
        "sizes": sizes,
        "masks": {"none": int((masks == 0).sum()), "one": int((masks == 1).sum()), "several": int((masks > 1).sum())},
        "flags": {
            flag: {label: int(sum(flag in one for one in flags[table.label == label])) for label in catalogue.classes}
            for flag in FLAGS
        },
        "groups": {"all": len(sets), "of_several": len(several), "images_in_them": sum(map(len, several))},
        "near_duplicates": catalogue.pairs.round({"correlation": 3}).to_dict("records"),
        "contradictory": [rows.image_id.tolist() for rows in contradictory],
        "warnings": list(catalogue.warnings),
    }


_SIDES = ("width", "height")


def report(catalogue):
    """Return a readable text: counts, sizes, masks, flags, near-duplicates, contradictory labels, warnings."""
    data = report_data(catalogue)
    masks, groups, pairs = data["masks"], data["groups"], data["near_duplicates"]
    totals = catalogue.counts().images
    parts = [f"Data set {data['name']} (SHA-256 {data['sha256']})", "", catalogue.counts().to_string(), ""]
    parts += [
        f"{side}: {low} to {high} pixels, median {middle:g}" for side, (low, middle, high) in data["sizes"].items()
    ]
    parts += [f"masks: {masks['one']} images have one, {masks['several']} several, {masks['none']} none", ""]
    for flag, by_class in data["flags"].items():
        shares = ", ".join(f"{label} {n} ({n / totals[label]:.1%})" for label, n in by_class.items())
        parts.append(f"{flag}: {shares}")
    turned = sum(pair["flipped"] != "none" for pair in pairs)
    parts += [
        "",
        f"near-duplicates: {len(pairs)} pairs found, {turned} of them flipped; with what is known of the data set "
        f"{groups['all']} groups, of which {groups['of_several']} hold {groups['images_in_them']} images",
        f"contradictory labels: {count(data['contradictory'], 'group')}",
        *(f"- {', '.join(names)}" for names in data["contradictory"]),
        "",
        f"warnings: {len(data['warnings']) or 'none'}",
        *(f"- {sentence}" for sentence in data["warnings"]),
    ]
    return "\n".join(parts)


def check(folder, as_json=False):
    """Do what `busi data check` does: return (text, exit status); the status is 1 when the folder cannot be used."""
    try:
        catalogue = read(folder)
    except DataError as error:
        return (json.dumps({"usable": False, "error": str(error)}, indent=2) if as_json else str(error)), 1
    return (json.dumps(report_data(catalogue), indent=2) if as_json else report(catalogue)), 0
