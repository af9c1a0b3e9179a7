"""A small convolutional network of the oldest kind, trained from nothing."""

from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import layers

from busilib.learning.comparators.base import Network, grey
from busilib.recipes import CLASSES


@dataclass
class LeNet(Network):
    """LeNet-like CNN: four times convolution, ReLU and max pooling, then a dense layer.

    Source: Zeimarani et al., IEEE Access 8 (2020) 133349, 87.07 % on 641 breast lesions (benign, malignant), 5-fold
    cross-validation at 224 × 224. known: few layers, dropout, regularisation, 224 px. chosen: kernels of 5 × 5, the
    widths, dense 128, dropout 0.5, L2 of 1e-4, Adam; grey input; no augmentation.
    """

    name: ClassVar[str] = "lenet"
    title: ClassVar[str] = "LeNet-like CNN"
    image_size: int = 224
    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-3
    patience: int = 15
    widths: tuple[int, ...] = (16, 32, 64, 64)
    dropout: float = 0.5
    l2: float = 1e-4

    def build(self):
        pixels = keras.Input((self.image_size, self.image_size, 3), dtype="uint8", name="pixels")
        l2 = keras.regularizers.L2(self.l2)
        x = grey(pixels)
        for width in self.widths:
            x = layers.Conv2D(width, 5, padding="same", activation="relu", kernel_regularizer=l2)(x)
            x = layers.MaxPooling2D()(x)
        x = layers.Dense(128, activation="relu", kernel_regularizer=l2)(layers.Flatten()(x))
        x = layers.Dropout(self.dropout)(x)
        answer = layers.Dense(len(CLASSES), activation="softmax", name="probabilities")(x)
        return keras.Model(pixels, answer, name="lenet"), answer
