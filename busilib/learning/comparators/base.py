"""The one interface that all comparators have, and what those that are trained network by network share."""

import threading
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import ClassVar, NamedTuple

import keras
import numpy as np
import pandas as pd
import psutil
from keras import ops
from sklearn.model_selection import StratifiedGroupKFold

from busilib.cache import shown
from busilib.errors import RunError, SplitError
from busilib.learning import device
from busilib.recipes import CLASSES


class Images(NamedTuple):
    """Images of one part: pixels uint8 (N, size, size, 3), labels int (N,) in class order, groups (N,) of scans."""

    pixels: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


@dataclass
class Comparator(ABC):
    """One system: its settings are its fields, and `fit` adds what it learned.

    ``name`` is its key, ``title`` what the papers call it, ``reads`` what its images are: "scan", or "mask" (the
    union of a scan's lesion masks, 255 inside).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reads: ClassVar[str] = "scan"
    image_size: int

    def as_dict(self):
        """Return name, title and settings as plain values, ready for JSON."""
        return {"name": self.name, "title": self.title} | asdict(self)

    @abstractmethod
    def fit(self, train, validation, *, weights=None, seed=0):
        """Learn from `Images`; return one row an epoch (a DataFrame without rows where there are no epochs).

        ``validation`` may only choose (an epoch, a width). ``weights`` is what `models.find_weights` gives, for
        systems with a backbone. ``seed`` fixes all that is drawn.
        """

    @abstractmethod
    def predict(self, pixels):
        """Return the probabilities (N, 3), in class order, of uint8 pixels (N, size, size, 3)."""

    @abstractmethod
    def parameters(self):
        """Return (all, trained): how many numbers the fitted system keeps, and how many of them were learned."""

    @property
    def fitted(self):
        """What a run folder keeps: an object whose ``predict`` takes uint8 pixels and gives probabilities."""
        return self


NO_EPOCHS = pd.DataFrame(columns=["epoch"])


@dataclass
class Network(Comparator):
    """A network trained from random weights: a subclass says how it is built, and with which loss."""

    loss: ClassVar = "sparse_categorical_crossentropy"
    epochs: int
    batch_size: int
    learning_rate: float  # of Adam
    patience: int  # epochs without a better validation accuracy before it stops; the best epoch is kept

    @abstractmethod
    def build(self):
        """Return (network, output): uint8 pixels to probabilities, and the tensor that the loss looks at."""

    def fit(self, train, validation, *, weights=None, seed=0):
        keras.utils.set_random_seed(seed)
        self.network, output = self.build()
        return fit_network(keras.Model(self.network.input, output), train, validation, self, self.loss)

    def predict(self, pixels):
        return self.network.predict(pixels, verbose=0)

    def parameters(self):
        return self.network.count_params(), trainable(self.network)

    @property
    def fitted(self):
        return self.network


def trainable(network):
    """Return how many numbers of a network training changes."""
    return int(sum(np.prod(weight.shape) for weight in network.trainable_weights))


def grey(pixels):
    """Turn a Keras tensor of pixels (N, size, size, 3), 0–255, into grey values (N, size, size, 1) in [0, 1].

    Ultrasound is grey: two more equal channels would make the first layer three times as dear.
    """
    return ops.mean(keras.layers.Rescaling(1 / 255)(pixels), axis=-1, keepdims=True)


def fit_network(network, train, validation, settings, loss):
    """Fit a network with Adam, keep the epoch with the best validation accuracy, return one row an epoch.

    ``train`` and ``validation`` have ``[0]`` inputs and ``[1]`` labels. ``settings`` has epochs, batch_size,
    learning_rate and patience. What is compiled must not be what is saved, or the optimizer is saved with it.
    """
    adam = keras.optimizers.Adam(settings.learning_rate)
    network.compile(adam, loss, metrics=["accuracy"], **device.compiling())
    # Not by val_loss: on few images it rises with every confident mistake while the decisions still get better.
    stop = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=settings.patience, restore_best_weights=True
    )
    result = network.fit(
        train[0],
        train[1],
        validation_data=(validation[0], validation[1]),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        callbacks=[stop],
        verbose=1 if shown() else 0,
    )
    history = pd.DataFrame(result.history)
    history.insert(0, "epoch", np.arange(1, len(history) + 1))
    return history


def inner_folds(images, folds, seed=0):
    """Return the (train, test) row numbers of a stratified split of ``images`` that keeps groups together.

    Raises SplitError when a class has fewer groups than there are folds.
    """
    check_folds(images.labels, images.groups, folds)
    return list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(*images))


def check_folds(labels, groups, folds):
    """Raise SplitError when there are fewer than two folds, or fewer groups of a class than folds."""
    if folds < 2:
        raise SplitError(f"{folds} fold: cross-validation needs two or more")
    for code, name in enumerate(CLASSES):
        count = len(set(np.asarray(groups)[np.asarray(labels) == code]))
        if count < folds:
            raise SplitError(
                f"{folds} folds, but only {count} {name} images (near-identical ones counted once): a fold would be "
                f"without that class. Choose {count} folds or fewer, or more images."
                if count >= 2
                else f"{folds} folds, but only {count} {name} images (near-identical ones counted once): there is "
                "nothing to train on and test. Add images of that class."
            )


def check_classes(labels, what):
    """Raise SplitError, naming the class and ``what`` lacks it, when a class is missing from labels (N,)."""
    missing = [name for code, name in enumerate(CLASSES) if code not in set(labels)]
    if missing:
        raise SplitError(
            f"{what} has {len(labels)} images, but none of the class {' or '.join(missing)}: a system can neither "
            "learn it nor be scored on it. Choose fewer folds, another seed, or add images of that class."
        )


def check_probabilities(probabilities, count, who):
    """Return ``probabilities`` as float64 (count, 3); raise RunError when they are none.

    They must be finite, in [0, 1], and sum to 1 for each image (within 1e-3).
    """
    values = np.asarray(probabilities, dtype=float)
    if values.shape != (count, len(CLASSES)):
        raise RunError(f"{who} gave an array of {values.shape} for {count} images: it must be ({count}, 3)")
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise RunError(
            f"{who} gave NaN or infinite probabilities for {bad.sum()} of {count} images: its training diverged, or "
            "its features are not numbers. Lower the learning rate, or look at its inputs. Nothing was kept."
        )
    if (values < -1e-6).any() or (np.abs(values.sum(axis=1) - 1) > 1e-3).any():
        raise RunError(f"{who} gave numbers that are no probabilities: each row must be in [0, 1] and sum to 1")
    return values


@contextmanager
def measure():
    """Yield a dict that, when the block ends, has what it cost: seconds, cpu_seconds, memory_mb.

    seconds: wall clock. cpu_seconds: of all threads of this process. memory_mb: by how much (MB, 10^6 bytes) the
    resident memory of this process rose above what it was before, at its highest, looked at 50 times a second. What
    an earlier system left for reuse is not counted: for a fair figure run each system in a process of its own.
    """
    process, cost, done = psutil.Process(), {}, threading.Event()
    before = peak = process.memory_info().rss

    def watch():
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    wall, cpu = time.perf_counter(), time.process_time()
    thread.start()
    try:
        yield cost
    finally:
        done.set()
        thread.join()
        peak = max(peak, process.memory_info().rss)
        cost["seconds"] = round(time.perf_counter() - wall, 2)
        cost["cpu_seconds"] = round(time.process_time() - cpu, 2)
        cost["memory_mb"] = round((peak - before) / 1e6, 1)
