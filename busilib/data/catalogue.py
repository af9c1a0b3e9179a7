"""The catalogue: any folder in the BUSI layout becomes one table, one row per image.

scans = catalogue.read("Dataset_BUSI_with_GT")
scans.table      # image_id, label, path, mask_paths, width, height, pixel_sha256, group, flags, …
scans.counts()   # images, masks and files of each class
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from busilib.data import duplicates
from busilib.data.files import find_folder, first_ten, read_files, text_sha256
from busilib.errors import DataError
from busilib.recipes import CLASSES

FLAGS = ("axilla", "needle", "contradictory", "marks", "objection", "colour")
_PAIRS = ["image_a", "image_b", "correlation", "flipped"]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The images of one data set.

    Attributes:
        table: one row per image, sorted by class (benign, malignant, normal), then naturally by name. Columns:
            image_id (str, unique); label; path (pathlib.Path); mask_paths (tuple of Path); mask_ids (tuple of str,
            "benign (1)_mask"); mask_sha256 (tuple of str, of the RGB pixels); width, height (pixels); pixel_sha256
            (of the RGB pixels); group (str, near-identical images share one); flags (tuple, a part of
            `FLAGS`; write ``table["flags"]``, for ``table.flags`` is something of pandas' own).
        name: a label for people: "busi", or the folder's name.
        kind: "phantom" (every file as the generator made it), "busi" (most images are BUSI's) or "folder"; decided by
            the pixels, never by a name.
        made: for phantoms n, seed and version (of the generator), so that they can be made again; else empty.
        warnings: sentences on what is unusual; the folder can be used all the same.
        pairs: the near-duplicates: image_a, image_b, correlation, flipped.
    """

    table: pd.DataFrame
    name: str
    kind: str = "folder"
    made: dict = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    pairs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=_PAIRS))

    @cached_property
    def sha256(self):
        """SHA-256 of the table: names, labels, pixels of images and masks, groups and flags, in any order of rows."""
        columns = self.table[["image_id", "label", "pixel_sha256", "mask_sha256", "group", "flags"]]
        return text_sha256(*sorted(map(json.dumps, columns.itertuples(index=False, name=None))))

    def identity(self):
        """Return what run.json tells of the data: name, kind, sha256 and, for phantoms, n, seed and version."""
        return {"name": self.name, "kind": self.kind, "sha256": self.sha256} | self.made

    @property
    def classes(self):
        """The classes present, in the order benign, malignant, normal."""
        return tuple(label for label in CLASSES if (self.table.label == label).any())

    def counts(self):
        """Return a DataFrame: a row for each class present and "total"; columns images, masks, files."""
        masks = self.table.mask_paths.map(len).groupby(self.table.label)
        counts = pd.DataFrame({"images": masks.size(), "masks": masks.sum()}).reindex(list(self.classes))
        counts["files"] = counts.images + counts.masks
        counts.loc["total"] = counts.sum()
        return counts.astype(int).rename_axis("label")


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
    numbers = _matches(table)
    busi = sum(number >= 0 for number in numbers) > len(table) / 2
    made, truth, unlike = _phantoms(root, table)
    expected = facts().astype(str).reindex(numbers, fill_value="").reset_index(drop=True)
    first = {image_id: i for i, image_id in reversed(list(enumerate(expected.image_id))) if image_id}
    links = [(i, first[other]) for i, other in enumerate(expected.also_like) if other in first]
    links += [link for same in (table.pixel_sha256, expected.group, truth.group) for link in _links(same)] + pairs
    table["group"] = [f"g{number + 1:04d}" for number in duplicates.groups(len(table), links)]
    table["flags"] = _flags(table, expected, truth, files.colour[~files.is_mask].to_numpy())
    return Catalogue(
        table=table,
        name=name or ("busi" if busi else root.name),
        kind="busi" if busi else "phantom" if made else "folder",
        made=made,
        warnings=tuple(warnings + unlike + (_differences(table, numbers) if busi or name == "busi" else [])),
        pairs=pd.DataFrame([(table.image_id[i], table.image_id[j], r, how) for i, j, r, how in pairs], columns=_PAIRS),
    )


