"""The catalogue: any folder in the BUSI layout, or with a labels.csv, becomes one table, one row per image.

scans = catalogue.read("Dataset_BUSI_with_GT")
scans.table      # image_id, label, path, mask_paths, width, height, pixel_sha256, group, flags, …
scans.counts()   # images, masks and files of each class
"""

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from busilib.data import duplicates
from busilib.data.files import LABELS, find_folder, first_ten, read_csv, read_files, sources, text_sha256
from busilib.errors import DataError
from busilib.recipes import CLASSES

FLAGS = ("axilla", "needle", "contradictory", "marks", "objection", "colour")
_PAIRS = ["image_a", "image_b", "correlation", "flipped"]
_COLUMNS = "image_id label path mask_paths mask_ids mask_sha256 width height pixel_sha256 colour patient".split()


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The images of one data set.

    Attributes:
        table: one row per image, sorted by class (benign, malignant, normal), then naturally by name. Columns:
            image_id (str, unique); label; path (pathlib.Path); mask_paths (tuple of Path); mask_ids (tuple of str,
            "benign (1)_mask"); mask_sha256 (tuple of str, of the RGB pixels); width, height (pixels); pixel_sha256
            (of the RGB pixels); patient ("" where the folder does not tell); group (str, near-identical images and
            those of one patient share one); flags (tuple, a part of `FLAGS`; write ``table["flags"]``, for
            ``table.flags`` is something of pandas' own).
        name: a label for people: "busi", or the folder's name.
        kind: "phantom" (every file as the generator made it), "busi" (most images are BUSI's) or "folder"; decided by
            the pixels, never by a name.
        made: for phantoms n, seed, version (of the generator) and scanner, so that they can be made again; else empty.
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
        """Return what run.json tells of the data: name, kind, sha256 and, for phantoms, n, seed, version, scanner."""
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

    A folder with a table labels.csv (see `files`) may have any layout. Patients come from that table's column patient,
    or from a table patients.csv (image_id,patient) in the folder.

    What BUSI's facts table knows (groups, objections, marks) is joined by the pixels, so that a renamed or re-encoded
    copy still matches; near-duplicates and contradictory labels are looked for in any folder. ``name="busi"`` says that
    it must be BUSI, and every difference is a warning even when nothing matches.

    Raises:
        DataError: the folder cannot be used: damaged files, masks without image, unknown classes, no images at all …
    """
    root = find_folder(folder).resolve()
    files, pairs = read_files(root)
    table, warnings = _table(files)
    numbers = _matches(table)
    busi = sum(number >= 0 for number in numbers) > len(table) / 2
    made, truth, unlike = _phantoms(root, table)
    expected = facts().astype(str).reindex(numbers, fill_value="").reset_index(drop=True)
    table["patient"], unmatched = _patients(root, table)
    links = [link for values in (table.pixel_sha256, expected.group, truth.group) for link in _links(values)] + pairs
    pictures = duplicates.groups(len(table), links)  # a patient's scans may have several labels, one picture may not
    table["flags"] = _flags(table.assign(group=pictures), expected, truth)
    source = sources(table.image_id)
    both = duplicates.groups(len(table), links + _links(table.patient) + _links(source))
    copies = table.image_id[source.duplicated(keep=False) & (source != "") & (source != table.image_id)]
    warnings += _sentence(copies, "augmented from another, by the name (they share its group)")
    table["group"] = [f"g{number + 1:04d}" for number in both]
    kind = "busi" if busi else "phantom" if made else "folder"
    warnings += _unlisted(root, files) + unlike + unmatched
    warnings += _differences(table, numbers) if busi or name == "busi" else []
    pairs = pd.DataFrame([(table.image_id[i], table.image_id[j], *how) for i, j, *how in pairs], columns=_PAIRS)
    name = name or ("busi" if busi else root.name)
    return Catalogue(table.drop(columns="colour"), name, kind, made, tuple(warnings), pairs)


def large_enough(scans):
    """Return the catalogue with the classes that five folds and an interval can be had of; say what is left out.

    A class needs five groups (patients, or near-identical scans). Raises DataError when only one class has them.
    """
    groups = scans.table.groupby("label").group.nunique().reindex(list(scans.classes))
    if (groups >= 5).sum() < 2:
        has = ", ".join(f"{label} {n}" for label, n in groups.items())
        what = "two classes of five groups of scans (copies or one patient's are one)"
        raise DataError(f"{scans.name} needs {what}: {has}.")
    few = " and ".join(f"{label} has {n}" for label, n in groups[groups < 5].items())
    return _only(scans, groups.index[groups >= 5], f"five folds need five groups of scans, and {few}")


def in_common(home, away):
    """Return both catalogues with only the classes that both have, and these classes (list); say what is left out.

    Raises DataError when malignant and another class, each `large_enough`, are not among them.
    """
    home, away = large_enough(home), large_enough(away)
    classes = [label for label in home.classes if label in away.classes]
    if "malignant" not in classes or len(classes) < 2:
        has = " and ".join(f"{scans.name} has {', '.join(scans.classes)}" for scans in (home, away))
        raise DataError(f"Two hospitals need two classes in common, malignant among them: {has}.")
    return *(_only(scans, classes, "the other hospital has none of them") for scans in (home, away)), classes


def _only(scans, classes, why):
    """Return the catalogue with only these classes; print what is left out, and why."""
    there = scans.table.label.isin(classes)
    if not there.all():
        counts = scans.table.label[~there].value_counts()
        left = " and ".join(f"the {n} scans of the class {label}" for label, n in counts.items())
        print(f"{scans.name}: {left} are left out, because {why}.")
    return replace(scans, table=scans.table[there].reset_index(drop=True))


def _table(files):
    """Turn the table of files into one row per image; return it and the warnings about its masks and classes."""
    missing = [label for label in CLASSES if label not in set(files.label[~files.is_mask])]
    warnings = [f"There are no images of the class {' or '.join(missing)}."] if missing else []
    if files.scan[~files.is_mask].str.casefold().duplicated().any():
        warnings.append("Images of different classes share their names: image_id has the class in front.")
        files = files.assign(image_id=files.label + " " + files.image_id)
    masks = files[files.is_mask].groupby(["label", "scan"])
    lists = {"mask_paths": ("path", tuple), "mask_ids": ("image_id", tuple), "mask_sha256": ("pixel_sha256", tuple)}
    masks = masks.agg(black=("black", "all"), bright=("bright", "max"), **lists)
    scans = files[~files.is_mask].drop(columns=["black", "bright"])
    table = scans.join(masks, on=["label", "scan"]).reset_index(drop=True)
    for name in lists:
        table[name] = [value if isinstance(value, tuple) else () for value in table[name]]
    has, normal, black = table.mask_paths.map(len) > 0, table.label == "normal", table.black.eq(True)
    warnings += _sentence(table.image_id[~has], "without a mask")
    warnings += _sentence(table.image_id[has & (normal != black)], "with a mask that does not fit (normal: all black)")
    warnings += _sentence(table.image_id[table.bright > 0.7], "with a mask that covers most of it (is it inverted?)")
    return table[_COLUMNS], warnings


def _unlisted(root, files):
    """Return a sentence on the images in a folder that its `LABELS`, where it has one, leaves out: it may be cut."""
    if not (root / LABELS).is_file():
        return []
    there = {path.resolve() for path in root.rglob("*.png") if path.is_file() and not path.name.startswith(".")}
    names = sorted(path.relative_to(root).as_posix() for path in there - set(files.path) if path.is_relative_to(root))
    return _sentence(names, f"in the folder and not in {LABELS}")


def _patients(root, table):
    """Return the patient of each image ("" where none is named), and sentences on rows that fit no image."""
    place = root / "patients.csv"
    if not place.is_file():
        return table.patient, []
    listed = read_csv(place, ("image_id", "patient"))
    counts = listed.groupby("image_id").patient.nunique()
    if twice := counts.index[counts > 1][:3].tolist():
        raise DataError(f"{place} gives an image two patients: {', '.join(twice)}. Correct the table.")
    patients = listed.drop_duplicates("image_id").set_index("image_id").patient.reindex(table.image_id).fillna("")
    missing = [name for name in listed.image_id if name not in set(table.image_id)]
    return patients.to_numpy(), _sentence(missing, f"in {place.name} and not in the folder", "row")


def _phantoms(root, table):
    """Return what phantom.json and phantom.csv tell: n, seed, version, scanner; groups and marks; warnings.

    Where an image is not as it was made, all is empty: it is no longer certain where the scans come from.
    """
    nothing = pd.DataFrame("", index=table.index, columns=["group", "marks"])
    try:
        made = json.loads((root / "phantom.json").read_text(encoding="utf-8"))
        scanner = str(made.get("scanner", "first"))
        made = {key: int(made[key]) for key in ("n", "seed", "version")} | {"scanner": scanner}
        csv = pd.read_csv(root / "phantom.csv", dtype=str, keep_default_na=False).set_index("image_id")
        truth = csv[["sha256", "group", "marks"]].reindex(table.image_id, fill_value="")
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not what the generator wrote
        return {}, nothing, []
    rows = zip(table.label, table.pixel_sha256, table.mask_sha256, strict=True)
    same = truth.sha256 == [text_sha256(label, pixels, *masks) for label, pixels, masks in rows]
    odd = [*same.index[~same], *csv.index.difference(table.image_id)]
    what = "not as the phantoms' generator made them, so that the folder does not count as phantoms"
    return ({}, nothing, _sentence(odd, what)) if odd else (made, truth.reset_index(), [])


def _links(values):
    """Return the links (i, j) that chain the rows with equal values; empty values are not linked."""
    rows = pd.Series(range(len(values))).groupby(list(values)).indices
    return [link for value, same in rows.items() if value for link in pairwise(same.tolist())]


def _flags(table, expected, truth):
    """Return each image's flags, in the order of `FLAGS`."""
    has = pd.DataFrame({"axilla": expected.objection == "axilla", "needle": expected.objection == "needle"})
    labels = table.groupby("group").label.transform("nunique")
    has["contradictory"] = (labels > 1) | (expected.cross_class == "1")
    has["marks"] = (expected.annotation != "") | (truth.marks != "")
    has["objection"] = has.axilla | has.needle | has.contradictory
    return [tuple(flag for flag in FLAGS if row[flag]) for row in has.assign(colour=table.colour).to_dict("records")]


# ---- what is known of BUSI


def facts(of="images"):
    """Return what is known of BUSI: one row for each of its 780 images, or ``of="masks"``, of its 798 masks.

    Images: image_id, label, width, height (pixels), file_sha256 (the original PNG), pixel_sha256 (the RGB pixels),
    group (near-identical scans, by the published list), objection ("", axilla, needle or multiclass), annotation
    (burned-in marks, "" when none), cross_class (1 when the group has two labels), also_like (an image of another
    group that shows the same picture, "" when none). Masks: mask_id, image_id, pixel_sha256 (the RGB pixels).
    """
    return pd.read_csv(Path(__file__).parents[1] / "tables" / f"busi_{of}.csv", keep_default_na=False)


def _matches(table):
    """Return for each image the row number in `facts` with the same pixels, or -1.

    Of the two rows with the same pixels, the one with the image's own label goes first.
    """
    expected = facts()[::-1]  # of two rows with one key the first counts
    numbers = dict(zip(expected.pixel_sha256, expected.index, strict=True))
    numbers |= dict(zip(zip(expected.pixel_sha256, expected.label, strict=True), expected.index, strict=True))
    pixels = zip(table.pixel_sha256, table.label, strict=True)
    return [numbers.get((sha256, label), numbers.get(sha256, -1)) for sha256, label in pixels]


def _differences(table, numbers):
    """Return sentences on how a folder of BUSI images differs from the facts table; none when it is the original."""
    expected = facts()
    rest = expected.drop(index=[number for number in numbers if number >= 0])
    sentences = _compare(_hashes(table[np.array(numbers) < 0], "image_id"), _hashes(rest, "image_id"), "image")
    both = expected.reindex(numbers).reset_index(drop=True)
    was, now = both.label + "/" + both.image_id, table.label + "/" + table.image_id
    moved = (now + " (was " + was + ")")[was.notna() & (was != now)]
    sentences += _sentence(moved, "with another name or label than in BUSI")
    masks = table[table.image_id.isin(expected.image_id)].explode(["mask_ids", "mask_sha256"]).dropna()
    there = facts("masks").query("image_id in @table.image_id")
    here = dict(zip(masks.mask_ids, masks.mask_sha256, strict=True))
    return sentences + (_compare(here, _hashes(there, "mask_id"), "mask") if here else [])


def _hashes(table, key):
    return dict(zip(table[key], table.pixel_sha256, strict=True))


def _compare(here, there, noun):
    """Return sentences on how the images (or masks) that are here, as {name: hash}, differ from those of BUSI."""
    sentences = _sentence([name for name in there if name not in here], "of BUSI missing", noun)
    other = [name for name in here if here[name] != there.get(name, here[name])]
    sentences += _sentence(other, "with other pixels than in BUSI", noun)
    return sentences + _sentence([name for name in here if name not in there], "not in BUSI", noun)


def _sentence(names, what, noun="image"):
    """Return a list with the sentence that names them ("2 images not in BUSI: …"), empty when there is none."""
    noun = noun if len(names) == 1 else f"{noun}s"
    return [f"{len(names)} {noun} {what}: {first_ten(list(names))}."] if len(names) else []
