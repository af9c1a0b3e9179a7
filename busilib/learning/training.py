"""Training: from a recipe and a split to a trained model and its predictions.

What is frozen gives the same output in every epoch, so it is computed once (see `features`) and only the rest is
trained on it.
"""

import keras
import numpy as np
import pandas as pd

from busilib.cache import bar, report, shown
from busilib.data import images
from busilib.learning import device, features, models
from busilib.learning.augmentation import RandomAffine
from busilib.recipes import CLASSES
from busilib.runs import PROBABILITIES, Trained


def train(recipe, split, *, weights, seed=0, start=None):
    """Train a recipe on a split and return a `busilib.runs.Trained`.

    ``weights`` is what `models.find_weights` gives; ``start`` a Run whose base and head this one goes on from.
    ``seed`` fixes the random weights, the dropout, the shuffling and the augmentation.
    """
    model = models.build(recipe, weights, seed)
    copied = models.copy_weights(start.model(), model) if start else []
    if "batch_norm" in copied:
        # While the base moves below it, its averages would lag behind: keep those of the first phase.
        model.get_layer("head").get_layer("batch_norm").trainable = False
    keras.utils.set_random_seed(seed + 1)
    frozen, trained = models.parts(model, recipe)
    # Pixels that train the whole network are moved anew in every step, as a part of it; features are kept.
    inside = recipe.augment and frozen is None
    fitted = models.augmented(trained, RandomAffine(seed=seed)) if inside else trained
    fitted.compile(
        optimizer=keras.optimizers.Adam(recipe.learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        **device.compiling(),
    )
    training = Views(recipe, split.part("train"), frozen, seed, augment=recipe.augment and not inside, shuffle=True)
    validation = Views(recipe, split.part("validation"), frozen, seed + 1, augment=recipe.augment_validation)
    precision = device.precision(recipe)
    with device.computing(fitted, precision):
        history = fit(fitted, training, validation, recipe)
    kept = best_epoch(history, recipe.monitor)
    info = {
        "epochs_run": len(history),
        "epoch_kept": kept,
        "steps_per_epoch": len(training),
        "parameters": model.count_params(),
        "parameters_trained": int(sum(np.prod(w.shape) for w in trained.trainable_weights)),
        "copied": copied,
        "computing": device.settings().as_dict() | {"precision": precision},
    }
    return Trained(model, history, predict(frozen, trained, split, recipe.image_size), info)


def fit(model, training, validation, recipe, class_weight=None, callbacks=()):
    """Fit a compiled model and leave it at the best epoch by ``recipe.monitor``; return one row an epoch.

    Stops early after ``recipe.patience`` epochs without a better one; with None it runs all epochs. ``class_weight``:
    dict class number → weight of its training images, or None.
    """
    stop = keras.callbacks.EarlyStopping(
        recipe.monitor,
        patience=recipe.patience or recipe.epochs,
        restore_best_weights=True,
    )
    # Not PyDataset.on_epoch_end: Keras calls that twice in each validation.
    begin = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: validation.begin(epoch),
        on_epoch_end=lambda epoch, logs: report(epoch=epoch + 1, epochs=recipe.epochs),
    )
    result = model.fit(
        training.epochs(recipe.epochs, class_weight),
        steps_per_epoch=len(training),
        validation_data=validation,
        epochs=recipe.epochs,
        shuffle=False,  # the batches are shuffled already
        callbacks=[begin, *callbacks, stop],
        verbose=1 if shown() else 0,
    )
    history = pd.DataFrame(result.history)
    history.insert(0, "epoch", np.arange(1, len(history) + 1))
    return history


def best_epoch(history, monitor, patience=None):
    """Return the number (from 1) of the epoch that early stopping keeps: the first best by ``monitor``.

    ``history`` may be longer than early stopping would have let it be: with ``patience`` only the epochs count that
    come before ``patience`` epochs without a better one.
    """
    values = history[monitor].to_numpy() * (1 if monitor.endswith("loss") else -1)
    best = 0
    for epoch, value in enumerate(values):
        if value < values[best]:
            best = epoch
        elif patience is not None and epoch - best >= patience:
            break
    return int(history["epoch"].iloc[best])


