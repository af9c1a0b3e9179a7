"""Systems on the features of a frozen, pretrained network: SVM on ResNet50, BCDNet, Inception-ResNet-v2."""

from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np
from scipy.special import softmax
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from busilib.learning import features, models
from busilib.learning.comparators.base import NO_EPOCHS, Comparator, fit_network, trainable
from busilib.recipes import CLASSES


@dataclass
class Frozen(Comparator):
    """A frozen base from keras.applications and the average of each of its feature maps; subclasses learn on that."""

    backbone: str
    preprocessing: str = "own"  # what the base was trained with

    def extract(self, weights, seed):
        """Make ``self.extractor``: uint8 pixels to the base's globally averaged features (N, channels)."""
        base = models.backbone(self.backbone, self.image_size, weights, seed)
        base.trainable = False
        prepare = models.preprocessing(self, weights)
        averages = keras.layers.GlobalAveragePooling2D(name="average")(base(prepare.output))
        self.extractor = keras.Model(prepare.input, averages, name="extractor")

    def features(self, pixels):
        """Return the features (N, channels), float32: computed once an image, then found in the user's cache."""
        return features.load(self.extractor, pixels)


@dataclass
class Svm(Frozen):
    """Linear SVM on ResNet50's features.

    Source: Ismael & Sengur, Expert Systems with Applications 164 (2021) 114054, 94.7 % on chest X-rays.
    known: frozen ResNet50, linear SVM. chosen: global average, standardised features, C = 1, one class against the
    rest; probabilities are the softmax of the decision values, which leaves the SVM's decisions as they are.
    """

    name: ClassVar[str] = "svm"
    title: ClassVar[str] = "SVM on ResNet50 features"
    image_size: int = 224
    backbone: str = "ResNet50"
    c: float = 1.0

    def fit(self, train, validation=None, *, weights, seed=0):
        self.extract(weights, seed)
        self.classifier = make_pipeline(StandardScaler(), LinearSVC(C=self.c, max_iter=100_000, random_state=seed))
        self.classifier.fit(self.features(train.pixels), train.labels)
        return NO_EPOCHS

    def predict(self, pixels):
        return softmax(self.classifier.decision_function(self.features(pixels)), axis=1)

    def parameters(self):
        learned = np.size(self.classifier[-1].coef_) + len(CLASSES) + 2 * self.classifier[-1].n_features_in_
        return self.extractor.count_params() + learned, learned


def solve(h, targets, ridge):
    """Return the B that makes |H B − T|² + λ |B|² smallest: (HᵀH + λ I)⁻¹ Hᵀ T, for H (N, M) and T (N, K)."""
    return np.linalg.solve(h.T @ h + ridge * np.eye(h.shape[1]), h.T @ targets)


class RandomisedNetwork:
    """One hidden layer that is drawn and never trained; only the output layer is, and that by solving an equation.

    H = sigmoid(X W + b), with W and b drawn; the output weights B are what `solve` gives for one-hot targets.
    Source: Schmidt, Kraaijveld & Duin 1992; as "extreme learning machine", Huang, Zhu & Siew, Neurocomputing 70 (2006)
    489. ``width``: neurons of the hidden layer; ``ridge``: λ.
    """

    def __init__(self, width, ridge, seed=0):
        self.width, self.ridge, self.seed = width, ridge, seed

    def hidden(self, x):
        """Return H (N, width), values in (0, 1), for inputs (N, F)."""
        return 1 / (1 + np.exp(-(x @ self.weights + self.bias)))

    def fit(self, x, targets):
        """Solve for the output weights: ``x`` (N, F), ``targets`` (N, K). Returns itself."""
        rng = np.random.default_rng(self.seed)
        # Divided by √F so that a sum over many standardised features stays where the sigmoid bends.
        self.weights = rng.normal(size=(x.shape[1], self.width)) / np.sqrt(x.shape[1])
        self.bias = rng.uniform(-1, 1, size=self.width)
        self.output = solve(self.hidden(x), targets, self.ridge)
        return self

    def predict(self, x):
        """Return the outputs (N, K): near the targets, but not held to [0, 1]."""
        return self.hidden(x) @ self.output


@dataclass
class Bcdnet(Frozen):
    """BCDNet: frozen VGG16 features and a randomised network.

    Source: Lu, Wang & Zhang, IRBM 44 (2023) 100774, 93.97 % on breast ultrasound. (Other networks of this name have
    nothing to do with it.) known: frozen pretrained CNN, a randomised network, tuned by a metaheuristic; details are
    not public. chosen: VGG16, global average, and instead of the metaheuristic the width and λ with the best accuracy
    on the validation part; outputs are cut to [0, 1] and divided by their sum to be probabilities.
    """

    name: ClassVar[str] = "bcdnet"
    title: ClassVar[str] = "BCDNet"
    image_size: int = 224
    backbone: str = "VGG16"
    widths: tuple[int, ...] = (64, 256, 1024)
    ridges: tuple[float, ...] = (0.1, 1.0, 10.0)

    def fit(self, train, validation, *, weights, seed=0):
        self.extract(weights, seed)
        self.scaler = StandardScaler().fit(self.features(train.pixels))
        x, targets = self.scaler.transform(self.features(train.pixels)), np.eye(len(CLASSES))[train.labels]
        held = self.scaler.transform(self.features(validation.pixels))
        tried = [
            RandomisedNetwork(width, ridge, seed).fit(x, targets) for width in self.widths for ridge in self.ridges
        ]
        # max takes the first of equals: the narrowest.
        self.classifier = max(tried, key=lambda one: np.mean(one.predict(held).argmax(axis=1) == validation.labels))
        return NO_EPOCHS

    def predict(self, pixels):
        raw = np.clip(self.classifier.predict(self.scaler.transform(self.features(pixels))), 1e-6, 1)
        return raw / raw.sum(axis=1, keepdims=True)

    def parameters(self):
        learned = self.classifier.output.size
        drawn = self.classifier.weights.size + self.classifier.bias.size + 2 * self.scaler.n_features_in_
        return self.extractor.count_params() + learned + drawn, learned


@dataclass
class InceptionSoftmax(Frozen):
    """Inception-ResNet-v2, frozen, with a softmax layer on its averaged features.

    Source: Badawy et al., ITC-Egypt (2021), as paper B cites it: 82.93 %. known: frozen transfer from
    Inception-ResNet-v2. chosen: global average, BatchNormalization, one softmax layer, Adam.
    """

    name: ClassVar[str] = "inception"
    title: ClassVar[str] = "Inception-ResNet-v2, plain head"
    image_size: int = 224
    backbone: str = "InceptionResNetV2"
    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-3
    patience: int = 10

    def fit(self, train, validation, *, weights, seed=0):
        self.extract(weights, seed)
        inputs = x = keras.Input(self.extractor.output.shape[1:], name="features")
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        self.head = keras.Model(inputs, keras.layers.Dense(len(CLASSES), activation="softmax")(x), name="head")
        self.network = keras.Model(self.extractor.input, self.head(self.extractor.output), name="inception")
        known = [(self.features(images.pixels), images.labels) for images in (train, validation)]
        trainer = keras.Model(self.head.inputs, self.head.outputs)
        return fit_network(trainer, *known, self, "sparse_categorical_crossentropy")

    def predict(self, pixels):
        return self.head.predict(self.features(pixels), verbose=0)

    def parameters(self):
        return self.network.count_params(), trainable(self.head)

    @property
    def fitted(self):
        return self.network
