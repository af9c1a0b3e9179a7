"""An honest check of anybody's split: what of one set was seen in another, and what cannot be told.

findings = audit.check(catalogue.read(FOLDER), audit.read(SPLIT.csv))
print(audit.report(findings))
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from busilib.data.files import first_ten, read_csv, sources
from busilib.errors import SplitError

UNSEEN = "Burned-in marks (calipers, text) are not looked for: they can tell a class apart, and only eyes find them."
WORDS = {
    "the same pixels": "images have a pixel-identical copy in another set",
    "near-identical": "images have a near-identical copy in another set",
    "mirrored": "images have a mirrored or turned copy in another set",
    "groups": "images have one of their group (near-identical, of one patient or of one source) in another set",
    "patients": "images have another one of their patient in another set",
    "augmented siblings": "images share their name with an augmented image in another set",
}


class Finding(NamedTuple):
    """One kind of thing that was looked for.

    ``leak``: it makes a score better than it would be on new patients. ``count`` files or images; ``sentence`` says it
    in plain words, with the number in each set; ``examples`` are at most ten.
    """

    kind: str
    leak: bool
    count: int
    sentence: str
    examples: tuple[str, ...] = ()


def read(path):
    """Return a split as a table of texts (file, split) from a CSV file with these columns.

    ``file`` is a path within the data folder, or a name where no other file has the same, with or without ".png".
    Capitals make no other set, and a file without one is in none. Raises DataError for a table without these columns,
    SplitError for fewer than two sets.
    """
    table = read_csv(Path(path), ("file", "split"))[["file", "split"]]
    table = table.assign(split=table["split"].str.strip().str.casefold()).query("split != ''")
    if table["split"].nunique() < 2:
        raise SplitError(f"{path} names {table['split'].nunique()} set. A split has two at least, train and test.")
    return table


def check(catalogue, split):
    """Return the `Finding`s about a split of a catalogue's images, whether something was found or not.

    Args:
        catalogue: a `catalogue.Catalogue`.
        split: a table with the columns file and split, as `read` returns it; files may be scans or masks.

    Raises SplitError when no file of the split is in the catalogue, or when a name fits two files.
    """
    files, unknown = _matched(catalogue, split)
    masks, stands = files[files.is_mask], files.groupby("name")["split"].transform("nunique")
    scans = files[~files.is_mask] if len(masks) < len(files) else masks
    images = scans.drop_duplicates("image_id").merge(catalogue.table, on="image_id").set_index("image_id", drop=False)
    pairs = catalogue.pairs.assign(mirrored=catalogue.pairs.flipped != "none")
    linked = {
        "the same pixels": images.pixel_sha256,
        "near-identical": pairs[~pairs.mirrored],
        "mirrored": pairs[pairs.mirrored],
        "groups": images.group,
        "patients": images.patient,
        "augmented siblings": sources(images.image_id),
    }
    both = scans.merge(masks, on="image_id", suffixes=("", "_mask")) if len(masks) < len(files) else scans[:0]
    apart = both[both["split"] != both.get("split_mask")].drop_duplicates("name")
    left = catalogue.table[~catalogue.table.image_id.isin(files.image_id)]
    nobody = not images.patient.any()
    return [
        _finding("files in two sets", True, files[stands > 1], "files stand in two sets"),
        *(_apart(kind, images, how) for kind, how in linked.items() if not (kind == "patients" and nobody)),
        *([Finding("patients", False, 0, "the folder names no patients: nothing can be said")] if nobody else []),
        _finding("masks among the inputs", True, masks, "files are masks, drawn by a person who knew the answer"),
        _finding("scan and mask apart", True, apart, "scans have their mask in another set"),
        *_missing_classes(images),
        _noted("unknown files", unknown, "files are not in the folder"),
        _noted("left out", left.image_id.tolist(), "images of the folder are in no set"),
    ]


def _matched(catalogue, split):
    """Return the split's files with name, image_id and is_mask, and the names that fit none."""
    rows = []
    for scan in catalogue.table.itertuples():
        masks = zip(scan.mask_paths, scan.mask_ids, strict=True)
        for path, name, is_mask in [(scan.path, scan.image_id, False), *((*mask, True) for mask in masks)]:
            keys = {name, path.stem, f"{path.parent.name}/{path.stem}", f"{scan.label}/{path.stem}"}
            rows += [(key.casefold(), name, scan.image_id, is_mask) for key in keys]
    names = pd.DataFrame(rows, columns=["key", "name", "image_id", "is_mask"])
    keys = split["file"].map(lambda file: re.sub(r"\.png$", "", Path(file).as_posix().casefold()))
    keys = keys.where(keys.isin(names.key), keys.map(lambda key: "/".join(key.split("/")[-2:])))
    twice = split["file"][keys.isin(names.key[names.key.duplicated()])]
    if len(twice):
        raise SplitError(f"More than one file has this name; write its class in front: {first_ten(list(twice))}.")
    files = split.assign(key=keys).merge(names, on="key", how="left")
    unknown = files.file[files.name.isna()].tolist()
    if len(unknown) == len(files):
        raise SplitError(f"None of the {len(files)} files is in the folder, {unknown[0]!r} for instance.")
    return files.dropna(subset="name").astype({"is_mask": bool}), unknown


def _noted(kind, names, sentence):
    return Finding(kind, False, len(names), f"{len(names)} {sentence}", tuple(names[:10]))


def _finding(kind, leak, rows, sentence):
    """Return the Finding about rows of files, counted in each set."""
    counts = ", ".join(f"{name} {n}" for name, n in rows["split"].value_counts().sort_index().items())
    words = f"{len(rows)} {sentence}" + (f" ({counts})" if counts else "")
    return Finding(kind, leak and len(rows) > 0, len(rows), words, tuple(sorted(rows["name"])[:10]))


def _apart(kind, images, how):
    """Return the Finding about images that share a value ("" excepted), or are paired, with one of another set."""
    if isinstance(how, pd.Series):
        here = images[how != ""]
        sets = here.groupby(how[how != ""])["split"].transform("nunique")
        return _finding(kind, True, here[sets > 1], WORDS[kind])
    one, other = (images["split"].reindex(how[column]).to_numpy() for column in ("image_a", "image_b"))
    known = pd.notna(one) & pd.notna(other) & (one != other)
    names = pd.concat([how.image_a[known], how.image_b[known]]).unique()
    return _finding(kind, True, images.loc[names], WORDS[kind])


def _missing_classes(images):
    """Yield a Finding for each set that lacks a class which the others have."""
    for name, part in images.groupby("split"):
        if missing := sorted(set(images.label) - set(part.label)):
            yield Finding("missing class", False, len(missing), f"the set {name} has no {', '.join(missing)}")


def leaks(findings):
    """Say whether any finding is a leak."""
    return any(finding.leak for finding in findings)


def report(findings, as_json=False):
    """Return the findings as a text for people or, with ``as_json``, for programs."""
    if as_json:
        result = {"leaks": leaks(findings), "findings": [one._asdict() for one in findings], "unseen": UNSEEN}
        return json.dumps(result, indent=2)
    lines = []
    for one in findings:
        mark = "LEAK" if one.leak else "note" if one.count else "    "
        lines.append(f"{mark}  {one.kind}: {one.sentence}")
        lines += [f"      for instance {first_ten(list(one.examples[:3]))}"] if one.examples else []
    verdict = "This split leaks: a score on it says too much." if leaks(findings) else "No leak of these kinds here."
    return "\n".join([*lines, verdict, UNSEEN])