class Batches(keras.utils.PyDataset):
    """Batches of (inputs, one-hot labels) of some files, in a new order in every epoch when shuffled.

    ``inputs``: array (N, …). ``labels``: the names of the files' classes. ``seed`` fixes the orders.
    """

    def __init__(self, inputs, labels, batch_size, seed, *, shuffle=False):
        super().__init__()
        self.now, self.batch_size, self.shuffle = inputs, batch_size, shuffle
        self.labels = keras.utils.to_categorical([CLASSES.index(label) for label in labels], len(CLASSES))
        self.rng = np.random.default_rng(seed)
        self.order = np.arange(len(self.labels))
        self.begin(0)

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, step):
        rows = self.order[step * self.batch_size : (step + 1) * self.batch_size]
        return self.now[rows], self.labels[rows]

    def begin(self, epoch):
        """Make ready for an epoch, counted from 0: a new order when shuffled."""
        if self.shuffle:
            self.order = self.rng.permutation(len(self.labels))

    def epochs(self, count, class_weight=None):
        """Yield the batches of ``count`` epochs, one epoch after the other, for ``fit`` with ``steps_per_epoch``.

        With ``class_weight`` (dict class number → weight) each batch has a third part, the weights of its images.
        """
        # One generator for all: Keras would start a PyDataset anew in each epoch, and shuffle its batches once more.
        for epoch in range(count):
            self.begin(epoch)
            for step in range(len(self)):
                inputs, labels = self[step]
                weights = [np.array([class_weight[k] for k in labels.argmax(axis=1)])] if class_weight else []
                yield inputs, labels, *weights


class Views(Batches):
    """Batches of one part whose inputs change from epoch to epoch: after `begin`, epoch e sees view e % views.

    Without augmentation there is one view, the images as they are, whose features are kept on disk. ``frozen`` turns
    the uint8 pixels of every view into features beforehand; with ``frozen=None`` the batches are the pixels.
    """

    def __init__(self, recipe, files, frozen, seed, *, augment, shuffle=False):
        self.augment, self.affine = augment, RandomAffine(seed=seed)
        self.pixels = images.load(files["path"], recipe.image_size)
        self.kept = []
        if frozen is not None and augment:
            views = bar(range(min(recipe.views, recipe.epochs)), "augmented views", unit="view")
            batch = device.settings().predict_batch
            self.kept = [frozen.predict(self.affine.moved(self.pixels), batch_size=batch, verbose=0) for _ in views]
        elif frozen is not None:
            self.kept = [features.load(frozen, self.pixels)]
        super().__init__(self.pixels, files["label"], recipe.batch_size, seed, shuffle=shuffle)

    def begin(self, epoch):
        """Make ready for an epoch, counted from 0: its view, in a new order when shuffled."""
        if self.kept:
            self.now = self.kept[epoch % len(self.kept)]
        elif self.augment:
            self.now = self.affine.moved(self.pixels)
        super().begin(epoch)


def predict(frozen, trained, split, size):
    """Return one row a file of a split, with the probabilities of the classes: the table of predictions.csv.

    ``frozen`` (or None) and ``trained`` are the two parts of a model, as `models.parts` gives them.
    """
    values = images.load(split.table["path"], size)
    return predictions(split, trained, features.load(frozen, values) if frozen is not None else values)


def predictions(split, model, inputs):
    """Return one row a file of a split, with what ``model`` makes of ``inputs``, one a file: see `predict`."""
    table = split.table[["file_id", "image_id", "kind", "split", "label"]].reset_index(drop=True)
    table[PROBABILITIES] = model.predict(inputs, batch_size=device.settings().predict_batch, verbose=0).round(6)
    return table
