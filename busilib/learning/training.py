"""Training in plain Keras: arrays → what a frozen base makes of them, computed once → `model.fit`.

Lessons, studies and comparators all train through `fit`.
"""

import hashlib
import itertools
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakKeyDictionary

import keras
import numpy as np
import pandas as pd

from busilib.cache import bar, cache_dir, report, shown, write_file
from busilib.data import images
from busilib.errors import RunError
from busilib.learning import models
from busilib.learning.augmentation import RandomAffine
from busilib.recipes import CLASSES, PROBABILITIES

PREDICT_BATCH = 64  # images per batch where nothing is learned


@dataclass(frozen=True)
class Trained:
    """What training hands over: a model, the epochs, the predictions, and what else run.json should hold.

    ``history``: one row per epoch. ``predictions``: one row per file, with file_id, image_id, kind, split, label and
    p_benign, p_malignant, p_normal.
    """

    model: object
    history: pd.DataFrame
    predictions: pd.DataFrame
    info: dict


def train(recipe, split, *, weights, seed=0, start=None):
    """Train a recipe on a split and return a `Trained`.

    ``weights`` is what `models.find_weights` gives; ``start`` is the Run whose base and head this one goes on from.
    ``seed`` fixes the random weights, the dropout, the shuffling and the augmentation.
    """
    model = models.build(recipe, weights, seed)
    copied = models.copy_weights(start.model(), model) if start else []
    if "batch_norm" in copied:
        # While the base moves below it, its averages would lag behind: keep those of the first phase.
        model.get_layer("head").get_layer("batch_norm").trainable = False
    frozen, trained = models.parts(model, recipe)
    history, table = _learn(recipe, split, frozen, trained, seed)
    return Trained(model, history, table, _facts(recipe, split, model, trained, history))


