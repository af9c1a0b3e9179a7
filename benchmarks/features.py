"""What `honest` and `hospitals` share: what a frozen network makes of views of scans, and a temperature.

The averages and maxima of several depths are kept in the user's cache.
"""

import hashlib

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from busilib.cache import cache_dir, write_file
from busilib.learning import keras, models

# Places in what `averages` returns: of MobileNetV2 the averages are 0, 1, 2, 4 and 5, the maxima 3 and 6.
LAYERS = [f"block_{n}_expand_relu" for n in (6, 10, 13, 16)] + ["out_relu"]
DEPTHS = {"MobileNetV2": LAYERS, "ResNet50": ["conv3_block4_out", "conv4_block6_out", "conv5_block3_out"]}
PEAKS = (LAYERS[2], LAYERS[4])


def views(pixels, k, rng):
    """Return view k of uint8 pixels as floats: 0 as it is, 1 mirrored, then turned, zoomed, moved and brightened."""
    moved, size = pixels.astype("float32"), pixels.shape[1]
    if k < 2:
        return moved[:, :, ::-1] if k else moved
    for start in range(0, len(moved), 64):
        batch = moved[start : start + 64, :, :: -1 if k % 2 else 1]
        n, centre = len(batch), size / 2 - 0.5
        angle, zoom = np.deg2rad(rng.uniform(-12, 12, n)), rng.uniform(0.85, 1.15, n)
        tall, right, down = zoom * rng.uniform(0.9, 1.1, n), *(rng.uniform(-0.06, 0.06, n) * size for _ in range(2))
        a, b, c, d = np.cos(angle) * zoom, -np.sin(angle) * tall, np.sin(angle) * zoom, np.cos(angle) * tall
        x, y = centre - (a + b) * centre + right, centre - (c + d) * centre + down
        maps = np.stack([a, b, x, c, d, y, 0 * a, 0 * a], axis=1).astype("float32")
        warped = keras.ops.image.affine_transform(batch.copy(), maps, interpolation="bilinear", fill_mode="nearest")
        gain = rng.uniform(0.85, 1.15, (n, 1, 1, 1))
        moved[start : start + 64] = np.clip(keras.ops.convert_to_numpy(warped) * gain, 0, 255)
    return moved


def answers(outputs, pixels, weights, count, name="MobileNetV2"):
    """Return what a base makes of ``count`` views of uint8 pixels: float16, one (views, scans, …) per output.

    ``outputs``: what makes the list of a model's outputs from the base; ``weights``: what `models.find_weights` gives.
    """
    base, rng, result = models.backbone(name, pixels.shape[1], weights), np.random.default_rng(0), []
    applications = {"MobileNetV2": keras.applications.mobilenet_v2, "ResNet50": keras.applications.resnet}
    model = keras.Model(base.input, outputs(base))
    for k in range(count):
        shown = views(pixels, k, rng)
        shown = shown / 255 if weights.kind == "phantom" else applications[name].preprocess_input(shown)
        batches = [keras.tree.flatten(model.predict_on_batch(shown[i : i + 32])) for i in range(0, len(shown), 32)]
        result.append([np.concatenate(parts).astype("float16") for parts in zip(*batches, strict=True)])
    return [np.stack(parts) for parts in zip(*result, strict=True)]


def stored(name, make, *settings):
    """Return the list of arrays that ``make()`` gives, computed once for these settings (arrays and texts)."""
    digest = hashlib.sha256()
    for setting in settings:
        digest.update(setting.tobytes() if isinstance(setting, np.ndarray) else str(setting).encode())
    file = cache_dir("honest") / f"{name}-{digest.hexdigest()[:16]}.npz"
    if not file.exists():
        with write_file(file) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, *make())
    with np.load(file) as arrays:
        return [arrays[key].astype("float32") for key in arrays.files]


def averages(pixels, weights, count, name="MobileNetV2"):
    """Return [(views, scans, channels)] of uint8 pixels, averages and maxima in the order of the layers."""

    def outputs(base):
        pools = keras.layers.GlobalAveragePooling2D(), keras.layers.GlobalMaxPooling2D()
        return [pool(base.get_layer(at).output) for at in DEPTHS[name] for pool in pools[: 1 + (at in PEAKS)]]

    settings = pixels, weights.sha256, count, DEPTHS[name]
    return stored("averages", lambda: answers(outputs, pixels, weights, count, name), *settings)


def at_temperature(p, temperature):
    """Return probabilities with the temperature applied to their logarithms."""
    powers = np.maximum(p, 1e-9) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def temperature(p, y, most, weight=None):
    """Return the temperature, from 0.3 to ``most``, with which probabilities have the least log loss."""
    loss = lambda t: log_loss(y, at_temperature(p, t), sample_weight=weight)  # noqa: E731
    return minimize_scalar(loss, bounds=(0.3, most), method="bounded").x
