"""Backbones, their weights, heads, and how they are put together.

Every model takes uint8 RGB pixels (N, size, size, 3) and gives probabilities (N, 3) in class order. Its layers are
``preprocessing`` → ``base`` → ``head``; augmentation is not part of it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import keras
from keras.src.backend.config import keras_home  # no public function tells where Keras keeps its downloads

from busilib.errors import WeightsError
from busilib.learning import backbones
from busilib.recipes import CLASSES


@dataclass(frozen=True)
class Backbone:
    """What must be known of a network of keras.applications beyond its name."""

    preprocessing: str  # "caffe": BGR minus the ImageNet means; "tf": [-1, 1]
    last_stage: str  # the layer whose output enters the last stage, which unfreeze="last" trains
    last_block: str  # the layer whose output enters the last block of that stage, which unfreeze="block" trains
    smallest: int  # pixels a side below which the network cannot be built
    file: str  # what keras.applications calls its ImageNet file without the top, in Keras' own cache


BACKBONES = {
    "ResNet50": Backbone(
        "caffe", "conv4_block6_out", "conv5_block2_out", 32, "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    ),
    "InceptionResNetV2": Backbone(
        "tf", "mixed_7a", "block8_9_ac", 75, "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5"
    ),
    "VGG16": Backbone("caffe", "block4_pool", "block5_conv2", 32, "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"),
    "MobileNetV2": Backbone(
        "tf", "block_12_add", "block_15_add", 32, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    ),
}


@dataclass(frozen=True)
class Weights:
    """What a backbone starts from. ``sentence`` says it in plain words; ``sha256`` is of the file's bytes."""

    kind: str  # "imagenet", "phantom", "file" or "none"
    sentence: str
    path: str | None = None
    sha256: str | None = None


RANDOM = "drawn at random from the seed: these are random features, so what is learned is learned by the head"


