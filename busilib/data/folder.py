"""Reading a folder in the BUSI layout: which files are scans, which are masks, and what is wrong with them.

Layout: ``<folder>/{benign,malignant,normal}/*.png``; the masks of ``X.png`` are ``X_mask.png``, ``X_mask_1.png``, …
"""

import hashlib
import io
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageChops, UnidentifiedImageError

from busilib import cache
from busilib.cache import cache_dir, write_file
from busilib.data import duplicates
from busilib.data.natural import natural_key
from busilib.errors import DataError
from busilib.recipes import CLASSES

_MASK = re.compile(r"(?P<scan>.+)_mask(_\d+)?", re.IGNORECASE)
_IGNORED = {"thumbs.db", "desktop.ini", "__macosx"}
_CACHE_VERSION = 1  # raise it when what is read from a file changes
_SETTLED_SECONDS = 2  # a file younger than this may change again without a change of its time stamp
_LONGEST_LIST = 10
_READ = ["width", "height", "pixel_sha256", "colour", "lesion"]


def pixel_sha256(image):
    """Return the SHA-256 (64 hexadecimal digits) of a PIL image's RGB pixels: a re-encoded copy has the same one."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def find_folder(folder):
    """Return the Path that holds the class folders: ``folder`` itself, or the one folder inside it that does."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Give the folder that holds {', '.join(CLASSES)}.")
    if _has_classes(folder):
        return folder
    inside = sorted(child for child in folder.iterdir() if not _ignored(child) and _has_classes(child))
    if len(inside) == 1:
        return inside[0]
    if inside:
        names = ", ".join(child.name for child in inside)
        raise DataError(f"{folder} holds several data sets ({names}). Give one of them.")
    names = ", ".join(sorted(child.name for child in folder.iterdir() if child.is_dir() and not _ignored(child)))
    raise DataError(
        f"{folder} has no class folder: expected {', '.join(CLASSES)} (at least one, in lower case), "
        f"found {names or 'no folder at all'}. Rename the folders, or give another one."
    )


def _has_classes(folder):
    return folder.is_dir() and any(child.is_dir() and child.name in CLASSES for child in folder.iterdir())


def _ignored(path):
    return path.name.startswith(".") or path.name.casefold() in _IGNORED


def read_files(root):
    """Read every PNG below ``root`` and return ``(files, pairs)``; a second call is answered from the cache.

    ``files`` has one row a file, in natural order: label, path (str), scan (the stem that a scan shares with its
    masks), is_mask, width and height (pixels), pixel_sha256, colour (bool), lesion (pixels that are not black).
    ``pairs`` are the near-duplicates of `duplicates.near_duplicates`, numbered by the rows that are no masks.

    Raises:
        DataError: the folder cannot be used; the message lists the first problems found, each with its file.
    """
    root = Path(root).resolve()
    files, problems = _list(root)
    listing, youngest = _fingerprint(root, files)
    kept = cache_dir("catalogue") / f"{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.npz"
    found = None if problems else _from_cache(kept, listing, files)
    if found is None:
        settled = time.time() - youngest > _SETTLED_SECONDS
        found, wrong = _decode(root, files)
        problems += wrong
        if not wrong:
            problems += _wrong_sizes(found[0])
        if problems:
            raise DataError(f"{root} cannot be used.\n{bullets(problems)}")
        if settled:
            _to_cache(kept, listing, *found)
    return found


def bullets(lines):
    """Return the first ten lines as a list, and the count of the others."""
    shown = [f"- {line}" for line in lines[:_LONGEST_LIST]]
    more = len(lines) - len(shown)
    return "\n".join(shown + ([f"- … and {more} more"] if more > 0 else []))


# ---- which files there are


def _list(root):
    """Return the table of files (label, path, scan, is_mask) and the problems that their names show."""
    rows, problems = [], []
    for entry in sorted(root.iterdir()):
        if _ignored(entry):
            continue
        if entry.is_dir() and entry.name in CLASSES:
            problems += _list_class(entry, rows)
        elif entry.is_dir() and any(not _ignored(child) for child in entry.iterdir()):
            problems.append(
                f"{entry.name}: an unknown class folder. Only {', '.join(CLASSES)} are read: rename it or move it away."
            )
        elif entry.suffix.lower() == ".png":
            problems.append(f"{entry.name}: an image outside of the class folders. Move it into one of them.")
    rows.sort(key=lambda row: (CLASSES.index(row[0]), natural_key(row[2]), row[2], natural_key(row[1]), row[1]))
    files = pd.DataFrame(rows, columns=["label", "path", "scan", "is_mask"]).astype({"is_mask": bool})
    problems += _wrong_names(files)
    if not problems and files.is_mask.all():
        problems.append(f"no images at all. Put PNG files into {', '.join(CLASSES)}.")
    return files, problems


def _list_class(folder, rows):
    problems = []
    for path in sorted(folder.iterdir()):
        name = f"{folder.name}/{path.name}"
        mask = _MASK.fullmatch(path.stem)
        if _ignored(path):
            continue
        if path.is_dir():
            problems.append(f"{name}: a folder inside a class folder. Move its images one level up.")
        elif path.suffix.lower() != ".png":
            problems.append(f"{name}: no PNG image. Move it away, or save it as PNG when it is a scan.")
        elif mask is None and re.search(r"mask[\W_\d]*$", path.stem, re.IGNORECASE):
            problems.append(f"{name}: neither scan nor mask. Name the masks of X.png X_mask.png, X_mask_1.png, …")
        else:
            rows.append((folder.name, str(path), mask["scan"] if mask else path.stem, mask is not None))
    return problems


