"""Lesson 13 refuses bad files with a sentence, reads uploads of both versions of ipywidgets, and is the demo's page."""

import io
import struct
import zipfile
import zlib

import nbformat
import numpy as np
import pytest
from PIL import Image

from busilib.data import images
from busilib.errors import DataError, LessonError
from busitools import demo, notebooks

CELLS = nbformat.read(notebooks.lessons(["13"])[0], as_version=4).cells
GREY = Image.linear_gradient("L")


@pytest.fixture(scope="module")
def lesson():
    """The names of the lesson's cells that need no model: what reads a file, and what shows a picture."""
    names = {"np": np}
    for words in ("def refusal(", "def read_upload(", "def softened(", "def ready(", "def overlay(", "def uploaded("):
        source = next(cell.source for cell in CELLS if words in cell.source and cell.cell_type == "code")
        exec(source.partition("\np, y = answers")[0], names)  # noqa: S102
    return names


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deep_colour(side=64):
    """A PNG of 16 bits per channel: Pillow cannot write one, and reads it as 8-bit RGB."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = zlib.compress((b"\0" + bytes(6 * side)) * side)
    header = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("zeros", bytes(10**7))
    return file.getvalue()


PNG, MOVING = saved(GREY), {"save_all": True, "append_images": [GREY.rotate(90)]}
BAD = {
    "empty": (b"", "has 0 bytes"),
    "a letter": (b"Dear doctor, " * 9, "is no picture"),
    "an archive": (archive(), "is no picture"),
    "a program for a printer": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "is no picture"),
    "nine megabytes": (PNG + bytes(9 * 10**6), "The limit is 8 million"),
    "20,000 × 20,000": (saved(Image.new("1", (20_000, 20_000))), "has far too many pixels"),
    "108 million pixels": (saved(Image.new("1", (12_000, 9_000))), "12,000 × 9,000 pixels"),
    "three pixels": (saved(Image.new("L", (3, 3))), "has only 3 × 3 pixels"),
    "a moving GIF": (saved(GREY, "GIF", **MOVING), "holds several pictures"),
    "a moving PNG": (saved(GREY, **MOVING), "holds several pictures"),
    "pages": (saved(GREY, "TIFF", **MOVING), "holds several pictures"),
    "16 bits of grey": (saved(Image.fromarray(np.full((64, 64), 9000, "uint16"))), "more than 8 bits"),
    "16 bits of colour": (deep_colour(), "more than 8 bits"),
    "floats": (saved(Image.new("F", (64, 64)), "TIFF"), "more than 8 bits"),
    "printing colours": (saved(GREY.convert("CMYK"), "JPEG"), "is in the colours CMYK"),
    "a hole": (saved(Image.new("RGBA", (64, 64))), "has transparent parts"),
    "a transparent colour": (saved(GREY.convert("P"), transparency=3), "has transparent parts"),
    "half a file": (PNG[:400], "is damaged"),
    "a wrong byte": (PNG[:300] + b"\0\0\0\0" + PNG[304:], "is damaged"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as the lesson does
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_gets_a_sentence(lesson, kind):
    content, words = BAD[kind]
    with pytest.raises(DataError) as error:
        lesson["read_upload"]("mine.png", content)
    assert str(error.value).startswith("mine.png ") and words in str(error.value) and str(error.value)[-1] in ".?"


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_an_honest_file_is_read(lesson, mode, kind):
    pixels = lesson["read_upload"]("mine", saved(GREY.convert(mode), kind))
    assert pixels.shape == (256, 256, 3) and pixels.dtype == np.uint8
    assert (pixels == np.asarray(GREY.convert(mode).convert("RGB"))).all()


def test_an_uploaded_scan_is_what_the_data_set_gives(lesson, phantoms):
    path = phantoms.table["path"].iloc[0]
    with open(path, "rb") as file:
        pixels = lesson["read_upload"]("scan.png", file.read())
    small = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR))
    assert (small == images.load([path], 64)[0]).all()


def test_uploads_of_both_versions_of_ipywidgets(lesson):
    seven = {"old.png": {"metadata": {"name": "old.png"}, "content": b"1"}}
    seven |= {"a.png": {"metadata": {"name": "a.png"}, "content": b"23"}}
    eight = ({"name": "a.png", "type": "image/png", "content": memoryview(b"23")},)
    assert lesson["uploaded"](seven) == lesson["uploaded"](eight) == ("a.png", b"23")


def test_the_name_of_a_file_cannot_bring_code(lesson):
    tag = lesson["scan_image"](np.zeros((4, 4, 3), "uint8"), '"><script>alert(1)</script>')
    assert "<script" not in tag and "&quot;&gt;&lt;script&gt;" in tag


def test_softened_targets_sum_to_one(lesson):
    targets = lesson["softened"](np.array([0, 0, 1, 2, 2, 2]))
    assert np.allclose(targets.sum(axis=1), 1)
    assert np.allclose(targets[:, 0], [3 / 4, 3 / 4, 1 / 6, 1 / 10, 1 / 10, 1 / 10])


def test_the_overlay_is_the_picture_at_0_and_the_map_at_1(lesson):
    picture = np.full((20, 30, 3), 200, "uint8")
    heat = np.array([[0.0, 1.0]])
    assert (lesson["overlay"](picture, heat, 0) == picture).all()
    full = lesson["overlay"](picture, heat, 1)
    assert full.shape == picture.shape and full[:, -1].mean() > 150 > 50 > full[:, 0].mean()


def test_the_page_is_the_lessons_own_cells():
    page = demo.page({"SEED": 3})
    code = [cell.source for cell in page.cells if cell.cell_type == "code"]
    assert page.cells[0].source.startswith("# Try a scan") and "not for diagnosis" in page.cells[0].source
    assert all(source.startswith("%%capture\n") for source in code[:-1]) and "display(" in code[-1]
    assert {source.removeprefix("%%capture\n").partition("\nSEED = 3")[0] for source in code} <= {
        c.source for c in CELLS
    }
    assert any(source.endswith("\nSEED = 3") for source in code)
    assert any("What this is not for" in cell.source for cell in page.cells)
    with pytest.raises(LessonError, match="has no parameter SIZE"):
        demo.page({"SIZE": 3})
