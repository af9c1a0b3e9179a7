"""Backbones, their weights, heads, and how they are put together.

Every model takes uint8 RGB pixels (N, size, size, 3) and gives probabilities (N, 3) in class order. Its layers are
``preprocessing`` → ``base`` → ``head``; augmentation is not part of it.
"""

import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import pandas as pd

from busilib.errors import WeightsError
from busilib.learning import backbones
from busilib.recipes import CLASSES, one_of


@dataclass(frozen=True)
class Backbone:
    """What must be known of a network of keras.applications beyond its name."""

    preprocessing: str  # "caffe": BGR minus the ImageNet means; "tf": [-1, 1]
    last_stage: str  # the layer whose output enters the last stage, which unfreeze="last" trains
    last_block: str  # the layer whose output enters the last block of that stage, which unfreeze="block" trains
    file: str  # what keras.applications calls its ImageNet file without the top, in Keras' own cache


_FILE = "weights_tf_dim_ordering_tf_kernels"
BACKBONES = {
    "ResNet50": Backbone("caffe", "conv4_block6_out", "conv5_block2_out", f"resnet50_{_FILE}_notop.h5"),
    "InceptionResNetV2": Backbone("tf", "mixed_7a", "block8_9_ac", f"inception_resnet_v2_{_FILE}_notop.h5"),
    "VGG16": Backbone("caffe", "block4_pool", "block5_conv2", f"vgg16_{_FILE}_notop.h5"),
    "MobileNetV2": Backbone("tf", "block_12_add", "block_15_add", f"mobilenet_v2_{_FILE}_1.0_224_no_top.h5"),
}


@dataclass(frozen=True)
class Weights:
    """What a backbone starts from. ``sentence`` says it in plain words; ``sha256`` is of the file's bytes."""

    kind: str  # "imagenet", "phantom", "file" or "none"
    sentence: str
    path: str | None = None
    sha256: str | None = None


RANDOM = "drawn at random from the seed: these are random features, so what is learned is learned by the head"


def find_weights(weights, backbone, kind="phantom", profile="quick"):
    """Return the Weights that ``weights`` stands for: "auto", "imagenet", "phantom", "none" or the path of a file.

    ``kind`` is the catalogue's. "phantom" weights are our own small backbones, trained on made-up scans. "auto" takes
    them for phantoms. For real data it takes ImageNet's, and when there are none those of phantoms, and says so; where
    a backbone has neither, weights are random. A quick run never downloads: it takes ImageNet weights only from Keras'
    cache. A full run downloads them once. Raises WeightsError when named weights cannot be had.
    """
    one_of("backbone", backbone, BACKBONES)
    why = ""
    if weights == "none":
        return Weights("none", f"{backbone}: weights {RANDOM}.")
    if weights == "imagenet" or (weights == "auto" and kind != "phantom"):
        try:
            return _from_file("imagenet", f"{backbone}: ImageNet weights.", _imagenet(backbone, profile))
        except WeightsError as error:
            if weights == "imagenet":
                raise
            damaged = f"the file {BACKBONES[backbone].file} in Keras' cache is damaged (delete it), so "
            why = damaged if isinstance(error, _Damaged) else "ImageNet weights are not here, so "
    if weights not in ("auto", "phantom"):
        path = Path(weights).expanduser()
        return _from_file("file", f"{backbone}: weights from the file {path.name}.", path)
    if path := backbones.path(backbone):
        trained = "weights that were trained on phantoms (made-up scans) and come with the package"
        return _from_file("phantom", f"{backbone}: {why}{trained}.", path)
    if weights == "phantom":
        names = " and ".join(name for name in BACKBONES if backbones.path(name))
        raise WeightsError(f'WEIGHTS="phantom": {names} were trained on phantoms, {backbone} was not. Choose another.')
    return Weights("none", f"{backbone}: {why}weights are {RANDOM} (none were trained on phantoms).")


class _Damaged(WeightsError):
    """A file that holds no weights, whatever the network."""


