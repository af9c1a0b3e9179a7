"""A capsule network: groups of neurons that vote on what they are part of.

Source of squash, routing and loss: Sabour, Frosst & Hinton, "Dynamic routing between capsules", 2017, Eq. 1 to 4.
"""

from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import layers, ops

from busilib.learning.comparators.base import Network, grey
from busilib.recipes import CLASSES


def squash(vectors):
    """Shrink vectors (…, D) to a length below 1 and keep their direction: |s|² / (1 + |s|²) · s / |s|."""
    square = ops.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors * ops.sqrt(square + 1e-9) / (1 + square)


def route(votes, iterations=3):
    """Route by agreement: votes (N, I, J, D) of I capsules for J classes become class capsules (N, J, D).

    Each capsule shares its vote out over the classes (c, a softmax of b, equal at first). A class capsule is the
    squashed sum of what it is given. A capsule whose vote agrees with the outcome gives that class more next time.
    """
    b = ops.zeros_like(votes[..., 0])
    for turn in range(iterations):
        c = ops.softmax(b, axis=2)
        outcome = squash(ops.einsum("nij,nijd->njd", c, votes))
        if turn < iterations - 1:
            b = b + ops.einsum("nijd,njd->nij", votes, outcome)
    return outcome


def margin_loss(labels, lengths):
    """Return the loss (N,): a capsule of the true class should be longer than 0.9, of another shorter than 0.1.

    ``labels`` (N,) or (N, 1) class numbers, ``lengths`` (N, 3); T = 1 for the true class, else 0:
    Σ T max(0, 0.9 − |v|)² + 0.5 (1 − T) max(0, |v| − 0.1)².
    """
    true = ops.one_hot(ops.reshape(ops.cast(labels, "int32"), (-1,)), len(CLASSES))
    short, long = ops.relu(0.9 - lengths), ops.relu(lengths - 0.1)
    return ops.sum(true * short**2 + 0.5 * (1 - true) * long**2, axis=-1)


@dataclass
class Capsules(Network):
    """Convolutional capsule network.

    Source: Iesmantas & Alzbutas, ICIAR 2018, arXiv 1804.08376, 87 % on histology images of four classes.
    known: convolutions, primary capsules of 8 numbers, class capsules of 16, 3 routing iterations, margin loss with
    0.9, 0.1 and 0.5. chosen: three convolutions of stride 2, 8 kinds of primary capsules, no reconstruction; a
    probability is a capsule's length divided by the sum of the lengths; grey input; no augmentation.
    """

    name: ClassVar[str] = "capsule"
    title: ClassVar[str] = "convolutional capsule network"
    loss: ClassVar = staticmethod(margin_loss)
    image_size: int = 128
    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-3
    patience: int = 15
    widths: tuple[int, ...] = (32, 64)  # of the convolutions before the primary capsules
    kinds: int = 8  # kinds of primary capsules, 8 numbers each, at every place

    def build(self):
        pixels = keras.Input((self.image_size, self.image_size, 3), dtype="uint8", name="pixels")
        x = grey(pixels)
        for width in self.widths:
            x = layers.BatchNormalization(momentum=0.9)(layers.Conv2D(width, 5, strides=2, activation="relu")(x))
        x = layers.Conv2D(self.kinds * 8, 5, strides=2, name="primary")(x)
        capsules = squash(layers.Reshape((-1, 8))(x))
        # One matrix of 16 × 8 for each primary capsule i and class j: vote = matrix · capsule.
        vote = layers.EinsumDense("nik,ikjd->nijd", output_shape=(capsules.shape[1], len(CLASSES), 16), name="votes")
        answer = route(vote(capsules))
        lengths = ops.sqrt(ops.sum(answer * answer, axis=-1) + 1e-9)
        probabilities = lengths / ops.sum(lengths, axis=-1, keepdims=True)
        return keras.Model(pixels, probabilities, name="capsule"), lengths
