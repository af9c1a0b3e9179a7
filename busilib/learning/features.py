"""What a frozen part makes of an image, computed once and kept on disk: an image gives the same features for ever.

With a frozen base, 30 epochs of the head cost what one pass of the base costs; and another split, fold or seed of the
head costs no pass at all.
"""

import hashlib

import keras
import numpy as np

from busilib.cache import cache_dir, write_file
from busilib.learning import device


def load(frozen, pixels):
    """Return ``frozen``'s output for uint8 pixels (N, size, size, 3): float32 (N, …), one row an image.

    ``frozen`` is the first of `models.parts`: preprocessing and base, or the lower part of the base. Each image's
    features are a file in the user's cache, under a hash of the frozen part (layers, weights, backend) and one of the
    pixels; only what is missing is computed. It takes 4 bytes a value: 131 KB an image for ResNet50 at 128 px.
    """
    if len(pixels) == 0:
        return np.zeros((0, *frozen.output_shape[1:]), np.float32)
    folder = cache_dir("features", key(frozen))
    files = [folder / f"{hashlib.sha256(image.tobytes()).hexdigest()[:40]}.npy" for image in pixels]
    missing = {file: i for i, file in enumerate(files) if not file.exists()}  # a copy of a scan is computed once
    if missing:
        rows = list(missing.values())
        batch = device.settings().predict_batch
        for file, row in zip(missing, frozen.predict(pixels[rows], batch_size=batch, verbose=0), strict=True):
            with write_file(file) as temporary:
                np.save(temporary, np.asarray(row, dtype=np.float32))
    return np.stack([np.load(file) for file in files])


def key(frozen):
    """Return what the features depend on as 24 hexadecimal digits: layers, settings, weights and backend."""
    digest = hashlib.sha256(f"{keras.backend.backend()} {frozen.input_shape} {frozen.output_shape}".encode())
    for layer in device.layers(frozen):  # one by one, so that no number in a nested model's name counts
        settings = {name: value for name, value in layer.get_config().items() if name != "name"}
        digest.update(f"{type(layer).__name__} {settings}".encode())
        for weight in layer.get_weights():
            digest.update(np.ascontiguousarray(weight))
    return digest.hexdigest()[:24]
