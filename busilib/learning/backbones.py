"""Our own small pretrained backbones, trained whole on phantoms by ``benchmarks/make_backbones.py``.

A file holds whole numbers from -7 to 7 with a scale per output channel. Some repeats of a residual block share their
kernels; BatchNormalization is each layer's own. Networks expect X/255. ``busilib/weights/README.md`` is their card.
"""

from pathlib import Path

import keras
import numpy as np

from busilib.errors import WeightsError

NAMES = ("ResNet50", "InceptionResNetV2")
FOLDER = Path(__file__).parents[1] / "weights"
LEVELS = 7


def path(name):
    """Return the file of an embedded backbone as a Path, or None when there is none of that name."""
    file = FOLDER / f"{name}.npz"
    return file if name in NAMES and file.exists() else None


def layers(network, kind):
    """Return a network's layers of one class (``keras.layers.Conv2D`` for instance) in their order."""
    return [layer for layer in network.layers if isinstance(layer, kind)]


def load(network, name, file):
    """Set all weights of ``network`` (keras.applications' ``name`` without its top, of any size) to those of a file.

    Raises WeightsError when the file holds no such network.
    """
    try:
        with np.load(file) as stored:
            stored = dict(stored)
        kernels = [stored[f"kernel_{k}"] * stored[f"scale_{k}"] for k in range(stored["use"].max() + 1)]
        for layer, k in zip(layers(network, keras.layers.Conv2D), stored["use"], strict=True):
            layer.set_weights([kernels[k], stored[f"bias_{k}"]] if layer.use_bias else [kernels[k]])
        norms = layers(network, keras.layers.BatchNormalization)
        shapes = [weight.shape for layer in norms for weight in layer.get_weights()]
        values = np.split(stored["norms"], np.cumsum([shape[0] for shape in shapes]))
        values, (rest,) = iter(values[:-1]), values[-1:]
        if rest.size or str(stored["network"]) != name:
            raise ValueError(f"it is of {stored['network']}")
        for layer in norms:
            layer.set_weights([next(values) for _ in layer.weights])
    except Exception as error:  # numpy and Keras raise many kinds: all mean that the file does not fit
        raise WeightsError(f"{Path(file).name} holds no embedded weights of {name} ({error}).") from error
