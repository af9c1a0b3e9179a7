"""images: every kind of PNG becomes uint8 RGB, bad files are named, and figures of known shape have known numbers."""

import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from busilib.data import images
from busilib.errors import DataError


def grey(seed=0, size=(30, 20)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, size[::-1], dtype=np.uint8))


def save(path, image):
    image.save(path)
    return path


def deep_colour(width, height, value=3000):
    """Return a PNG file of 16-bit RGB pixels, as bytes: Pillow cannot write one, and reads it as 8-bit RGB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + struct.pack(">H", value) * 3 * width) * height
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "1", "P"])
def test_every_kind_becomes_uint8_rgb(tmp_path, mode):
    picture = grey().convert(mode)
    array = images.load([save(tmp_path / "a.png", picture)], 16)
    assert array.shape == (1, 16, 16, 3) and array.dtype == np.uint8
    assert (array[0] == np.asarray(picture.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR))).all()
    assert array.std() > 20, "a picture of noise is not flat"


def test_colours_and_the_order_of_the_paths_are_kept(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = 200, 10
    assert (images.load([save(tmp_path / "a.png", Image.fromarray(pixels))], 8)[0] == pixels).all()
    paths = [save(tmp_path / f"{k}.png", Image.new("L", (9, 9), k)) for k in range(40)]
    assert images.load(paths[::-1], 4)[:, 0, 0, 0].tolist() == list(range(40))[::-1]


def test_a_changed_file_is_read_anew_and_nothing_is_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path / "cache"))
    path = save(tmp_path / "a.png", grey(1))
    first = images.load([path], 8)
    assert (images.load([save(path, grey(2))], 8) != first).any()
    assert not (tmp_path / "cache").exists()


def test_files_that_are_no_images_are_named(tmp_path):
    good = save(tmp_path / "good.png", grey(size=(90, 80)))
    half, text, deep = tmp_path / "half.png", tmp_path / "text.png", tmp_path / "deep.png"
    colour = tmp_path / "colour.png"
    colour.write_bytes(deep_colour(9, 9))
    half.write_bytes(good.read_bytes()[:3000])
    text.write_text("not an image", encoding="utf-8")
    save(deep, Image.fromarray(np.full((9, 9), 5000, np.uint16)))
    for bad, why in (
        (half, "truncated"),
        (text, "identify"),
        (tmp_path / "gone.png", "No such"),
        (deep, "8 bits"),
        (colour, "8 bits"),
    ):
        with pytest.raises(DataError, match=f"{bad.name} cannot be read as an image .*{why}.* Is the file complete"):
            images.load([good, bad], 8)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_damaged_file_gives_a_picture_or_a_dataerror(tmp_path_factory, data):
    path = save(tmp_path_factory.mktemp("damaged") / "a.png", grey())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert images.load([path], 8).shape == (1, 8, 8, 3)
    except DataError as error:
        assert "a.png" in str(error)


def outlines(folder, *boxes, size=(24, 20), value=255):
    """Write one mask per box (left, top, right, bottom) and return their paths."""
    paths = []
    for k, box in enumerate(boxes):
        mask = Image.new("L", size)
        mask.paste(value, box)
        paths.append(save(folder / f"{k}.png", mask))
    return tuple(paths)


@pytest.mark.parametrize("value", [255, 1])
def test_the_union_of_masks(tmp_path, value):
    paths = outlines(tmp_path, (2, 5, 7, 10), (12, 5, 17, 10), value=value)
    save(paths[1], Image.open(paths[1]).convert("RGBA"))
    row = SimpleNamespace(width=24, height=20, mask_paths=paths)
    union = images.mask_union(row)
    assert union.shape == (20, 24) and union.dtype == bool and union.sum() == 50
    assert union[5:10, 2:7].all() and union[5:10, 12:17].all()
    assert images.mask_union(row, 10).shape == (10, 10) and images.mask_union(row, (10, 12)).sum() > 0
    assert not images.mask_union(SimpleNamespace(width=4, height=4, mask_paths=())).any()


@pytest.mark.parametrize("drawn", ["alpha", "palette", "colours"])
def test_a_lesion_in_the_alpha_channel_is_read(tmp_path, drawn):
    lesion = Image.new("L", (24, 20))
    lesion.paste(255, (2, 5, 7, 10))
    mask = Image.merge("LA", (Image.new("L", (24, 20), 255), lesion))
    if drawn == "palette":
        mask = lesion.point(lambda value: value // 255).convert("P")
        mask.putpalette([255] * 6)
        mask.info["transparency"] = 0
    if drawn == "colours":
        mask = Image.merge("RGBA", (lesion, lesion, lesion, Image.new("L", (24, 20), 255)))
    path = save(tmp_path / "mask.png", mask)
    union = images.mask_union(SimpleNamespace(width=24, height=20, mask_paths=[path]))
    assert union.sum() == 25 and union[5:10, 2:7].all()
    small = images.small_mask([path], 24, Image.Resampling.NEAREST)
    assert small[7, 4] and not small[:, 12:].any()


def test_a_small_mask_joins_all_masks(tmp_path):
    mask = images.small_mask(outlines(tmp_path, (0, 0, 16, 16), (48, 48, 64, 64), size=(64, 64)), size=16)
    assert mask[0, 0] and mask[15, 15] and not mask[8, 8]


def measure(mask, **options):
    return dict(zip(images.SHAPE_FEATURES, images.shape_features(mask, **options), strict=True))


def test_a_rectangle_a_disc_and_a_star():
    mask = np.zeros((40, 40), bool)
    mask[10:20, 5:25] = True
    shape = measure(mask)
    assert (shape["area"], shape["extent"], shape["solidity"], shape["parts"]) == (200, 1, 1, 1)
    assert shape["height_to_width"] == 0.5 and (shape["row"], shape["column"]) == (14.5, 14.5)
    rows, columns = np.mgrid[:81, :81] - 40
    disc = measure(rows**2 + columns**2 < 30**2)
    star = measure(np.hypot(rows, columns) < 20 + 10 * np.sin(6 * np.arctan2(rows, columns)))
    assert disc["circularity"] > star["circularity"] + 0.2 and disc["solidity"] > star["solidity"] + 0.1
    assert images.shape_features(np.zeros((8, 8), bool)) == (0.0,) * 12


def test_two_parts_as_one_region_or_the_largest():
    mask = np.zeros((40, 40), bool)
    mask[2:12, 2:12] = mask[30:34, 30:34] = True
    union, largest = measure(mask), measure(mask, region="largest")
    assert union["parts"] == largest["parts"] == 2
    assert (union["area"], largest["area"]) == (116, 100)
    assert union["solidity"] < largest["solidity"] == 1
    with pytest.raises(ValueError, match="'union' or 'largest'"):
        images.shape_features(mask, region="both")


def test_the_table_has_one_row_per_image(phantoms):
    table = images.shape_table(phantoms)
    assert table.shape == (len(phantoms.table), 12) and list(table.index) == phantoms.table["image_id"].tolist()
    normal = (phantoms.table["label"] == "normal").to_numpy()
    assert (table[normal] == 0).all(axis=None) and (table[~normal]["area"] > 0).all()