def _from_file(kind, sentence, path):
    if not path.is_file():
        choices = '"auto", "imagenet", "phantom", "none" or a file'
        raise WeightsError(f'WEIGHTS="{path}": there is no such file. Choose {choices}.')
    try:
        if path.suffix == ".keras":
            zipfile.ZipFile(path).getinfo("model.weights.h5")
        elif kind != "phantom":
            h5py.File(path).close()  # unlike a pickled file, which PyTorch writes, it cannot run code
    except Exception as error:  # zipfile and h5py raise many kinds
        again = 'Delete it: PROFILE="full" downloads it anew.' if kind == "imagenet" else "Name another file."
        raise _Damaged(f"{path} is no whole file of Keras weights ({error}). {again}") from error
    with open(path, "rb") as file:
        return Weights(kind, sentence, str(path), hashlib.file_digest(file, "sha256").hexdigest())


def _imagenet(backbone, profile):
    """Return the file of ImageNet's weights in Keras' cache; a full run downloads it. Raises WeightsError without."""
    # keras.applications downloads to this folder: Keras' documentation names the variable.
    path = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models" / BACKBONES[backbone].file
    try:
        if not path.exists():
            if profile == "quick":
                raise OSError('a quick run never downloads, PROFILE="full" does')
            path.parent.mkdir(parents=True, exist_ok=True)  # without it Keras falls back to a temporary folder
            getattr(keras.applications, backbone)(include_top=False, weights="imagenet", input_shape=(224, 224, 3))
    except Exception as error:  # urllib, ssl and Keras raise many kinds: all mean that there are none
        ways = f'Put the file at {path}, name your own with WEIGHTS="/path/to/file.h5", or choose WEIGHTS="none".'
        raise WeightsError(f"There are no ImageNet weights for {backbone} ({error}). {ways}") from error
    return path


def backbone(name, size, weights, seed=0):
    """Return a network of keras.applications without its top, for (N, size, size, 3) inputs, named "base".

    Without a file of weights it is as drawn from ``seed``. Raises WeightsError when the file does not fit; Keras
    raises ValueError when ``size`` is too small for the network.
    """
    keras.utils.set_random_seed(seed)
    make = getattr(keras.applications, name)
    network = make(include_top=False, weights=None, input_shape=(size, size, 3), name="base")
    if weights.path and weights.kind == "phantom":
        backbones.load(network, name, weights.path)
    elif weights.path:
        try:
            network.load_weights(weights.path)
            arrays = [] if weights.path.endswith(".keras") else _arrays(weights.path)
            if len(arrays) > len(network.weights):  # a file with the top fits as well: its base comes first
                raise ValueError(f"it has {len(arrays)} arrays, this network has {len(network.weights)}")
        except Exception as error:  # h5py and Keras raise many kinds: all mean that the file does not fit
            needed = f"It must be a file for keras.applications.{name}(include_top=False)."
            raise WeightsError(f"{Path(weights.path).name} holds no weights for {name} ({error}). {needed}") from error
    return network


def _arrays(path):
    """Return the names of all arrays in an HDF5 file, without an optimizer's."""
    names = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return [name for name in names if not name.startswith("optimizer")]


def head(recipe, features):
    """Return what stands on the base: Flatten, BatchNormalization (paper A), Dense and Dropout layers, softmax.

    ``features`` is the base's output shape (height, width, channels).
    """
    layers = [keras.Input(features, name="features"), keras.layers.Flatten(name="flatten")]
    if recipe.batch_norm:
        # Keras' momentum of 0.99 needs hundreds of steps before its averages are right; a quick run has not so many.
        layers.append(keras.layers.BatchNormalization(momentum=0.9, name="batch_norm"))
    for i, width in enumerate(recipe.dense, start=1):
        layers.append(keras.layers.Dense(width, activation="relu", name=f"dense_{i}"))
        if i == 1:  # both papers name one dropout layer
            layers.append(keras.layers.Dropout(recipe.dropout, name="dropout"))
    layers.append(keras.layers.Dense(len(CLASSES), activation="softmax", name="probabilities"))
    return keras.Sequential(layers, name="head")


def preprocessing(backbone, size, how, weights):
    """Return the step from uint8 pixels to what the base is fed: X/255 ("rescale"), or what its weights know ("own").

    Weights of phantoms know X/255; ImageNet's, a file's and random ones get what ImageNet's were trained with.
    """
    pixels = keras.Input((size, size, 3), dtype="uint8", name="pixels")
    if how == "rescale" or weights.kind == "phantom":
        values = keras.layers.Rescaling(1 / 255)(pixels)
    elif BACKBONES[backbone].preprocessing == "tf":
        values = keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    else:
        # What keras.applications.resnet.preprocess_input does: BGR, minus the means of ImageNet.
        values = keras.layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68])(pixels[..., ::-1])
    return keras.Model(pixels, values, name="preprocessing")


