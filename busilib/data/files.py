"""Reading a folder: which files are scans, which are masks, and what is wrong with them.

The BUSI layout is ``<folder>/{benign,malignant,normal}/*.png``, where ``X_mask.png``, ``X_mask_1.png``, … are the masks
of ``X.png``. In any other folder a table ``labels.csv`` names the files: its columns are file (a path within the
folder), label and, where they are known, mask (a path; several are joined by ";") and patient.
"""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from busilib.cache import bar, cache_dir, write_file
from busilib.data import duplicates, images
from busilib.errors import DataError
from busilib.recipes import CLASSES

_MASK = re.compile(r"(?<=.)_mask(_\d+)?$", re.IGNORECASE)
# What programs append to the name of an image that they have turned, mirrored or otherwise augmented.
_AUGMENTED = re.compile(
    r"([-_ .]+(rot(at(ed|e|ion))?|[hv]?flip(ped)?|mirror(ed)?|zoom(ed)?|shear(ed)?|shift(ed)?|crop(ped)?|aug(mented)?|"
    r"nois[ey]|bright(ness)?|contrast)[\W_]*\d*)+$",
    re.IGNORECASE,
)
_IGNORED = {"thumbs.db", "desktop.ini", "__macosx"}
LABELS = "labels.csv"
LARGEST = 25_000_000  # pixels of an image: a small file can claim a billion, and would take all memory
SETS = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(("val", "valid", "validation"), "validation")
SETS |= dict.fromkeys(("test", "testing"), "test")


def natural_key(text):
    """Return a sort key that compares runs of digits as numbers: "benign (2)" comes before "benign (10)"."""
    parts = re.split(r"(\d+)", str(text))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts]


def pixel_sha256(image):
    """Return the SHA-256 (64 hexadecimal digits) of a PIL image's RGB pixels: a re-encoded copy has the same one."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def text_sha256(*parts):
    """Return the SHA-256 of texts, joined by spaces."""
    return hashlib.sha256(" ".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def first_ten(names, between=", "):
    """Return the first ten names, and how many more there are."""
    return between.join([*names[:10], *([f"… and {len(names) - 10} more"] if len(names) > 10 else [])])


def sources(names):
    """Return for each name of a Series the one that it was augmented from, "" where no image of that one was."""
    stems = names.str.replace(_AUGMENTED, "", regex=True)
    return stems.where((stems != names).groupby(stems).transform("any"), "")


def find_folder(folder):
    """Return the Path that holds `LABELS` or the class folders: ``folder`` itself, or the one folder inside it.

    Raises DataError when it has neither; where the layout is one of the usual ones, with the command that changes it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f'There is no folder {folder}. Give "phantom", "busi", or a folder with {", ".join(CLASSES)}.')
    if _is_data(folder):
        return folder
    if layout := _layout(folder):
        convert = f'busi data convert "{folder}" NEW_FOLDER'
        raise DataError(f"{folder} has {layout}. Make a copy that can be read, with a {LABELS}: {convert}")
    children = [child for child in _visible(folder) if child.is_dir()]
    inside = [child for child in children if _is_data(child)]
    if not inside and len(children) == 1 and any(child.is_dir() for child in _visible(children[0])):
        return find_folder(children[0])
    if len(inside) != 1:
        what = f"{len(inside)} data sets" if inside else "no class folder"
        what += f": {', '.join(child.name for child in inside or children) or 'nothing at all'}"
        raise DataError(f"{folder} holds {what}. Give the one folder that holds {', '.join(CLASSES)} (in lower case).")
    return inside[0]


def _is_data(folder):
    return any((folder / name).exists() for name in (*CLASSES, LABELS))


def _layout(folder):
    """Name the usual layout, other than BUSI's, that a folder has; "" when it has none."""
    names = {path.name.casefold() for path in _visible(folder)}
    if {"images", "masks"} <= names:
        whose = "BUS-BRA" if "bus_data.csv" in names else "BUS-UCLM" if "info.csv" in names else "many data sets"
        return f"the layout of {whose}, with the images and the masks in folders of their own"
    return "a folder for each set, as train and test" if len(names & SETS.keys()) > 1 else ""


