"""Inputs from a named generator, ``busi-fuzz 1``: each gives a result or a named error, and nothing else is touched.

An input is made from its kind and its number alone, so that one can be made again: ``python -m tests.unit.test_fuzz
png 4711``. ``make test`` tries a few hundred; the slow tests try 10,000. `docs/reliability.md` has what came of them.
"""

import csv
import hashlib
import io
import json
import os
import random
import shutil
import signal
import struct
import sys
import types
import zipfile
import zlib
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busilib import runs
from busilib.data import catalogue, fetch, files, images, splits
from busilib.errors import BusiError
from busilib.recipes import CLASSES
from busitools import convert

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes, links and names of any bytes")
GENERATOR = "busi-fuzz 1"
SECONDS, MEGABYTES = 60, 1000  # after which an input counts as hanging; what the process may grow by
READ = catalogue.read


def dice(kind, number):
    return random.Random(f"{GENERATOR}/{kind}/{number}")


# --- PNG -------------------------------------------------------------------------------------------------------------


def picture(r, side=None):
    width, height = (side, side) if side else (r.randint(1, 40), r.randint(1, 40))
    noise = np.frombuffer(r.randbytes(width * height * 4), np.uint8).reshape(height, width, 4)
    return Image.fromarray(noise, "RGBA").convert(r.choice(["1", "L", "LA", "P", "RGB", "RGBA"]))


