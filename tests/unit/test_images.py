"""images: every kind of PNG becomes uint8 RGB; the cache goes by content; bad files are named."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from busilib.data import images
from busilib.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path_factory.mktemp("cache")))


def grey(seed=0, size=(30, 20)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, size[::-1], dtype=np.uint8))


def save(path, image):
    image.save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "1", "P"])
def test_every_kind_becomes_uint8_rgb(tmp_path, mode):
    picture = grey().convert(mode)
    array = images.load([save(tmp_path / "a.png", picture)], 16)
    assert array.shape == (1, 16, 16, 3) and array.dtype == np.uint8
    expected = np.asarray(picture.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR))
    assert (array[0] == expected).all()
    assert array.std() > 20, "a picture of noise is not flat"


def test_colours_keep_their_order_and_the_size_is_exact(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = 200, 10
    array = images.load([save(tmp_path / "a.png", Image.fromarray(pixels))], 8)
    assert (array[0] == pixels).all()


def test_the_order_of_the_paths_is_kept(tmp_path):
    paths = [save(tmp_path / f"{k}.png", Image.new("L", (9, 9), k)) for k in range(40)]
    assert images.load(paths[::-1], 4)[:, 0, 0, 0].tolist() == list(range(40))[::-1]
    assert images.load(paths, 4)[:, 0, 0, 0].tolist() == list(range(40))


def test_the_cache_gives_the_same_and_a_changed_file_is_read_anew(tmp_path, monkeypatch):
    paths = [save(tmp_path / f"{k}.png", grey(k)) for k in range(3)]
    first = images.load(paths, 8)
    read = images._read
    monkeypatch.setattr(images, "_read", lambda *given: pytest.fail("the cache was not used"))
    assert (images.load(paths, 8) == first).all()
    monkeypatch.setattr(images, "_read", read)
    status = paths[1].stat()
    paths[1].write_bytes(save(tmp_path / "new.png", grey(9)).read_bytes())
    os.utime(paths[1], ns=(status.st_atime_ns, status.st_mtime_ns))  # the time stamp must not matter
    second = images.load(paths, 8)
    assert (second[[0, 2]] == first[[0, 2]]).all() and (second[1] != first[1]).any()
    assert images.load(paths, 9).shape == (3, 9, 9, 3)
    assert (images.load(paths, 8, cache=False) == second).all()


def test_files_that_are_no_images_are_named(tmp_path):
    good = save(tmp_path / "good.png", grey(size=(90, 80)))
    half = tmp_path / "half.png"
    half.write_bytes(good.read_bytes()[:3000])
    text = tmp_path / "text.png"
    text.write_text("not found", encoding="utf-8")
    for bad in (half, text):
        with pytest.raises(DataError, match=f"{bad.name} cannot be read as an image .* Is the file complete"):
            images.load([good, bad], 8)
    for cache in (True, False):
        with pytest.raises(DataError, match="gone.png cannot be read"):
            images.load([good, tmp_path / "gone.png"], 8, cache=cache)
    assert not list((tmp_path / "..").glob("*.npy"))


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path):
    deep = save(tmp_path / "deep.png", Image.fromarray(np.full((9, 9), 5000, np.uint16)))
    with pytest.raises(DataError, match="deep.png .*more than 8 bits a pixel"):
        images.load([deep], 8)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_gives_a_picture_or_a_dataerror(tmp_path_factory, data):
    path = save(tmp_path_factory.mktemp("damaged") / "a.png", grey())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert images.load([path], 8, cache=False).shape == (1, 8, 8, 3)
    except DataError as error:
        assert "a.png" in str(error)


def test_megabytes_is_what_the_array_takes(tmp_path):
    paths = [save(tmp_path / f"{k}.png", grey(k)) for k in range(3)]
    assert images.megabytes(3, 10) == images.load(paths, 10).nbytes / 1e6
    assert round(images.megabytes(780, 128), 1) == 38.3