def _visible(folder):
    """Return what a folder holds, sorted, without what operating systems leave behind."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name.casefold() not in _IGNORED)


def read_files(root):
    """Read every PNG below ``root`` and return ``(files, pairs)``; a second call is answered from the cache.

    ``files`` has one row per file, in natural order: label, path (Path), scan (the name that a scan shares with its
    masks), is_mask, image_id, patient ("" where `LABELS` names none), width and height (pixels), pixel_sha256, colour
    (bool), black (bool), two_valued (bool: all but a few pixels are darkest or brightest), bright (share of pixels
    above half the brightest).
    ``pairs`` are the near-duplicates of `duplicates.near_duplicates`, numbered by the rows that are no masks.

    Raises:
        DataError: the folder cannot be used; the message lists the first problems, each with its file.
    """
    root = Path(root).resolve()
    files, problems = _labelled(root) if (root / LABELS).is_file() else _list(root)
    listing = [duplicates.LEVELS, files.drop(columns="path").to_numpy().tolist(), *map(_stamp, files.path)]
    stored = cache_dir("catalogue") / f"{text_sha256(str(root))[:16]}-v6.pickle"  # v7: when more is read from a file
    with suppress(Exception):  # absent, damaged, or of another pandas: the folder is read anew
        if stored.stat().st_uid == getattr(os, "getuid", int)():  # reading a pickle runs code: one's own only
            stored_listing, *answer = pd.read_pickle(stored)
            if stored_listing == listing and not problems:
                return answer
    with ThreadPoolExecutor() as pool:
        decoded = list(bar(pool.map(_decode, files.path, files.is_mask), "reading images", len(files), "file"))
    problems |= {path: what for path, what in zip(files.path, decoded, strict=True) if isinstance(what, str)}
    if not problems:
        files = files.join(pd.DataFrame(decoded))
        problems = _wrong_sizes(files) | _hidden_masks(files)
    if problems:
        lines = [f"{Path(os.path.relpath(path, root)).as_posix()}: {what}" for path, what in problems.items()]
        raise DataError("\n- ".join([f"{root} cannot be used.", first_ten(lines, "\n- ")]))
    pairs = duplicates.near_duplicates(files.pop("small")[~files.is_mask])
    with suppress(OSError), write_file(stored) as temporary:  # a full disk makes the next call slow, no more
        pd.to_pickle((listing, files, pairs), temporary)
    return files, pairs


def _stamp(path):
    """Return what changes when a file does: its path, size, times and number."""
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _list(root):
    """Return the table of files (see `_in_order`) and the problems that names show (by Path)."""
    folders = [entry for entry in _visible(root) if entry.is_dir()]
    unknown = [folder for folder in folders if folder.name not in CLASSES and _visible(folder)]
    what = f"an unknown class folder. Only {', '.join(CLASSES)} are read: rename it or move it away."
    paths = [path for folder in folders if folder.name in CLASSES for path in _visible(folder)]
    paths = [path for path in paths if not path.is_dir() or _visible(path)]  # an empty folder is in nobody's way
    stray = [entry for entry in _visible(root) if entry.suffix.lower() == ".png"]
    problems = dict.fromkeys(unknown, what) | dict.fromkeys(stray, "an image outside the class folders. Move it.")
    problems |= {path: what for path in paths if (what := _wrong_name(path))}
    paths = [path for path in paths if path not in problems]
    if not paths and not problems:
        raise DataError(f"{root} holds no images at all. Put PNG files into {', '.join(CLASSES)}.")
    names = [(path, path.stem) for path in paths]
    rows = [(path.parent.name, path, _MASK.sub("", name), bool(_MASK.search(name)), name, "") for path, name in names]
    files = _in_order(rows)
    scans, masks = files[~files.is_mask], files[files.is_mask]
    twice = scans.path[scans.assign(scan=scans.scan.str.casefold()).duplicated(["label", "scan"])]
    problems |= {path: "the name of another image but for upper and lower case. Rename it." for path in twice}
    lost = masks[~(masks.label + masks.scan).isin(scans.label + scans.scan)].itertuples()
    problems |= {m.path: f"a mask without its image {m.scan}.png. Add the image or remove the mask." for m in lost}
    return files, problems


def read_csv(path, columns):
    """Return a CSV file as a table of texts; raise DataError when it cannot be read or lacks one of ``columns``."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {error}") from error
    table = table.rename(columns=str.strip)
    if missing := [name for name in columns if name not in table]:
        raise DataError(f"{path} has no column {' or '.join(missing)}. It has: {', '.join(table)}.")
    return table.apply(lambda column: column.str.strip())