def _facts(recipe, split, model, trained, history):
    """Return what run.json holds of a training besides its settings, as a dict."""
    steps = -(-len(split.part("train")) // recipe.batch_size)
    epochs = {"epochs_run": len(history), "epoch_kept": best_epoch(history, recipe.monitor), "steps_per_epoch": steps}
    return epochs | {"parameters": model.count_params(), "parameters_trained": _trainable(trained)}


def _trainable(model):
    return int(sum(np.prod(weights.shape) for weights in model.trainable_weights))


def by_hand(model, history, probabilities, recipe, split, weights):
    """Return (edited, `Trained`) of a model that was compiled and fitted outside: see `runs.save`.

    ``edited`` names, as a list of texts, what is not as the recipe says: empty when all is.
    """
    fitted, base, head = history.model, model.get_layer("base"), model.get_layer("head")
    # Copies without an optimizer, which would be saved with them.
    copy = keras.models.clone_model(head)
    copy.set_weights(head.get_weights())
    whole = models.assemble(recipe, weights, base, copy)
    first = images.load(split.table["path"][:4], recipe.image_size)
    if not np.allclose(keras.ops.convert_to_numpy(whole(first)), probabilities[:4], atol=0.001):
        needed = "They need a row per file in that order, and the preprocessing that models.preprocessing gives."
        raise RunError(f"The probabilities are not what the model says of the first files of split.table. {needed}")
    table = epochs_of(history)
    facts = _facts(recipe, split, whole, fitted, table)  # before `parts`, which freezes the base as the recipe says
    said = {
        "layers in the head": (layer_settings(head), layer_settings(models.head(recipe, base.output_shape[1:]))),
        "trained parameters": (facts["parameters_trained"], _trainable(models.parts(whole, recipe)[1])),
        "loss": (fitted.loss, "categorical_crossentropy"),
    }
    edited = differences(said, history, recipe, facts["steps_per_epoch"])
    return edited, Trained(whole, table, predictions(split, probabilities), facts)


def differences(said, history, settings, steps):
    """Return what is not as it should be, a list of texts: of ``said``, name → (is, should be), and of a `fit`.

    ``history`` is what ``fit`` returned, ``settings`` has learning_rate and epochs, ``steps`` is how many
    batches an epoch has.
    """
    optimizer = history.model.optimizer
    said = said | {
        "optimizer": (type(optimizer).__name__, "Adam"),
        "learning rate": (round(float(optimizer.learning_rate), 9), round(settings.learning_rate, 9)),
        "epochs": (history.params["epochs"], settings.epochs),
        "batch size": (history.params["steps"], steps),
    }
    return [what for what, (is_so, should_be) in said.items() if is_so != should_be]


def epochs_of(history):
    """Return what ``fit`` returned as a table, one row per epoch, counted from 1."""
    table = pd.DataFrame(history.history)
    table.insert(0, "epoch", table.index + 1)
    return table


def layer_settings(model):
    """Return the kind and the settings of each layer that computes, without names, as a list."""
    return [(type(layer).__name__, layer.get_config() | {"name": "", "trainable": True}) for layer in _layers(model)]


def train_head(recipe, split, *, weights, seed=0, callbacks=()):
    """Train a head on a frozen base as `train` would, and return (history, predictions).

    The base is built once for all heads of a recipe.
    Raises ValueError for a recipe that trains a part of the base.
    """
    if recipe.unfreeze != "none":
        raise ValueError("a head alone stands on a frozen base: unfreeze must be 'none'")
    frozen = frozen_base(recipe.backbone, recipe.image_size, recipe.preprocessing, weights)
    head, optimizer = _compiled_head(recipe, frozen.output_shape[1:])
    keras.utils.set_random_seed(seed)
    fresh = models.head(recipe, frozen.output_shape[1:])
    for variables, values in ((head.variables, fresh.variables), (head.optimizer.variables, optimizer)):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    return _learn(recipe, split, frozen, head, seed, callbacks)


@lru_cache(maxsize=4)
def _compiled_head(recipe, shape):
    """Return a compiled head and its optimizer's first values: compiling is most of a short training's time."""
    head = models.head(recipe, shape)
    models.compile_for(recipe, head)
    head.optimizer.build(head.trainable_variables)
    return head, [keras.ops.convert_to_numpy(variable) for variable in head.optimizer.variables]


@lru_cache(maxsize=2)
def frozen_base(backbone, image_size, preprocessing, weights, seed=0):
    """Return preprocessing and base as one frozen model: uint8 pixels to features."""
    base = models.backbone(backbone, image_size, weights, seed)
    base.trainable = False
    prepare = models.preprocessing(backbone, image_size, preprocessing, weights)
    return keras.Model(prepare.input, base(prepare.output))


def _learn(recipe, split, frozen, trained, seed, callbacks=()):
    """Fit ``trained`` on what ``frozen`` (None: nothing is frozen) makes of a split; return history and predictions."""
    # Pixels that train the whole network are moved anew in every step, by a layer in front of it.
    in_front = recipe.augment and frozen is None
    fitted = models.augmented(trained, RandomAffine(seed=seed)) if in_front else trained
    if not getattr(fitted, "optimizer", None):
        models.compile_for(recipe, fitted)
    inputs = still(recipe, split, frozen)
    training, validation = part(split, "train", inputs), part(split, "validation", inputs)
    if recipe.augment and not in_front:
        training = moved(recipe, split.part("train"), frozen, seed), training[1]
    if recipe.augment_validation:
        validation = moved(recipe, split.part("validation"), frozen, seed + 1), validation[1]
    history = fit(fitted, recipe, training, validation, seed, callbacks)
    return history, predictions(split, predict(trained, inputs))


def still(recipe, split, frozen=None):
    """Return the inputs of all files of a split, one row per file: pixels, or what ``frozen`` makes of them."""
    pixels = images.load(split.table["path"], recipe.image_size)
    return pixels if frozen is None else features(frozen, pixels)


def part(split, name, inputs):
    """Return (inputs, one-hot labels (n, 3)) of one set; ``inputs`` has one row per file of the split."""
    rows = split.table["file_id"].isin(split.part(name)["file_id"]).to_numpy()
    return inputs[rows], keras.utils.to_categorical(split.table["label"][rows].map(CLASSES.index), len(CLASSES))


def moved(recipe, files, frozen, seed):
    """Return augmented views of n files, one view after the other: (views · n, …), pixels or what ``frozen`` makes."""
    pixels, affine = images.load(files["path"], recipe.image_size), RandomAffine(seed=seed)
    views, shape = min(recipe.views, recipe.epochs), (pixels if frozen is None else frozen.output).shape[1:]
    inputs = np.empty((views, len(pixels), *shape), "uint8" if frozen is None else "float32")
    for view in bar(range(views), "augmented views", unit="view"):
        pixels_moved = affine.moved(pixels)
        inputs[view] = pixels_moved if frozen is None else predict(frozen, pixels_moved)
    return inputs.reshape(-1, *shape)


def fit(model, settings, training, validation, seed, callbacks=()):
    """Fit a compiled model, leave it at its best epoch, and return its history: one row per epoch.

    ``training`` and ``validation`` are (inputs, labels); inputs may hold several views of the images, see `batches`.
    ``settings`` has epochs, batch_size, monitor and patience: training stops after that many epochs without a better
    value, and with None it runs all epochs.
    """
    epochs, patience = settings.epochs, settings.patience or settings.epochs
    stop = keras.callbacks.EarlyStopping(settings.monitor, patience=patience, restore_best_weights=True)
    tell = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: report(epoch=epoch + 1, epochs=epochs))
    training, validation = batches(*training, settings.batch_size, seed), batches(*validation, PREDICT_BATCH)
    options = {"epochs": epochs, "shuffle": False, "verbose": int(shown())}  # the batches are shuffled already
    return epochs_of(model.fit(training, validation_data=validation, callbacks=[tell, *callbacks, stop], **options))


