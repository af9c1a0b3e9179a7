"""From files to one array of pixels, once: kept on disk by content."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from busilib.cache import bar, cache_dir, write_file
from busilib.errors import DataError


def load(paths, size, cache=True):
    """Return the images as one uint8 RGB array (N, size, size, 3), values 0–255.

    Grey, 1-bit and colour files become RGB alike; each is resized (bilinear, averaging when it shrinks) without
    keeping its aspect ratio, as both papers did. With ``cache`` the array is kept in the user's cache, under a hash
    of all the files' bytes: a changed file is read again. It takes `megabytes` of memory and of disk.
    Raises DataError with the name of a file that cannot be read.
    """
    paths = [Path(path) for path in paths]
    if not cache:
        return _read(paths, size)
    target = cache_dir("images") / f"{_content(paths, size)}.npy"
    if not target.exists():
        with write_file(target) as temporary:
            np.save(temporary, _read(paths, size))  # no name for the array: two would be in memory below
    return np.load(target)


def megabytes(n, size):
    """Return the memory that n images of size × size pixels take as uint8 RGB, in MB (10^6 bytes)."""
    return n * size * size * 3 / 1e6


def _read(paths, size):
    array = np.empty((len(paths), size, size, 3), dtype=np.uint8)

    def one(i):
        try:
            with Image.open(paths[i]) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(f"more than 8 bits a pixel, mode {image.mode}, which would be clipped")
                mode = "L" if image.mode in ("1", "L") else "RGB"  # a grey file is resized in one channel
                array[i] = image.convert(mode).resize((size, size), Image.Resampling.BILINEAR).convert("RGB")
        except Exception as error:  # Pillow raises many kinds on damaged files
            raise DataError(f"{paths[i]} cannot be read as an image ({error}). Is the file complete?") from error

    with ThreadPoolExecutor() as pool:
        for _ in bar(pool.map(one, range(len(paths))), f"images at {size} px", total=len(paths), unit="image"):
            pass
    return array


def _content(paths, size):
    digest = hashlib.sha256(f"bilinear RGB {size}".encode())
    for path in paths:
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error})") from error
    return digest.hexdigest()[:32]
