"""Our own small pretrained backbones: trained on phantoms alone, by `make.py` beside this file, and shipped with it.

Little is stored. Kernels of the first stages were learned and are kept in a few bits each. Kernels of the later stages
are drawn from a seed, and only a gain for each of their input channels was learned, with all BatchNormalization
("Training BatchNorm and only BatchNorm", Frankle, Schwab & Morcos, arXiv 2003.00152). Residual blocks that a laptop had
no time to train add nothing to their input. Networks expect X/255. README.md is their card.
"""

import hashlib
from pathlib import Path

import keras
import numpy as np

from busilib.cache import write_file
from busilib.errors import WeightsError

FOLDER = Path(__file__).parent
# The layer up to which kernels were learned; from there on they are drawn.
LEARNED = {"ResNet50": "conv5_block1_out", "InceptionResNetV2": "block17_4_ac"}
# How the name of a residual block's last convolution ends. At 0 the block adds nothing, and it can still learn.
CLOSING = {"ResNet50": "_3_conv", "InceptionResNetV2": "_conv"}
# What drawn((3, 3, 8, 8), 0, 0) hashes to: the idle blocks' kernels come from the same generator and have no hash.
DRAWS = "8e14bd84bdf2893f298c347ea91a702047c9f2f38c98d8ca6bdeeaea971d8459"
LEVELS = 15  # learned kernels are whole numbers from -LEVELS to LEVELS times a scale for each output channel


def path(name):
    """Return the file of a backbone (a key of `LEARNED`), or None when there is none for it."""
    file = FOLDER / f"{name}.npz"
    return file if file.exists() else None


def stretches(network, name):
    """Return the live parts of a network as (first input, last output) tensors; what lies between two adds nothing."""
    at = lambda layer: network.get_layer(layer).output  # noqa: E731
    if name == "ResNet50":
        return [(network.input, at("conv4_block3_out")), (at("conv4_block6_out"), at("conv5_block1_out"))]
    return [
        (network.input, at("block35_4_ac")),
        (at("block35_10_ac"), at("block17_4_ac")),
        (at("block17_20_ac"), at("mixed_7a")),
        (network.get_layer("conv_7b").input, network.output),
    ]


def live(network, name):
    """Return the layers of a network without its idle residual blocks, in the network's order."""
    kept = [keras.Model(*ends).layers for ends in stretches(network, name)]
    names = {layer.name for layers in kept for layer in layers}
    return [layer for layer in network.layers if layer.name in names]


def convolutions(network, name):
    """Return (number, layer, learned?) of each live convolution of a network without its top, in its order."""
    last = network.layers.index(network.get_layer(LEARNED[name]))
    found = [layer for layer in live(network, name) if isinstance(layer, keras.layers.Conv2D)]
    return [(number, layer, network.layers.index(layer) <= last) for number, layer in enumerate(found)]


def idle(network, name):
    """Return the convolutions of the idle residual blocks: (number, layer), numbered on from the live ones."""
    used = {layer.name for layer in live(network, name)}
    found = [one for one in network.layers if isinstance(one, keras.layers.Conv2D) and one.name not in used]
    return list(enumerate(found, start=1000))


def norms(network, name):
    """Return the live BatchNormalization layers of a network, in its order."""
    return [layer for layer in live(network, name) if isinstance(layer, keras.layers.BatchNormalization)]


def drawn(shape, seed, number):
    """Return a kernel (height, width, inputs, outputs), float32, drawn from (seed, number): uniform, as He et al. 2015.

    Only whole numbers are drawn and scaled, so every machine draws the same bits.
    """
    limit = np.float32(np.sqrt(6 / np.prod(shape[:3])))
    return (np.random.default_rng([seed, number]).random(shape, dtype=np.float32) * 2 - 1) * limit


def load(network, name, file):
    """Set all weights of ``network`` (keras.applications' ``name`` without its top) to those of a file.

    Raises WeightsError when the file is of another network, or this machine draws other kernels.
    """
    with np.load(file) as stored:
        stored = dict(stored)
    _fill(norms(network, name), stored["batch_norm"])
    for number, layer in idle(network, name):
        kernel = drawn(layer.kernel.shape, int(stored["seed"]), number) * (not layer.name.endswith(CLOSING[name]))
        layer.set_weights([kernel, np.zeros(layer.bias.shape)] if layer.use_bias else [kernel])
    digest, gains, biases = hashlib.sha256(), stored["gains"], stored["biases"]
    for number, layer, learned in convolutions(network, name):
        shape = layer.kernel.shape
        if learned:
            kernel = stored[f"kernel_{number}"] * stored[f"scale_{number}"]
        else:
            kernel = drawn(shape, int(stored["seed"]), number)
            digest.update(kernel)
            kernel, gains = kernel * gains[: shape[2], None], gains[shape[2] :]
        if layer.use_bias:
            kernel, bias, biases = kernel, biases[: shape[3]], biases[shape[3] :]
        layer.set_weights([kernel.astype("float32"), bias] if layer.use_bias else [kernel.astype("float32")])
    draws = hashlib.sha256(drawn((3, 3, 8, 8), 0, 0)).hexdigest()
    if (draws, digest.hexdigest()) != (DRAWS, str(stored["sha256"])) or len(gains) or len(biases):
        raise WeightsError(
            f"{Path(file).name}: numpy {np.__version__} draws other kernels than those that it was trained with. "
            'Choose WEIGHTS="none" or a file of your own, and please report it.'
        )


def save(network, name, file, *, seed, gains, **more):
    """Write a trained network into a file for `load`: learned kernels rounded, gains of the drawn ones as given.

    ``gains``: {number of a drawn convolution: float32 (inputs,)}. ``more``: arrays to keep beside it.
    """
    stored, digest, biases = dict(more), hashlib.sha256(), [np.zeros(0, np.float32)]
    for number, layer, learned in convolutions(network, name):
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        if learned:
            scale = np.maximum(np.abs(kernel).max(axis=(0, 1, 2)), 1e-12) / LEVELS
            stored[f"kernel_{number}"] = np.rint(kernel / scale).astype(np.int8)
            stored[f"scale_{number}"] = scale.astype(np.float32)
        else:
            digest.update(drawn(kernel.shape, seed, number))
        if layer.use_bias:
            biases.append(keras.ops.convert_to_numpy(layer.bias))
    stored["batch_norm"] = np.concatenate([w.ravel() for layer in norms(network, name) for w in layer.get_weights()])
    stored["gains"] = np.concatenate([np.zeros(0, np.float32)] + [gains[number] for number in sorted(gains)])
    stored |= {"biases": np.concatenate(biases), "seed": seed, "sha256": digest.hexdigest()}
    with write_file(file) as temporary, open(temporary, "wb") as target:
        np.savez_compressed(target, **stored)


def _fill(layers, values):
    for layer in layers:
        weights = []
        for old in layer.get_weights():
            weights.append(values[: old.size].reshape(old.shape))
            values = values[old.size :]
        layer.set_weights(weights)
    if len(values):
        raise WeightsError(f"the file holds {len(values)} numbers too many for this network's BatchNormalization")