def batches(inputs, labels, batch_size, seed=None):
    """Return batches (inputs, labels) for ``fit``: each epoch has them all once, in a new order when seeded.

    ``labels`` (n, …); ``inputs`` (views · n, …), the views of the n images one after the other: epoch e sees view
    e % views. On TensorFlow it is a Dataset without autotuning, whose thread can sleep through the end of a short fit.
    """
    n, rng, turn = len(labels), np.random.default_rng(seed), itertools.count()

    def epoch():
        first = next(turn) % (len(inputs) // n) * n
        order = np.arange(n) if seed is None else rng.permutation(n)
        for start in range(0, n, batch_size):
            rows = order[start : start + batch_size]
            yield inputs[first + rows], labels[rows]

    steps = -(-n // batch_size)
    if keras.backend.backend() != "tensorflow":
        return _Epochs(epoch, steps)
    import tensorflow

    options = tensorflow.data.Options()
    options.autotune.enabled = False
    signature = tuple(tensorflow.TensorSpec((None, *array.shape[1:]), array.dtype) for array in (inputs, labels))
    dataset = tensorflow.data.Dataset.from_generator(epoch, output_signature=signature).prefetch(1)
    return dataset.apply(tensorflow.data.experimental.assert_cardinality(steps)).with_options(options)


class _Epochs(keras.utils.PyDataset):
    """The same for other backends: a new iterator of ``steps`` batches in each epoch."""

    def __init__(self, epoch, steps):
        super().__init__()
        self.epoch, self.steps = epoch, steps

    def __iter__(self):
        return self.epoch()

    def __len__(self):
        return self.steps

    def on_epoch_begin(self):
        self.batches = self.epoch()

    def __getitem__(self, step):
        return next(self.batches)


def best_epoch(history, monitor, patience=None):
    """Return the number (from 1) of the epoch that early stopping keeps: the first best by ``monitor``.

    ``history`` may be longer than early stopping would have let it be: with ``patience`` only the epochs count that
    come before ``patience`` epochs without a better one.
    """
    values = history[monitor].to_numpy() * (1 if monitor.endswith("loss") else -1)
    values = np.nan_to_num(values, nan=np.inf)
    best = [int(values[: epoch + 1].argmin()) for epoch in range(len(values))]  # the best so far, after each epoch
    stops = [epoch for epoch in range(len(values)) if patience is not None and epoch - best[epoch] >= patience]
    return int(history["epoch"].iloc[best[stops[0] if stops else -1]])


def probabilities(classifier, X):
    """Return a fitted scikit-learn classifier's probabilities (N, 3), in class order: 0 for a class it never saw."""
    answers = np.zeros((len(X), len(CLASSES)))
    answers[:, classifier.classes_] = classifier.predict_proba(X)
    return answers


def predict(model, inputs):
    """Return what a model makes of inputs (N, …), a batch at a time: ``Model.predict`` without its input pipeline."""
    starts = range(0, len(inputs), PREDICT_BATCH)
    return np.concatenate([model.predict_on_batch(inputs[start : start + PREDICT_BATCH]) for start in starts])


def predictions(split, probabilities):
    """Return one row per file of a split, with the classes' probabilities (N, 3): the table of predictions.csv.

    Raises RunError when they are none, as after a training that diverged.
    """
    table = split.table[["file_id", "image_id", "kind", "split", "label"]].reset_index(drop=True)
    right = (probabilities >= -1e-6).all(axis=1) & (np.abs(probabilities.sum(axis=1) - 1) < 1e-3)
    if not right.all():
        bad = f"{np.sum(~right)} of {len(right)} images of {split.name}"
        raise RunError(f"The model gave no probabilities for {bad}: lower the learning rate, or look at its features.")
    table[PROBABILITIES] = probabilities.round(6)
    return table


def features(frozen, pixels):
    """Return what a frozen model makes of uint8 pixels (N, size, size, 3): float32 (N, …), computed once per image.

    Each image's features are a file in the user's cache, under a hash of the model (layers, weights, backend) and one
    of the pixels: another split, fold or seed computes nothing anew. A value takes 4 bytes: 131 KB per image for
    ResNet50 at 128 px.
    """
    folder = cache_dir("features", features_key(frozen))
    files = [folder / f"{hashlib.sha256(image.tobytes()).hexdigest()[:40]}.npz" for image in pixels]
    values = {file: _stored(file, frozen.output_shape[1:]) for file in files}
    if missing := {file: i for i, file in enumerate(files) if values[file] is None}:  # a copy of a scan comes once
        for file, row in zip(missing, predict(frozen, pixels[list(missing.values())]), strict=True):
            values[file] = np.asarray(row, dtype=np.float32)
            with write_file(file) as temporary, open(temporary, "wb") as output:
                np.savez(output, values[file])
    return np.stack([values[file] for file in files])


def _stored(file, shape):
    """Return stored features of that shape; None when there are none, or when they were changed (zip has checksums)."""
    with suppress(Exception), np.load(file) as stored:  # numpy and zipfile raise many kinds
        return stored["arr_0"] if stored["arr_0"].shape == shape else None


def features_key(frozen):
    """Return what features depend on as 24 hexadecimal digits: layers, settings, weights and backend."""
    if frozen not in _KEYS:
        layers = [(type(layer).__name__, layer.get_config() | {"name": ""}) for layer in _layers(frozen)]
        parts = keras.backend.backend(), frozen.input_shape, frozen.output_shape, layers, models.weights_sha256(frozen)
        _KEYS[frozen] = hashlib.sha256(str(parts).encode()).hexdigest()[:24]
    return _KEYS[frozen]


_KEYS = WeakKeyDictionary()  # a frozen base takes 100 MB: it must not stay because its key was asked for


def _layers(model):
    """Return the layers that compute, those of nested models one by one: a nested model's name has a number."""
    layers = [_layers(layer) if isinstance(layer, keras.Model) else [layer] for layer in model.layers]
    return [layer for layer in itertools.chain(*layers) if not isinstance(layer, keras.layers.InputLayer)]
