"""A stacked ensemble: three networks answer, and a fourth model learns whom to believe."""

from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np
import pandas as pd
from keras import layers
from sklearn.linear_model import LogisticRegression

from busilib.learning.comparators.base import Comparator, fit_network, grey, inner_folds, trainable
from busilib.recipes import CLASSES

# The three networks: side of the kernels, pooling after each convolution in turn, rate of GaussianDropout.
MEMBERS = (
    (3, ("max", "average", "max"), 0.2),
    (5, ("average", "max", "average"), 0.3),
    (3, ("average", "average", "max"), 0.4),
)


def member(size, kernel, pools, rate, widths=(16, 32, 64)):
    """Return one network: uint8 pixels (N, size, size, 3) to probabilities (N, 3).

    GaussianDropout multiplies by noise with mean 1 and variance rate / (1 − rate) instead of setting values to 0.
    """
    pixels = keras.Input((size, size, 3), dtype="uint8", name="pixels")
    x = grey(pixels)
    for width, pool in zip(widths, pools, strict=True):
        x = layers.Conv2D(width, kernel, padding="same", activation="relu")(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = (layers.MaxPooling2D if pool == "max" else layers.AveragePooling2D)(2)(x)
        x = layers.GaussianDropout(rate)(x)
    x = layers.Dense(64, activation="relu")(layers.Flatten()(layers.AveragePooling2D(2)(x)))
    answer = layers.Dense(len(CLASSES), activation="softmax", name="probabilities")(layers.GaussianDropout(rate)(x))
    return keras.Model(pixels, answer, name="member")


@dataclass
class Ensemble(Comparator):
    """Gaussian-dropout stacked ensemble.

    Source: Karthik et al., IRBM 43 (2022) 715, 92.15 % on breast ultrasound of three classes. known: a stack of
    custom CNNs, GaussianDropout, alternating pooling. chosen: three networks, widths 16, 32, 64, rates 0.2 to 0.4;
    the meta-learner is a logistic regression on out-of-fold probabilities (a network's answers on what it learned
    from would be too good to learn from); the networks of the inner folds are kept and averaged; grey input.
    """

    name: ClassVar[str] = "ensemble"
    title: ClassVar[str] = "Gaussian-dropout stacked ensemble"
    image_size: int = 128
    epochs: int = 60
    batch_size: int = 16
    learning_rate: float = 1e-3
    patience: int = 10
    folds: int = 3  # inner folds: each of the three networks is trained this many times

    def fit(self, train, validation, *, weights=None, seed=0):
        split = inner_folds(train, self.folds, seed)
        answers = np.zeros((len(train.labels), len(MEMBERS), len(CLASSES)))
        self.networks, histories = [], []
        for number, settings in enumerate(MEMBERS):
            self.networks.append([])
            for fold, (inside, outside) in enumerate(split):
                keras.utils.set_random_seed(seed + 100 * number + fold)
                network = member(self.image_size, *settings)
                part = (train.pixels[inside], train.labels[inside])
                trainer = keras.Model(network.input, network.output)
                history = fit_network(trainer, part, validation, self, "sparse_categorical_crossentropy")
                histories.append(history.assign(network=number + 1, fold=fold + 1))
                answers[outside, number] = network.predict(train.pixels[outside], verbose=0)
                self.networks[-1].append(network)
        self.judge = LogisticRegression(max_iter=1000).fit(answers.reshape(len(answers), -1), train.labels)
        return pd.concat(histories, ignore_index=True)

    def answers(self, pixels):
        """Return what the three networks say, each the mean of its inner folds: (N, 9)."""
        said = [np.mean([one.predict(pixels, verbose=0) for one in group], axis=0) for group in self.networks]
        return np.concatenate(said, axis=1)

    def predict(self, pixels):
        return self.judge.predict_proba(self.answers(pixels))

    def parameters(self):
        networks = [one for group in self.networks for one in group]
        judge = self.judge.coef_.size + self.judge.intercept_.size
        return sum(one.count_params() for one in networks) + judge, sum(map(trainable, networks)) + judge