def png_bytes(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunks(data):
    at, parts = 8, []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return parts


def joined(parts):
    body = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def flipped(r, data):
    data = bytearray(data or b" ")
    for _ in range(r.choice([1, 1, 2, 8])):
        data[r.randrange(len(data))] ^= 1 << r.randrange(8)
    return bytes(data)


def png(r):
    """Return (bytes, how): "whole" and "tail" are whole; in "bits" and "cut" no checksum fits; the rest is forged."""
    whole, how = png_bytes(picture(r)), r.choice(["whole", "tail", "bits", "cut", "forged", "order", "header", "other"])
    parts = chunks(whole)
    at = r.randrange(len(parts))
    if how == "tail":
        return whole + r.randbytes(r.randint(1, 99)), how, whole
    if how == "bits":
        return flipped(r, whole), how, whole
    if how == "cut":
        return whole[: r.randrange(len(whole))], how, whole
    if how == "forged":  # with the right checksum
        parts[at] = r.choice([parts[at][0], b"tRNS", b"iCCP", b"eXIf", b"PLTE"]), flipped(r, parts[at][1])
    elif how == "order":
        r.choice([lambda: parts.pop(at), lambda: parts.append(parts[at]), lambda: r.shuffle(parts)])()
    elif how == "header":
        sizes = [r.choice([0, 1, 40, 5000, 60_000, 2**31 - 1, 2**32 - 1]) for _ in range(2)]
        parts[0] = b"IHDR", struct.pack(">IIBBBBB", *sizes, r.choice([1, 2, 8, 16]), r.choice([0, 2, 3, 4, 6]), 0, 0, 0)
    elif how == "other":
        small = io.BytesIO()
        picture(r).convert("RGB").save(small, r.choice(["JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
        return (
            r.choice([small.getvalue(), b"", b"<html>404</html>", r.randbytes(500), b"\x89PNG\r\n\x1a\n"]),
            how,
            whole,
        )
    return whole if how == "whole" else joined(parts), how, whole


def try_png(r, top):
    data, how, whole = png(r)
    (top / "benign").mkdir()
    (top / "benign" / "a.png").write_bytes(data)
    with refused() as error:
        table, _ = files.read_files(top)
        pixels = images.load(table.path, 32)
    if error:
        assert how not in ("whole", "tail") or "two grey values" in repr(error), error
    else:
        assert pixels.shape == (1, 32, 32, 3)
        with Image.open(io.BytesIO(whole)) as image:  # without a forged checksum nothing but the true pixels passes
            assert how in ("forged", "order", "header") or table.pixel_sha256[0] == files.pixel_sha256(image), how
    return how not in ("whole", "tail"), error


# --- tables ----------------------------------------------------------------------------------------------------------

ROWS = [["file", "label", "mask", "patient"]]
ROWS += [
    [f"{number}.png", label, f"m{number}.png", f"p{number % 2}"] for number, label in enumerate((*CLASSES, "benign"))
]
ODD = ["../../etc/passwd", "/etc/passwd", "", "Benign", "=1+1", "x" * 9000, "a;b", "\0", "скан.png", '"', "NaN"]


def labels(r):
    """Return (bytes, how) of a labels.csv; "fine" means the same table, written in another way."""
    how, rows = r.choice(["fine", "cell", "cell", "bits", "cut", "shape"]), [list(row) for row in ROWS]
    if how == "fine":
        rows = [rows[0], *r.sample(rows[1:], 4)]
        rows = [[cell.upper() if cell in CLASSES and r.random() < 0.3 else cell for cell in row] for row in rows]
    if how == "cell":
        rows[r.randrange(5)][r.randrange(4)] = r.choice([*ODD, *r.choice(ROWS)])
    if how == "shape":
        change = [lambda: rows.pop(r.randrange(5)), lambda: rows[r.randrange(5)].pop(), lambda: rows.append(rows[1])]
        r.choice([*change, rows.clear, lambda: rows[2].append("more"), lambda: rows.append([])])()
    text = io.StringIO()
    options = {"quoting": r.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), "lineterminator": r.choice(["\n", "\r\n"])}
    csv.writer(text, **options).writerows(rows)
    data = text.getvalue().encode(r.choice(["utf-8", "utf-8-sig", *(["utf-16"] if how == "shape" else [])]))
    data = flipped(r, data) if how == "bits" else data[: r.randrange(len(data))] if how == "cut" else data
    return data, how


def try_labels(r, top):
    for number in range(4):
        picture(random.Random(number), 24).convert("L").save(top / f"{number}.png")
        Image.new("L", (24, 24), 0).save(top / f"m{number}.png")
    data, how = labels(r)
    (top / "labels.csv").write_bytes(data)
    with refused() as error:
        scans = READ(top)
        given = {path.name: label for path, label in zip(scans.table.path, scans.table.label, strict=True)}
        right = {row[0]: row[1] for row in ROWS[1:]}
        assert all(path.is_relative_to(top.resolve()) for path in scans.table.path)
        assert how != "fine" or given == right
        if how == "cut":  # what is left of the table is right, and what is missing is named
            assert given.items() <= right.items()
            assert given == right or any("not in labels.csv" in warning for warning in scans.warnings)
    assert how != "fine" or not error, error
    return how != "fine", error


def try_predictions(r, top):
    head = "file_id,image_id,kind,split,label,p_benign,p_malignant,p_normal\n"
    rows = [f"f{i},f{i},scan,{('train', 'test')[i % 2]},{CLASSES[i % 3]},0.2,0.3,0.5\n" for i in range(6)]
    how = r.choice(["whole", "bits", "bits", "cut", "row"])
    if how == "row":
        at = r.randrange(6)
        rows[at] = r.choice(["", rows[at] * 2, rows[at].replace("0.5", r.choice(["nan", "0.6", "-0.5", "x", ""]))])
    text = (head + "".join(rows)).encode()
    data = flipped(r, text) if how == "bits" else text[: r.randrange(len(text))] if how == "cut" else text
    run = top / "run"
    run.mkdir()
    info = dict.fromkeys(("recipe", "dataset", "weights", "seed", "scores"))
    info |= {"split": {"files": {"train": 3, "test": 3}}}
    (run / "run.json").write_text(json.dumps(info), encoding="utf-8")
    (run / "history.csv").write_bytes(r.choice([b"epoch,loss\n1,0.5\n", b"epoch,loss\n1,0.5\n", r.randbytes(30), b""]))
    (run / "predictions.csv").write_bytes(data)
    with refused() as error:
        matrix = runs.open_run(run).confusion("test")
        len(runs.open_run(run).history)
    if how in ("cut", "row") and not error:
        assert data.strip() == text.strip() and how == "cut" or matrix.sum() <= 3, how
    return how != "whole", error


# --- folders ---------------------------------------------------------------------------------------------------------

NAMES = "скан (1).png|超音波.png|صورة.png|🙂.png|é.png|e\u0301.png|a\nb.png|\u202egnp.png|con.png| .png|X.PNG|a.b.c.png"
NAMES += "|x.jpg|x_mask.png|x_mask_1.png|_mask.png|mask_x.png|x-b.png|x|.hidden.png|Thumbs.db|benign (1).PNG|x_MASK.png"
NAMES = [*NAMES.split("|"), "A" * 251 + ".png", "$(id).png", "%s{0}.png", "-rf.png"]


def tree(r, top):
    """Make a data set, and then up to four odd things in it; return how many."""
    for label in r.sample(CLASSES, r.choice([1, 2, 3, 3])):
        (top / label).mkdir()
        for number in range(1, r.randint(1, 3)):
            picture(r, 24).convert(r.choice(["L", "RGB"])).save(top / label / f"{label} ({number}).png")
            Image.new("1", (24, 24), r.random() < 0.3).save(top / label / f"{label} ({number})_mask.png")
    changes = r.choice([0, 1, 1, 2, 4])
    for _ in range(changes):
        place = r.choice([top, *sorted(path for path in top.iterdir() if path.is_dir() and not path.is_symlink())])
        odd = place / r.choice(NAMES)
        what = r.choice(["image", "image", "folder", "link", "loop", "lost", "pipe", "bytes", "deep", "class", "sets"])
        if odd.exists() or odd.is_symlink():
            continue
        elif what == "image":
            picture(r, r.choice([24, 24, 1, 50])).convert("RGB").save(odd, "PNG")
        elif what == "folder":
            odd.mkdir()
        elif what == "link":
            odd.symlink_to("/etc/passwd")
        elif what == "loop":
            odd.symlink_to(place, target_is_directory=True)
        elif what == "lost":
            odd.symlink_to("nowhere")
        elif what == "pipe":
            os.mkfifo(odd)  # whoever opens it waits for ever
        elif what == "bytes":
            (place / os.fsdecode(b"\xff\xfe.png")).write_bytes(r.randbytes(99))
        elif what == "deep":
            odd = place.joinpath(*["d"] * r.choice([1, 3, 60]))
            odd.mkdir(parents=True, exist_ok=True)
            picture(r, 24).save(odd / "x.png")
        elif what == "class":
            (top / r.choice(["Benign", "BENIGN ", "cyst", "images", "masks"])).mkdir(exist_ok=True)
        elif what == "sets":
            for part in ("train", "test"):
                (top / part / CLASSES[0]).mkdir(parents=True, exist_ok=True)
                picture(r, 24).save(top / part / CLASSES[0] / "x.png")
    return changes


def state(top):
    return sorted((str(p), p.lstat().st_size, p.lstat().st_mtime_ns) for p in top.rglob("*"))


def try_tree(r, top):
    top = top / "in"
    top.mkdir()
    changes, before = tree(r, top), state(top)
    with refused() as error:
        scans = READ(top)
        images.load(scans.table.path, 32)
        images.shape_table(scans, 32)
        for make in (splits.paper_a, splits.clean):
            with refused():
                make(scans)
    with refused() as convert_error:
        convert.convert(top, top.parent / "out")
    assert (top.parent / "out").exists() != bool(convert_error), convert_error
    assert state(top) == before and set(os.listdir(top.parent)) <= {"in", "out"}
    return changes > 0, error


# --- archives --------------------------------------------------------------------------------------------------------


def archive(r):
    """Return (bytes, how) of a zip."""
    buffer, how = io.BytesIO(), r.choice(["whole", "bits", "bits", "cut", "names", "other"])
    with zipfile.ZipFile(buffer, "w", r.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as out:
        for label in CLASSES:
            out.writestr(f"Dataset_BUSI_with_GT/{label}/{label} (1).png", png_bytes(picture(r, 24)))
        if how == "names":
            name = r.choice(
                [
                    "../evil.png",
                    "/tmp/busi-evil.png",
                    "..\\evil.png",
                    "C:\\evil.png",
                    "a/../../evil.png",
                    "x" * 400,
                    "a\0b",
                ]
            )
            out.writestr(name, b"evil")
            link = zipfile.ZipInfo("Dataset_BUSI_with_GT/benign/link.png")
            link.external_attr = 0o120777 << 16
            out.writestr(link, "/etc/passwd")
    data = buffer.getvalue()
    if how == "other":
        return r.choice([b"", b"PK\x03\x04", b"<html>", r.randbytes(900)]), how
    return flipped(r, data) if how == "bits" else data[: r.randrange(len(data))] if how == "cut" else data, how


def try_archive(r, top):
    data, how = archive(r)
    expected = hashlib.sha256(data if r.random() < 0.5 else data + b"!").hexdigest()
    is_it = expected == hashlib.sha256(data).hexdigest()
    (top / "target").mkdir()
    with pytest.MonkeyPatch.context() as patch, refused() as error:
        patch.setenv("BUSILIB_CACHE", str(top / "cache"))
        patch.setitem(sys.modules, "kagglehub", None)
        patch.setattr(fetch, "_receive", lambda url, partial, timeout: partial.write_bytes(data))
        patch.setattr(catalogue, "read", lambda folder, name: types.SimpleNamespace(warnings=()))
        fetch.get(top / "target", "https://example.org/busi.zip", expected)
    assert is_it or error, "an archive with another checksum was unpacked"
    assert not error or not (top / "target" / fetch.FOLDER).exists(), error
    assert how != "whole" or not is_it or not error, error
    outside = [path for path in top.rglob("*evil*") if top / "target" not in path.parents and "cache" not in path.parts]
    assert not outside and not Path("/tmp/busi-evil.png").exists() and set(os.listdir(top)) <= {"target", "cache"}
    return how != "whole" or not is_it, error


# --- all of them -----------------------------------------------------------------------------------------------------


class refused:
    """Let a named error pass, and be true when there was one; every other error is a failure."""

    def __enter__(self):
        self.error = None
        return self

    def __exit__(self, kind, error, _):
        self.error = error if isinstance(error, BusiError) else None
        assert self.error is None or str(error).strip(), "an error without words"
        return self.error is not None

    def __bool__(self):
        return self.error is not None

    def __repr__(self):
        return repr(self.error)


@contextmanager
def limit(seconds):
    def stop(*_):
        raise AssertionError(f"more than {seconds} seconds")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


KINDS = {"png": (try_png, 5000), "labels": (try_labels, 1500), "predictions": (try_predictions, 500)}
KINDS |= {"tree": (try_tree, 1500), "archive": (try_archive, 1500)}


def try_all(kind, numbers, place):
    """Return how many inputs there were, how many of them were not as they should be, and how many were refused."""
    counts = Counter()
    for number in numbers:
        top = place / str(number)
        top.mkdir()
        try:
            with limit(SECONDS):
                odd, error = KINDS[kind][0](dice(kind, number), top)
        except Exception as error:
            error.add_note(f"input: {GENERATOR}, {kind}, {number}")
            raise
        counts += Counter(inputs=1, invalid=int(odd), refused=int(bool(error)))
        shutil.rmtree(top)
    return dict(counts)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_inputs(kind, tmp_path):
    counts = try_all(kind, range(KINDS[kind][1] // 40), tmp_path)
    assert counts["invalid"] >= counts["inputs"] / 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_inputs(kind, tmp_path, record_property):
    before = peak()
    counts = try_all(kind, range(KINDS[kind][1]), tmp_path)
    record_property(kind, dict(counts) | {"MB": round(peak() - before)})
    assert counts["invalid"] >= counts["inputs"] / 2 and peak() - before < MEGABYTES


if __name__ == "__main__":
    (Path(sys.argv[2]).resolve()).mkdir()
    print(KINDS[sys.argv[1]][0](dice(*sys.argv[1:3]), Path(sys.argv[2]).resolve()))