def _table(files):
    """Turn the table of files into one row per image; return it and the warnings about its masks and classes."""
    scans, masks = files[~files.is_mask], defaultdict(list)
    for mask in files[files.is_mask].itertuples():
        masks[mask.label, mask.scan].append(mask)
    missing = [label for label in CLASSES if label not in set(scans.label)]
    warnings = [f"There are no images of the class {' or '.join(missing)}."] if missing else []
    prefix = scans.scan.str.casefold().duplicated().any()
    if prefix:
        warnings.append("Images of different classes share their names: image_id has the class in front.")
    rows, lesion = [], []
    for scan in scans.itertuples():
        of_scan = masks[scan.label, scan.scan]
        image_id = f"{scan.label} {scan.scan}" if prefix else scan.scan
        paths = tuple(Path(mask.path) for mask in of_scan)
        ids = tuple(image_id + path.stem[len(scan.scan) :] for path in paths)
        hashes = tuple(mask.pixel_sha256 for mask in of_scan)
        sizes = (scan.width, scan.height, scan.pixel_sha256)
        rows.append((image_id, scan.label, Path(scan.path), paths, ids, hashes, *sizes))
        lesion.append(sum(mask.lesion for mask in of_scan))
    columns = ["image_id", "label", "path", "mask_paths", "mask_ids", "mask_sha256", "width", "height", "pixel_sha256"]
    table = pd.DataFrame(rows, columns=columns)
    has, normal, black = table.mask_paths.map(len) > 0, table.label == "normal", np.array(lesion) == 0
    if not has.any():
        return table, [*warnings, "There are no masks: lessons that need the lesion's outline leave it out."]
    warnings += _sentence(table.image_id[~has], "without a mask")
    warnings += _sentence(table.image_id[has & ~normal & black], "with a lesion, but a mask that is all black")
    warnings += _sentence(table.image_id[has & normal & ~black], "called normal, but with a mask that is not black")
    return table, warnings


def _phantoms(root, table):
    """Return what phantom.json and phantom.csv tell: n, seed and version; the rows of the images; warnings.

    Only an image that is still as it was made has a row (sha256, group, marks), and only where all are is the first of
    the three filled: elsewhere it is no longer known where the scans come from.
    """
    truth = pd.DataFrame("", index=table.image_id, columns=["sha256", "group", "marks"])
    if not (root / "phantom.csv").is_file():
        return {}, truth.reset_index(), []
    try:
        made = json.loads((root / "phantom.json").read_text(encoding="utf-8"))
        made = {key: int(made[key]) for key in ("n", "seed", "version")}
        csv = pd.read_csv(root / "phantom.csv", dtype=str, keep_default_na=False).set_index("image_id")[truth.columns]
        truth = csv.reindex(table.image_id, fill_value="")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {}, truth.reset_index(), [f"phantom.csv or phantom.json cannot be read, so this is a folder: {error}."]
    rows = zip(table.label, table.pixel_sha256, table.mask_sha256, strict=True)
    same = truth.sha256 == [text_sha256(label, pixels, *masks) for label, pixels, masks in rows]
    odd = [*same.index[~same], *csv.index.difference(table.image_id)]
    what = "not as the phantoms' generator made them, so that the folder does not count as phantoms"
    return {} if odd else made, truth.where(same, "").reset_index(), _sentence(odd, what)


def _links(values):
    """Return the links (i, j) that chain the rows with equal values; empty values are not linked."""
    rows = pd.Series(range(len(values))).groupby(list(values)).indices
    return [link for value, same in rows.items() if value for link in pairwise(same.tolist())]


def _flags(table, expected, truth, colour):
    """Return each image's flags, in the order of `FLAGS`."""
    has = pd.DataFrame({"axilla": expected.objection == "axilla", "needle": expected.objection == "needle"})
    labels = table.groupby("group").label.transform("nunique")
    has["contradictory"] = (labels > 1) | (expected.cross_class == "1")
    has["marks"] = (expected.annotation != "") | (truth.marks != "")
    has["objection"] = has.axilla | has.needle | has.contradictory
    return [tuple(flag for flag in FLAGS if row[flag]) for row in has.assign(colour=colour).to_dict("records")]


# ---- what is known of BUSI