def find_weights(weights, backbone, dataset="phantom", profile="quick"):
    """Return the Weights that ``weights`` stands for: "auto", "imagenet", "phantom", "none" or the path of a file.

    "phantom" are our own small backbones, trained on made-up scans (`busilib.learning.backbones`). "auto" takes them
    for phantoms. For real data it takes ImageNet's, and when there are none those of phantoms, and says so; where a
    backbone has neither, weights are random. A quick run never downloads: it takes ImageNet weights only from Keras'
    cache. A full run downloads them once.
    Raises WeightsError when named weights cannot be had.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"backbone {backbone!r} does not exist; choose one of: {', '.join(BACKBONES)}")
    if weights == "none":
        return Weights("none", f"{backbone}: weights {RANDOM}.")
    if weights == "phantom":
        return _phantom(backbone) or _refuse_phantom(backbone)
    if weights == "auto" and dataset.startswith("phantom"):
        return _phantom(backbone) or Weights("none", f"{backbone}: weights {RANDOM} (none were trained on phantoms).")
    if weights in ("auto", "imagenet"):
        path = Path(keras_home()) / "models" / BACKBONES[backbone].file
        if not path.exists() and profile != "quick":
            try:
                _download(backbone)
            except Exception as error:  # urllib, ssl and Keras raise many kinds: all mean that there are none
                if weights == "imagenet":
                    raise WeightsError(
                        f"ImageNet weights for {backbone} could not be downloaded ({error}). Put the file at {path}, "
                        'name your own with WEIGHTS="/path/to/file.h5", or choose WEIGHTS="none".'
                    ) from error
        if weights == "imagenet" and not path.exists():
            raise WeightsError(
                f"ImageNet weights for {backbone} are not at {path}, and a quick run never downloads. Put the file "
                'there, choose PROFILE="full" once, name your own with WEIGHTS="/path/to/file.h5", or choose "none".'
            )
        if path.exists():
            return Weights("imagenet", f"{backbone}: ImageNet weights.", str(path), _sha256(path))
        missing = "ImageNet weights are not here, so"
        return _phantom(backbone, f"{missing} ") or Weights("none", f"{backbone}: {missing} weights are {RANDOM}.")
    path = Path(weights).expanduser()
    if not path.is_file():
        choices = '"auto", "imagenet", "phantom", "none" or a file'
        raise WeightsError(f'WEIGHTS="{weights}": there is no such file. Choose {choices}.')
    return Weights("file", f"{backbone}: weights from the file {path.name}.", str(path), _sha256(path))


def _phantom(backbone, why=""):
    """Return the embedded weights of a backbone, or None when it has none."""
    path = backbones.path(backbone)
    if path is None:
        return None
    sentence = f"{backbone}: {why}weights that were trained on phantoms (made-up scans), which come with the package."
    return Weights("phantom", sentence, str(path), _sha256(path))


def _refuse_phantom(backbone):
    known = " and ".join(name for name in backbones.NAMES if backbones.path(name))
    raise WeightsError(f'WEIGHTS="phantom": {known} were trained on phantoms, {backbone} was not. Choose another.')


def backbone(name, size, weights, seed=0):
    """Return a network of keras.applications without its top, for (N, size, size, 3) inputs, named "base".

    Raises ValueError when ``size`` is too small for it, WeightsError when the file does not fit.
    """
    if size < BACKBONES[name].smallest:
        raise ValueError(f"{name} needs images of at least {BACKBONES[name].smallest} pixels a side, not {size}")
    keras.utils.set_random_seed(seed)
    make = getattr(keras.applications, name)
    network = make(include_top=False, weights=None, input_shape=(size, size, 3), name="base")
    if weights.kind == "phantom":
        backbones.load(network, name, weights.path)
    elif weights.path:
        try:
            network.load_weights(weights.path)
        except Exception as error:  # h5py and Keras raise many kinds: all mean that the file does not fit
            raise WeightsError(
                f"{Path(weights.path).name} holds no weights for {name} without its top ({error}). "
                f"It must be a file for keras.applications.{name}(include_top=False)."
            ) from error
    return network


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
        if i == 1:
            # Both papers name one dropout layer.
            layers.append(keras.layers.Dropout(recipe.dropout, name="dropout"))
    layers.append(keras.layers.Dense(len(CLASSES), activation="softmax", name="probabilities"))
    return keras.Sequential(layers, name="head")


def preprocessing(recipe, weights):
    """Return the step from uint8 pixels to what the base is fed: X/255 ("rescale"), or what its weights know ("own").

    Weights of phantoms know X/255; ImageNet's, a file's and random ones get what ImageNet's were trained with.
    """
    pixels = keras.Input((recipe.image_size, recipe.image_size, 3), dtype="uint8", name="pixels")
    if recipe.preprocessing == "rescale" or weights.kind == "phantom":
        values = keras.layers.Rescaling(1 / 255)(pixels)
    elif BACKBONES[recipe.backbone].preprocessing == "tf":
        values = keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    else:
        # What keras.applications.resnet.preprocess_input does: BGR, minus the means of ImageNet.
        values = keras.layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68])(pixels[..., ::-1])
    return keras.Model(pixels, values, name="preprocessing")


def build(recipe, weights, seed=0):
    """Return the whole network of a recipe: preprocessing → base → head, initialised from ``seed``."""
    base = backbone(recipe.backbone, recipe.image_size, weights, seed)
    prepare = preprocessing(recipe, weights)
    pixels = keras.Input(prepare.input_shape[1:], dtype="uint8", name="pixels")
    features = base(prepare(pixels))
    return keras.Model(pixels, head(recipe, base.output_shape[1:])(features), name=recipe.name.replace("-", "_"))


def parts(model, recipe):
    """Return (frozen, trained): the part whose output can be kept, and the part that is trained on it.

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
    known = BACKBONES[recipe.backbone]
    seam = base.get_layer(known.last_block if recipe.unfreeze == "block" else known.last_stage).output
    lower, upper = keras.Model(base.input, seam, name="lower"), keras.Model(seam, base.output, name="last_stage")
    features = keras.Input(seam.shape[1:], name="seam")
    trained = keras.Model(features, top(upper(features)), name="last_stage_and_head")
    return keras.Model(prepare.input, lower(prepare.output)), trained


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
    copied = []
    have = {layer.name: layer.get_weights() for layer in source.get_layer("head").layers}
    for layer in target.get_layer("head").layers:
        shapes = [w.shape for w in layer.get_weights()]
        if shapes and [w.shape for w in have.get(layer.name, [])] == shapes:
            layer.set_weights(have[layer.name])
            copied.append(layer.name)
    return copied


def _download(name):
    # Keras falls back to a temporary folder when its cache folder is missing: make it first.
    (Path(keras_home()) / "models").mkdir(parents=True, exist_ok=True)
    getattr(keras.applications, name)(include_top=False, weights="imagenet", input_shape=(224, 224, 3))


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(model):
    """Return one row a layer of a model's head: name, kind, output shape and parameter count, as a list of dicts."""
    return [
        {
            "layer": layer.name,
            "kind": type(layer).__name__,
            "output": json.dumps(list(layer.output.shape[1:])),
            "parameters": layer.count_params(),
        }
        for layer in model.layers
    ]
