"""Reading a folder in the BUSI layout: which files are scans, which are masks, and what is wrong with them.

Layout: ``<folder>/{benign,malignant,normal}/*.png``; the masks of ``X.png`` are ``X_mask.png``, ``X_mask_1.png``, …
"""

import hashlib
import io
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageChops, UnidentifiedImageError

from busilib.cache import bar, cache_dir, write_file
from busilib.data import duplicates
from busilib.data.natural import natural_key
from busilib.errors import DataError
from busilib.recipes import CLASSES

_MASK = re.compile(r"(?P<scan>.+)_mask(_\d+)?", re.IGNORECASE)
_IGNORED = {"thumbs.db", "desktop.ini", "__macosx"}
_CACHE_VERSION = 2  # raise it when what is read from a file changes
_SETTLED_SECONDS = 2  # a file younger than this may change again without a change of its time stamp
_READ = ["width", "height", "pixel_sha256", "colour", "lesion"]


def pixel_sha256(image):
    """Return the SHA-256 (64 hexadecimal digits) of a PIL image's RGB pixels: a re-encoded copy has the same one."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def text_sha256(*parts):
    """Return the SHA-256 of texts, joined by spaces."""
    return hashlib.sha256(" ".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def first_ten(names, between=", "):
    """Return the first ten names, and how many more there are."""
    return between.join([*names[:10], *([f"… and {len(names) - 10} more"] if len(names) > 10 else [])])


def find_folder(folder):
    """Return the Path that holds the class folders: ``folder`` itself, or the one folder inside it that does."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Give the folder that holds {', '.join(CLASSES)}.")
    children = [child for child in _visible(folder) if child.is_dir()]
    inside = [folder] if _has_classes(folder) else [child for child in children if _has_classes(child)]
    if len(inside) == 1:
        return inside[0]
    if inside:
        names = ", ".join(child.name for child in inside)
        raise DataError(f"{folder} holds several data sets ({names}). Give one of them.")
    raise DataError(
        f"{folder} has no class folder: expected {', '.join(CLASSES)} (at least one, in lower case), found "
        f"{', '.join(child.name for child in children) or 'no folder at all'}. Rename the folders, or give another one."
    )


def _has_classes(folder):
    return any(child.is_dir() and child.name in CLASSES for child in folder.iterdir())