def _wrong_names(files):
    problems = []
    scans = files[~files.is_mask]
    for (label, _), same in scans.groupby(["label", scans.scan.str.casefold()], sort=False):
        if len(same) > 1:
            names = ", ".join(Path(path).name for path in same.path)
            problems.append(f"{label}: {names} differ in upper and lower case only. Rename or remove one of them.")
    known = set(zip(scans.label, scans.scan, strict=True))
    for row in files[files.is_mask].itertuples():
        if (row.label, row.scan) not in known:
            name = f"{row.label}/{Path(row.path).name}"
            problems.append(f"{name}: a mask without its image {row.scan}.png. Add the image or remove the mask.")
    return problems


# ---- what is in them


def _decode(root, files):
    """Read all files on a few threads; return ``((files, pairs), problems)``."""
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        jobs = pool.map(_decode_one, files.path, files.is_mask)
        read = list(cache.bar(jobs, "reading images", total=len(files), unit="file"))
    problems = [
        f"{Path(path).relative_to(root).as_posix()}: {what}"
        for path, what in zip(files.path, read, strict=True)
        if isinstance(what, str)
    ]
    if problems:
        return None, problems
    facts = pd.DataFrame([one[:5] for one in read], columns=_READ, index=files.index)
    pairs = duplicates.near_duplicates([one[5] for one in read if one[5] is not None])
    return (pd.concat([files, facts], axis=1), pairs), []


def _decode_one(path, is_mask):
    """Return (width, height, pixel_sha256, colour, lesion, small grey copy) of a file, or what is wrong with it."""
    try:
        data = Path(path).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            kind = image.format
            image.verify()  # compares the checksum of every chunk, which loading does not
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except UnidentifiedImageError:
        return "no image, whatever its name says. Replace it by the PNG file, or remove it."
    except Exception as error:  # Pillow raises many kinds on damaged files
        return f"unreadable, damaged or truncated ({error}). Replace it by a fresh copy."
    if kind != "PNG":
        return f"a {kind} file named .png. Save it as PNG."
    if image.mode.startswith(("I", "F")):
        return f"more than 8 bits a pixel (mode {image.mode}), which would be clipped. Save it with 8 bits."
    rgb = image.convert("RGB")
    colour = image.mode not in ("1", "L", "LA") and any(
        ImageChops.difference(rgb.getchannel(0), rgb.getchannel(k)).getbbox() is not None for k in (1, 2)
    )
    lesion = np.count_nonzero(np.asarray(rgb.convert("L"))) if is_mask else 0
    small = None if is_mask else duplicates.small_copy(rgb.convert("L"))
    return image.width, image.height, pixel_sha256(rgb), colour, lesion, small


def _wrong_sizes(files):
    scans = {(row.label, row.scan): (row.width, row.height) for row in files[~files.is_mask].itertuples()}
    problems = []
    for row in files[files.is_mask].itertuples():
        width, height = scans.get((row.label, row.scan), (row.width, row.height))
        if (row.width, row.height) != (width, height):
            problems.append(
                f"{row.label}/{Path(row.path).name}: {row.width}×{row.height} pixels, but its image has "
                f"{width}×{height}. Replace it by the mask of this very image."
            )
    return problems


# ---- the cache: valid for exactly this list of names, sizes and times


def _fingerprint(root, files):
    """Return a hash of the folder's listing and the time (s) of its youngest change."""
    lines, youngest = [f"{_CACHE_VERSION} {duplicates.LEVELS} {root}"], 0.0
    for path in files.path:
        stat = os.stat(path)
        youngest = max(youngest, stat.st_mtime, stat.st_ctime)
        lines.append(f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest(), youngest


def _to_cache(target, listing, files, pairs):
    kept = {name: files[name].to_numpy() for name in _READ if name != "pixel_sha256"}
    kept["pixel_sha256"] = files.pixel_sha256.to_numpy().astype("U64")
    kept["pairs"] = np.array([pair[:2] for pair in pairs], dtype=np.int64).reshape(-1, 2)
    kept["correlation"] = np.array([pair[2] for pair in pairs], dtype=np.float64)
    kept["flipped"] = np.array([pair[3] for pair in pairs], dtype="U10")
    with write_file(target) as temporary:
        np.savez(temporary, listing=np.array(listing), **kept)


def _from_cache(target, listing, files):
    """Return what `_decode` found when the listing is still the same, else None."""
    try:
        with np.load(target, allow_pickle=False) as kept:
            if str(kept["listing"]) != listing:
                return None
            columns = {name: kept[name] for name in _READ}
            columns["pixel_sha256"] = columns["pixel_sha256"].tolist()
            values = (kept["pairs"].tolist(), kept["correlation"].tolist(), kept["flipped"].tolist())
            return files.assign(**columns), [(i, j, r, how) for (i, j), r, how in zip(*values, strict=True)]
    except Exception:  # absent, or written by something else: read the folder again
        return None