def _labelled(root):
    """Return the same as `_list` of a folder whose `LABELS` names the files."""
    table, rows, problems = read_csv(root / LABELS, ("file", "label")), {}, {}
    names = table.file.map(lambda file: Path(file).stem)
    if names.str.casefold().duplicated().any():  # files of two folders share a name
        names = table.file.map(lambda file: Path(file).with_suffix("").as_posix())
    masks, patients = (table.get(column, pd.Series("", index=table.index)) for column in ("mask", "patient"))
    columns = table.file, table.label.str.casefold(), names, masks, patients
    for file, label, name, several, patient in zip(*columns, strict=True):
        listed = [(file, name), *((mask.strip(), f"{name}_mask") for mask in several.split(";") if mask.strip())]
        for number, (one, image_id) in enumerate(listed):
            inside = _inside(root, one)
            path = inside or root / one
            if label not in CLASSES:
                problems[path] = f"its label in {LABELS} is {label!r}. Only {', '.join(CLASSES)} are read."
            elif not inside:
                problems[path] = f"{LABELS} names it, and it is not there."
            elif path in rows:
                problems[path] = f"{LABELS} names it twice."
            image_id += f"_{number - 1}" if number > 1 else ""
            rows[path] = (label, path, name, number > 0, image_id, patient)
    if not rows:
        raise DataError(f"{root / LABELS} lists no images at all.")
    return _in_order([row for path, row in rows.items() if path not in problems]), problems


def _in_order(rows):
    """Return the table of files, by class and naturally by name, of rows in the order of its columns."""
    rows = sorted(rows, key=lambda row: (CLASSES.index(row[0]), natural_key(row[4])))
    columns = "label path scan is_mask image_id patient".split()
    return pd.DataFrame(rows, columns=columns).astype({"is_mask": bool})


def is_text(path):
    """Say whether a file's name is text: on Linux it may hold any bytes, which no table can."""
    return os.fsencode(path.name).decode(errors="replace") == path.name


def _inside(root, name):
    """Return the file of that name below ``root`` as a resolved Path; None when there is none, or it leads outside."""
    try:
        path = (root / name).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
    except (OSError, ValueError):  # longer than a name can be, or with a null character
        return None


def _wrong_name(path):
    """Say what is wrong with something in a class folder, by its name alone; "" when nothing is."""
    unnamed = not _MASK.search(path.stem) and re.search(r"mask[\W_\d]*$", path.stem, re.IGNORECASE)
    checks = (
        (path.is_dir(), "a folder inside a class folder. Move its files up, or let `busi data convert` do it."),
        (not path.is_file(), "no file: a link to nothing, or something special. Remove it."),
        (not is_text(path), "a name that is no text (UTF-8). Rename it."),
        (path.suffix.lower() != ".png", "no PNG image. Move it away, or save it as PNG when it is a scan."),
        (unnamed, "neither scan nor mask. Name the masks of X.png X_mask.png, X_mask_1.png, …"),
    )
    return next((what for is_wrong, what in checks if is_wrong), "")


def _decode(path, is_mask):
    """Return what `read_files` tells of a file, and its small grey copy, as a dict; or what is wrong with it (str)."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > LARGEST:
                return f"{image.width}×{image.height} pixels, more than {LARGEST // 10**6} million. Save it smaller."
            image.verify()  # compares the checksum of every chunk, which loading does not
        with Image.open(path) as image:
            deep = images.is_deep(image)
            image.load()
    except UnidentifiedImageError:
        return "no PNG image, whatever its name says. Save it as PNG, or remove it."
    except Exception as error:  # Pillow raises many kinds on damaged files
        return f"unreadable, damaged or truncated ({error}). Replace it by a fresh copy."
    if deep:
        return "more than 8 bits per channel, which would be cut. Save it with 8 bits, scaled to 0–255."
    rgb = images.mask_pixels(image) if is_mask else image.convert("RGB")
    pixels, grey = np.asarray(rgb), rgb.convert("L")
    looks = {"colour": bool((pixels != pixels[..., :1]).any()), "black": not pixels.any()}
    share, (low, high) = np.cumsum(grey.histogram()) / grey.width / grey.height, grey.getextrema()
    between = share[high - (high - low) // 10 - 1] - share[low + (high - low) // 10]
    looks |= {"two_valued": bool(between < 0.1), "bright": 1 - share[high // 2], "small": duplicates.small_copy(grey)}
    return {"width": rgb.width, "height": rgb.height, "pixel_sha256": pixel_sha256(rgb)} | looks


def _wrong_sizes(files):
    """Return the problems of masks that have another size than their scan."""
    sizes = files[~files.is_mask].set_index(["label", "scan"])[["width", "height"]]
    files = files.join(sizes.add_prefix("scan_"), on=["label", "scan"])
    wrong = files[(files.width != files.scan_width) | (files.height != files.scan_height)]
    what = "{0.width}×{0.height} pixels, but its image has {0.scan_width}×{0.scan_height}. Replace it by its own mask."
    return {row.path: what.format(row) for row in wrong.itertuples()}


def _hidden_masks(files):
    """Return the problems of scans that are masks by their content."""
    what = "two grey values, as a mask has. Name it X_mask.png if it is the mask of X.png, else remove it."
    return dict.fromkeys(files.path[files.two_valued & ~files.is_mask], what)