def _visible(folder):
    """Return what a folder holds, sorted, without what operating systems leave behind."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name.casefold() not in _IGNORED)


def read_files(root):
    """Read every PNG below ``root`` and return ``(files, pairs)``; a second call is answered from the cache.

    ``files`` has one row per file, in natural order: label, path (str), scan (the stem that a scan shares with its
    masks), is_mask, width and height (pixels), pixel_sha256, colour (bool), lesion (pixels that are not black).
    ``pairs`` are the near-duplicates of `duplicates.near_duplicates`, numbered by the rows that are no masks.

    Raises:
        DataError: the folder cannot be used; the message lists the first problems, each with its file.
    """
    root = Path(root).resolve()
    files, problems = _list(root)
    listing, settled = _fingerprint(files)
    stored = cache_dir("catalogue") / f"{text_sha256(str(root))[:16]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # absent, or of another program: the folder is read anew
        cached = json.loads(stored.read_text(encoding="utf-8"))
        if cached["listing"] == listing and not problems:
            return files.assign(**cached["files"]), [tuple(pair) for pair in cached["pairs"]]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        decoded = list(bar(pool.map(_decode, files.path, files.is_mask), "reading images", len(files), "file"))
    names = [f"{row.label}/{Path(row.path).name}" for row in files.itertuples()]
    problems += [f"{name}: {what}" for name, what in zip(names, decoded, strict=True) if isinstance(what, str)]
    if not problems:
        columns = dict(zip(_READ, map(list, zip(*decoded, strict=True)), strict=False))
        files = files.assign(**columns)
        problems = _wrong_sizes(files, names)
    if problems:
        raise DataError(f"{root} cannot be used.\n- {first_ten(problems, chr(10) + '- ')}")
    pairs = duplicates.near_duplicates([small for *_, small in decoded if small is not None])
    if settled:
        with write_file(stored) as temporary:
            temporary.write_text(json.dumps({"listing": listing, "files": columns, "pairs": pairs}), encoding="utf-8")
    return files, pairs


def _list(root):
    """Return the table of files (label, path, scan, is_mask) and the problems that their names show."""
    rows, problems = [], []
    for entry in _visible(root):
        if entry.is_dir() and entry.name in CLASSES:
            for path in _visible(entry):
                mask, problem = _MASK.fullmatch(path.stem), _wrong_file(path)
                problems += [f"{entry.name}/{path.name}: {problem}"] if problem else []
                rows += [] if problem else [(entry.name, str(path), mask["scan"] if mask else path.stem, bool(mask))]
        elif entry.is_dir() and _visible(entry):
            what = f"an unknown class folder. Only {', '.join(CLASSES)} are read: rename it or move it away."
            problems.append(f"{entry.name}: {what}")
        elif entry.suffix.lower() == ".png":
            problems.append(f"{entry.name}: an image outside of the class folders. Move it into one of them.")
    rows.sort(key=lambda row: (CLASSES.index(row[0]), natural_key(row[2]), row[2], natural_key(row[1]), row[1]))
    files = pd.DataFrame(rows, columns=["label", "path", "scan", "is_mask"]).astype({"is_mask": bool})
    scans = files[~files.is_mask]
    for (label, _), same in scans.groupby(["label", scans.scan.str.casefold()], sort=False):
        if len(same) > 1:
            names = ", ".join(Path(path).name for path in same.path)
            problems.append(f"{label}: {names} differ in upper and lower case only. Rename or remove one of them.")
    present = set(zip(scans.label, scans.scan, strict=True))
    for row in files[files.is_mask].itertuples():
        if (row.label, row.scan) not in present:
            what = f"a mask without its image {row.scan}.png. Add the image or remove the mask."
            problems.append(f"{row.label}/{Path(row.path).name}: {what}")
    if not problems and scans.empty:
        problems.append(f"no images at all. Put PNG files into {', '.join(CLASSES)}.")
    return files, problems


def _wrong_file(path):
    """Say what is wrong with what lies in a class folder, by its name alone; "" when nothing is."""
    if path.is_dir():
        return "a folder inside a class folder. Move its images one level up."
    if path.suffix.lower() != ".png":
        return "no PNG image. Move it away, or save it as PNG when it is a scan."
    if not _MASK.fullmatch(path.stem) and re.search(r"mask[\W_\d]*$", path.stem, re.IGNORECASE):
        return "neither scan nor mask. Name the masks of X.png X_mask.png, X_mask_1.png, …"
    return ""


def _decode(path, is_mask):
    """Return a file's columns of `_READ` and its small grey copy (None for a mask), or what is wrong with it."""
    try:
        data = Path(path).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            encoding = image.format
            image.verify()  # compares the checksum of every chunk, which loading does not
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except UnidentifiedImageError:
        return "no image, whatever its name says. Replace it by the PNG file, or remove it."
    except Exception as error:  # Pillow raises many kinds on damaged files
        return f"unreadable, damaged or truncated ({error}). Replace it by a fresh copy."
    if encoding != "PNG":
        return f"a {encoding} file named .png. Save it as PNG."
    if image.mode.startswith(("I", "F")):
        return f"more than 8 bits per pixel (mode {image.mode}), which would be clipped. Save it with 8 bits."
    rgb = image.convert("RGB")
    grey = rgb.convert("L")
    red, *others = [grey] if image.mode in ("1", "L", "LA") else rgb.split()
    colour = any(ImageChops.difference(red, other).getbbox() is not None for other in others)
    lesion = int(np.count_nonzero(np.asarray(grey))) if is_mask else 0
    small = None if is_mask else duplicates.small_copy(grey)
    return image.width, image.height, pixel_sha256(rgb), colour, lesion, small


def _wrong_sizes(files, names):
    """Return the problems of masks that have another size than their scan."""
    scans = {(row.label, row.scan): (row.width, row.height) for row in files[~files.is_mask].itertuples()}
    problems = []
    for name, row in zip(names, files.itertuples(), strict=True):
        width, height = scans[row.label, row.scan]
        if (row.width, row.height) != (width, height):
            what = f"{row.width}×{row.height} pixels, but its image has {width}×{height}."
            problems.append(f"{name}: {what} Replace it by the mask of this very image.")
    return problems


def _fingerprint(files):
    """Return a hash of the files' names, sizes and times, and whether they have been left alone for a while."""
    status = [os.stat(path) for path in files.path]
    lines = [f"{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}" for s in status]
    youngest = max((max(s.st_mtime, s.st_ctime) for s in status), default=0.0)
    listing = text_sha256(str(_CACHE_VERSION), str(duplicates.LEVELS), *files.path, *lines)
    return listing, time.time() - youngest > _SETTLED_SECONDS