def build(recipe, weights, seed=0):
    """Return the whole network of a recipe: preprocessing → base → head, initialised from ``seed``."""
    base = backbone(recipe.backbone, recipe.image_size, weights, seed)
    keras.utils.set_random_seed(seed)  # whatever the base drew, a head of one seed is the same
    return assemble(recipe, weights, base, head(recipe, base.output_shape[1:]))


def assemble(recipe, weights, base, top):
    """Return one model of preprocessing, base and head."""
    prepare = preprocessing(recipe.backbone, recipe.image_size, recipe.preprocessing, weights)
    pixels = keras.Input(prepare.input_shape[1:], dtype="uint8", name="pixels")
    return keras.Model(pixels, top(base(prepare(pixels))), name=recipe.name.replace("-", "_"))


def parts(model, recipe):
    """Return (frozen, trained): the part whose output can be computed once, and the part that is trained on it.

    Both share their layers with ``model``. The base's BatchNormalization layers stay frozen, but not with
    ``unfreeze="all"``: there the frozen part is None, and the trained one does all. What is compiled is never ``model``
    or one of its layers, or the optimizer would be saved with it.
    """
    base, top = model.get_layer("base"), model.get_layer("head")
    base.trainable = recipe.unfreeze != "none"
    if recipe.unfreeze == "all":
        return None, keras.Model(model.input, model.output, name="whole")
    # Calling the base with training=False would not do: a Keras model that trains passes training=True on to its parts.
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    prepare = model.get_layer("preprocessing")
    if recipe.unfreeze == "none":
        return keras.Model(prepare.input, base(prepare.output)), keras.Model(top.input, top.output, name="head_alone")
    names = BACKBONES[recipe.backbone]
    seam = base.get_layer(names.last_block if recipe.unfreeze == "block" else names.last_stage).output
    lower, upper = keras.Model(base.input, seam, name="lower"), keras.Model(seam, base.output, name="last_stage")
    features = keras.Input(seam.shape[1:], name="seam")
    trained = keras.Model(features, top(upper(features)), name="last_stage_and_head")
    return keras.Model(prepare.input, lower(prepare.output)), trained


def compile_for(settings, model, loss="categorical_crossentropy"):
    """Compile a model: Adam at the learning rate of a recipe (or a comparator), cross-entropy, accuracy."""
    model.compile(keras.optimizers.Adam(settings.learning_rate), loss, metrics=["accuracy"])


def augmented(model, layer):
    """Return ``model`` with an augmentation layer before it, which moves the uint8 pixels of a training step only."""
    pixels = keras.Input(model.input_shape[1:], dtype="uint8", name="still")
    moved = keras.ops.cast(keras.ops.round(layer(pixels)), "uint8")
    return keras.Model(pixels, model(moved), name="augmented")


def copy_weights(source, target):
    """Copy the base, and each layer of the head whose name and shapes agree, from one model to another.

    Returns the names of the copied layers of the head.
    """
    target.get_layer("base").set_weights(source.get_layer("base").get_weights())
    trained = {layer.name: layer.get_weights() for layer in source.get_layer("head").layers}
    copied = []
    for layer in target.get_layer("head").layers:
        shapes = [weights.shape for weights in layer.get_weights()]
        if shapes and shapes == [weights.shape for weights in trained.get(layer.name, [])]:
            layer.set_weights(trained[layer.name])
            copied.append(layer.name)
    return copied


def describe(model):
    """Return one row per layer of a model, as a table: layer, kind, output (shape) and parameters (their number)."""
    rows = [(x.name, type(x).__name__, str(list(x.output.shape[1:])), x.count_params()) for x in model.layers]
    return pd.DataFrame(rows, columns=["layer", "kind", "output", "parameters"])


def weights_sha256(model):
    """Return a hash over all weights of a model, in its order: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for weights in model.get_weights():
        digest.update(weights.tobytes())
    return digest.hexdigest()
