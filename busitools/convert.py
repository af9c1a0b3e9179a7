"""Turn the usual layouts into one that `catalogue.read` reads: the images, their masks, and a labels.csv beside them.

BUS-BRA (Images, Masks, bus_data.csv), BUS-UCLM (images, masks in colours, INFO.csv), folders of images and of masks,
folders train, val and test, and class folders whose masks have other names than BUSI's.
"""

import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from busilib.cache import write_folder
from busilib.data import catalogue, images
from busilib.data.files import LABELS, SETS, first_ten, is_text, read_csv
from busilib.errors import DataError
from busilib.recipes import CLASSES

_FORMATS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_FOLDER = re.compile(r"masks?|segmentations?|gt|ground[_ ]?truth|annotations?|labels")
_NAME = re.compile(
    r"[\s._-]+(mask|seg|segmentation|gt|annotation|roi|tumou?r|lesion)([\W_]+\d{1,2})?$|^(mask|seg|gt)[\W_]+",
    re.IGNORECASE,
)
_CHANNELS = {"malignant": 0, "benign": 1}  # BUS-UCLM draws malignant lesions in red, benign ones in green


def convert(source, target):
    """Copy a data set into the new folder ``target``, with a labels.csv; return its counts (DataFrame) and warnings.

    The sets of a folder that comes split are written into split.csv. Images whose mask has another size are left out,
    and a warning names them. Raises DataError, and leaves nothing behind, when
    an image has no class, a mask fits no image or several, or the copy could not be read.
    """
    source, target = (Path(folder).expanduser().resolve() for folder in (source, target))
    if not source.is_dir() or target.exists() or target.is_relative_to(source):
        raise DataError(f"{source} must be a folder, and {target} a new one elsewhere.")
    files = pd.DataFrame(_files(source), columns=["path", "name", "label", "set", "is_mask", "key", "number"])
    files["is_mask"] = files["is_mask"].astype(bool)  # of an empty table it would be none
    scans, problems = files[~files.is_mask].assign(patient=""), {}
    masks = {index: [] for index in scans.index}
    for mask in files[files.is_mask].itertuples():
        same = scans[(scans.label.eq(mask.label) | (not mask.label)) & (scans["set"].eq(mask.set) | (not mask.set))]
        fits = same.index[same.key == mask.key]
        fits = fits if len(fits) else same.index[same.number == mask.number]
        if len(fits) == 1:
            masks[fits[0]].append(mask)
        else:
            problems[mask.name] = f"a mask, by its name or folder, that fits {len(fits)} images"
    _tell(source, scans)
    scans["told"] = scans.label != ""
    for index, scan in scans[~scans.told].iterrows():
        scans.loc[index, "label"] = label = _colour(masks[index])
        if label not in CLASSES:
            problems[scan["name"]] = label or f"no class: neither a folder {', '.join(CLASSES)} nor a table names it"
    if problems or scans.empty:
        lines = [f"{name}: {what}" for name, what in problems.items()] or ["no images"]
        raise DataError("\n- ".join([f"{source} cannot be converted.", first_ten(lines, "\n- ")]))
    with write_folder(target) as working:
        rows, left_out = [], []
        for index, scan in scans.iterrows():
            if len({_size(path) for path in (scan.path, *(mask.path for mask in masks[index]))}) > 1:
                left_out.append(scan["name"])
                continue
            channel = None if scan.told else _CHANNELS.get(scan.label)
            for path, name in [(scan.path, scan["name"]), *((mask.path, mask.name) for mask in masks[index])]:
                _copy(path, working / name, None if name == scan["name"] else channel)
            names = ";".join(mask.name for mask in masks[index])
            rows.append((scan["name"], scan.label, names, scan.patient, scan["set"]))
        table = pd.DataFrame(rows, columns=["file", "label", "mask", "patient", "split"])
        table.drop(columns="split").to_csv(working / LABELS, index=False)
        if table["split"].any():
            table[table["split"] != ""][["file", "split"]].to_csv(working / "split.csv", index=False)
        scans = catalogue.read(working, target.name)  # what cannot be read is not kept
    what = f"Left out, for their masks have other sizes: {first_ten(left_out)}."
    return scans.counts(), [*scans.warnings, *([what] if left_out else [])]


@contextmanager
def _opened(path):
    """Open an image; raise DataError, with its name, when it cannot be read."""
    try:
        image = Image.open(path)
        image.load()
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    with image:
        yield image


def _size(path):
    with _opened(path) as image:
        return image.size


def _files(source):
    """Yield path, name in the copy, class, set, is_mask, key and number of each image file."""
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        words = [part.casefold() for part in inside.parts[:-1]]
        hidden = any(word.startswith((".", "__macosx")) for word in (*words, path.name))
        if path.suffix.lower() in _FORMATS and path.is_file() and not hidden:
            if not is_text(path):
                raise DataError(f"{path} has a name that is no text (UTF-8). Rename it.")
            label = next((word for word in words if word in CLASSES), "")
            is_mask = any(_FOLDER.fullmatch(word) for word in words) or bool(_NAME.search(path.stem))
            key = (_NAME.sub("", path.stem) if is_mask else path.stem).casefold()
            number = re.sub(r"^[^\W\d_]+[\W_]*(?=\d)", "", key)
            part = next((SETS[word] for word in words if word in SETS), "")
            yield path, inside.with_suffix(".png").as_posix(), label, part, is_mask, key, number


def _tell(source, scans):
    """Write into the scans what a table beside them says: class and patient."""
    if (source / "bus_data.csv").is_file():
        table = read_csv(source / "bus_data.csv", ("ID", "Case", "Pathology"))
        table = table.apply(lambda column: column.str.casefold()).drop_duplicates("ID").set_index("ID")
        table = table.reindex(scans.key)
        scans["label"], scans["patient"] = (table[name].fillna("").to_numpy() for name in ("Pathology", "Case"))
    if (source / "INFO.csv").is_file():  # its images are named PATIENT_NUMBER
        scans["patient"] = [path.stem.rpartition("_")[0] for path in scans.path]


def _colour(masks):
    """Return the class that the colours of a mask name: red malignant, green benign, black normal; else why not."""
    if len(masks) != 1:
        return ""
    with _opened(masks[0].path) as image:
        pixels = np.asarray(image.convert("RGB")) > 127
    if (pixels.sum(axis=-1) > 1).any() or pixels[..., 2].any():
        return ""  # white, or of other colours: it names no class
    has = [label for label, channel in _CHANNELS.items() if pixels[..., channel].any()]
    return f"its mask has lesions in both colours, {masks[0].name}" if len(has) == 2 else (has or ["normal"])[0]


def _copy(path, target, channel=None):
    """Copy an image as PNG, without what a clinic wrote into it; of a mask in colours only the ``channel``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(path) as header:
        deep = images.is_deep(header)
    with _opened(path) as image:
        if channel is not None:
            image.convert("RGB").getchannel(channel).save(target)
        elif image.format == "PNG" and (deep or not (image.text or image.getexif())):
            shutil.copyfile(path, target)
        else:
            image = ImageOps.exif_transpose(image.convert("RGB") if image.mode == "CMYK" else image)
            image.info = {key: value for key, value in image.info.items() if key == "transparency"}
            image.save(target)