def facts(of="images"):
    """Return what is known of BUSI: one row for each of its 780 images, or ``of="masks"``, of its 798 masks.

    Images: image_id, label, width, height (pixels), file_sha256 (the original PNG), pixel_sha256 (the RGB pixels),
    group (near-identical scans, by the published list), objection ("", axilla, needle or multiclass), annotation
    (burned-in marks, "" when none), cross_class (1 when the group has two labels), also_like (an image of another
    group that shows the same picture, "" when none). Masks: mask_id, image_id, pixel_sha256 (the RGB pixels).
    """
    with resources.files("busilib").joinpath("tables", f"busi_{of}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False)


def _matches(table):
    """Return for each image the row number in `facts` with the same pixels, or -1.

    Of several rows with the same pixels, the one with the image's own name goes first, then the one with its label.
    """
    numbers = {}
    for number, row in enumerate(facts().itertuples()):
        for key in ((row.pixel_sha256, row.image_id), (row.pixel_sha256, row.label), row.pixel_sha256):
            numbers.setdefault(key, number)
    rows = zip(table.pixel_sha256, table.image_id, table.label, strict=True)
    return [numbers.get((p, name), numbers.get((p, label), numbers.get(p, -1))) for p, name, label in rows]


def _differences(table, numbers):
    """Return sentences on how a folder of BUSI images differs from the facts table; none when it is the original."""
    expected = facts()
    present, rest = set(table.image_id), expected.drop(index=[number for number in numbers if number >= 0])
    new = table.image_id[np.array(numbers) < 0]
    both = expected.reindex(numbers).reset_index(drop=True).assign(now=table.image_id, label_now=table.label).dropna()
    renamed, moved = both[both.image_id != both.now], both[both.label != both.label_now]
    sentences = _sentence(rest.image_id[~rest.image_id.isin(present)], "of BUSI missing")
    sentences += _sentence(new[new.isin(expected.image_id)], "with other pixels than in BUSI")
    sentences += _sentence(new[~new.isin(expected.image_id)], "not in BUSI")
    sentences += _sentence(renamed.now + " (was " + renamed.image_id + ")", "with another name than in BUSI")
    sentences += _sentence(moved.now + " (was " + moved.label + ")", "with another label than in BUSI")
    here = table[table.image_id.isin(expected.image_id)].explode(["mask_ids", "mask_sha256"])
    here = here.set_index("mask_ids").mask_sha256.dropna().to_dict()
    there = facts("masks").query("image_id in @present").set_index("mask_id").pixel_sha256.to_dict()
    if here:
        sentences += _sentence([name for name in there if name not in here], "of BUSI missing", "mask")
        changed = [name for name in here if here[name] != there.get(name, here[name])]
        sentences += _sentence(changed, "with other pixels than in BUSI", "mask")
        sentences += _sentence([name for name in here if name not in there], "not in BUSI", "mask")
    return sentences


def _sentence(names, what, noun="image"):
    """Return a list with the sentence that names them ("2 images not in BUSI: …"), empty when there is none."""
    noun = noun if len(names) == 1 else f"{noun}s"
    return [f"{len(names)} {noun} {what}: {first_ten(list(names))}."] if len(names) else []


# ---- what `busi data check` says


def report_data(catalogue):
    """Return what `report` says as a dict of plain values, for JSON."""
    table = catalogue.table
    masks, flags, groups = table.mask_paths.map(len), table["flags"], table.groupby("group")
    size, labels = groups.size(), groups.label.nunique()
    sides = {side: table[side].agg(["min", "median", "max"]).tolist() for side in ("width", "height")}
    by_class = {flag: flags.map(lambda row, flag=flag: flag in row).groupby(table.label).sum() for flag in FLAGS}
    return {
        "usable": True,
        **catalogue.identity(),
        "counts": catalogue.counts().to_dict("index"),
        "sizes": {side: [int(low), float(middle), int(high)] for side, (low, middle, high) in sides.items()},
        "masks": {"none": int((masks == 0).sum()), "one": int((masks == 1).sum()), "several": int((masks > 1).sum())},
        "flags": {flag: {label: int(n[label]) for label in catalogue.classes} for flag, n in by_class.items()},
        "groups": {"all": len(size), "of_several": int((size > 1).sum()), "images_in_them": int(size[size > 1].sum())},
        "near_duplicates": catalogue.pairs.round({"correlation": 3}).to_dict("records"),
        "contradictory": [table.image_id[table.group == group].tolist() for group in labels.index[labels > 1]],
        "warnings": list(catalogue.warnings),
    }


def report(catalogue):
    """Return a readable text: counts, sizes, masks, flags, near-duplicates, contradictory labels, warnings."""
    data, totals = report_data(catalogue), catalogue.counts().images
    masks, groups, pairs = data["masks"], data["groups"], data["near_duplicates"]
    parts = [f"Data set {data['name']} (SHA-256 {data['sha256']})", "", catalogue.counts().to_string(), ""]
    parts += [f"{side}: {low} to {high} pixels, median {mid:g}" for side, (low, mid, high) in data["sizes"].items()]
    parts += [f"masks: {masks['one']} images have one, {masks['several']} several, {masks['none']} none", ""]
    for flag, by_class in data["flags"].items():
        parts.append(f"{flag}: " + ", ".join(f"{label} {n} ({n / totals[label]:.1%})" for label, n in by_class.items()))
    turned = sum(pair["flipped"] != "none" for pair in pairs)
    parts += [
        "",
        f"near-duplicates: {len(pairs)} pairs, {turned} of them flipped; with what is known of the data set "
        f"{groups['all']} groups, of which {groups['of_several']} hold {groups['images_in_them']} images",
        f"contradictory labels: {len(data['contradictory'])} groups",
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
