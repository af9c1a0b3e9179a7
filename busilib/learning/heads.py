"""Many heads on one frozen base: the features are kept, so another split, fold or seed costs seconds.

heads = Heads(recipe, weights)             # the base is built once
fitted = heads.train(split, seed=3)        # a Fitted: epochs and predictions
"""

from dataclasses import dataclass, replace

import keras
import numpy as np
import pandas as pd

from busilib.data import images
from busilib.learning import device, features, models, training
from busilib.recipes import CLASSES


@dataclass(frozen=True)
class Fitted:
    """A trained head: one row an epoch, one row a file with its probabilities.

    ``history`` and ``predictions`` are as in `busilib.runs.Trained`. ``epochs``: float32 (epochs, test files, 3), the
    probabilities of the test part after every epoch, when they were asked for, else None.
    """

    history: pd.DataFrame
    predictions: pd.DataFrame
    epochs: np.ndarray | None = None


class Heads:
    """The frozen base of a recipe, and the training of its head on any split of any files.

    Raises ValueError for a recipe that trains a part of the base or augments: its features change, and are not kept.
    """

    def __init__(self, recipe, weights, seed=0):
        if recipe.unfreeze != "none" or recipe.augment:
            raise ValueError("heads stand on a frozen base and see images as they are: unfreeze='none', augment=False")
        self.recipe = recipe
        self.frozen, _ = models.parts(models.build(recipe, weights, seed), recipe)
        self.known = {}
        self.head = self._new(seed)
        self.head.compile(
            keras.optimizers.Adam(recipe.learning_rate),
            "categorical_crossentropy",
            metrics=["accuracy"],
            **device.compiling(),
        )
        self.head.optimizer.build(self.head.trainable_variables)
        self.untrained = [keras.ops.convert_to_numpy(v) for v in self.head.optimizer.variables]

    def train(self, split, seed=0, class_weight=None, every_epoch=False):
        """Train the head anew and return a `Fitted`, with the predictions of the epoch that early stopping keeps.

        ``seed`` fixes the head's first weights, the dropout and the shuffling. ``class_weight``: None, or "balanced"
        (n / (classes · n of the class), as in scikit-learn). ``every_epoch`` trains to the last epoch and keeps the
        test part's probabilities after each; the predictions are then those of the best epoch of all.
        """
        self._restart(seed)
        inputs = self.features(split.table["path"])
        parts = {"train": split.table["split"] == "train", "test": split.table["split"] == "test"}
        parts["validation"] = split.table["split"] == "validation" if "validation" in split.counts() else parts["test"]
        sizes = {"train": self.recipe.batch_size, "validation": device.settings().predict_batch}
        train, validation = (
            training.Batches(inputs[parts[p]], split.part(p)["label"], size, seed, shuffle=p == "train")
            for p, size in sizes.items()
        )
        seen, callbacks, recipe = [], [], self.recipe
        if every_epoch:
            recipe = replace(recipe, patience=None)
            keep = lambda epoch, logs: seen.append(self.head.predict(inputs[parts["test"]], verbose=0))  # noqa: E731
            callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=keep)]
        weights = balanced(split.part("train")["label"]) if class_weight == "balanced" else None
        history = training.fit(self.head, train, validation, recipe, weights, callbacks)
        return Fitted(history, training.predictions(split, self.head, inputs), np.stack(seen) if every_epoch else None)

    def features(self, paths):
        """Return the frozen base's features of some files: float32 (N, …), kept in memory as well as on disk."""
        missing = [path for path in dict.fromkeys(paths) if path not in self.known]
        rows = features.load(self.frozen, images.load(missing, self.recipe.image_size)) if missing else []
        self.known.update(zip(missing, rows, strict=True))
        return np.stack([self.known[path] for path in paths])

    def _new(self, seed):
        keras.utils.set_random_seed(seed)
        return models.head(self.recipe, self.frozen.output_shape[1:])

    def _restart(self, seed):
        """Give the head the first weights of a new one: compiling once is most of a short training's time."""
        for old, new in zip(self.head.variables, self._new(seed).variables, strict=True):
            old.assign(new)
        for old, new in zip(self.head.optimizer.variables, self.untrained, strict=True):
            old.assign(new)


def balanced(labels):
    """Return a weight for each class number so that every class counts the same: n / (classes · n of the class)."""
    counts = labels.value_counts()
    return {k: len(labels) / (len(counts) * counts[name]) for k, name in enumerate(CLASSES) if name in counts}
