"""Three baselines: what any system must beat before its number says anything."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from busilib.learning.comparators.base import NO_EPOCHS, Comparator


def thumbnails(pixels):
    """Return grey values in [0, 1], one row an image: (N, size · size)."""
    return pixels.mean(axis=-1).reshape(len(pixels), -1) / 255


@dataclass
class Baseline(Comparator):
    """A scikit-learn classifier on the grey pixels of small images: subclasses say which."""

    image_size: int = 32

    def fit(self, train, validation=None, *, weights=None, seed=0):
        self.classifier = self.make(seed).fit(thumbnails(train.pixels), train.labels)
        return NO_EPOCHS

    def predict(self, pixels):
        return self.classifier.predict_proba(thumbnails(pixels))


@dataclass
class Majority(Baseline):
    """Always the most frequent class; its probabilities are the shares of the classes in training."""

    name: ClassVar[str] = "majority"
    title: ClassVar[str] = "majority class"

    def make(self, seed):
        return DummyClassifier(strategy="prior")

    def parameters(self):
        return 3, 3


@dataclass
class NearestNeighbour(Baseline):
    """The class of the training scan whose 32 × 32 pixels are nearest: it finds copies, and little else.

    Where copies of a scan lie on both sides of a split, it does well without having learned anything.
    """

    name: ClassVar[str] = "nearest"
    title: ClassVar[str] = "1-nearest neighbour, pixels"

    def make(self, seed):
        return KNeighborsClassifier(n_neighbors=1)

    def parameters(self):
        kept = self.classifier.n_samples_fit_ * self.classifier.n_features_in_
        return kept, kept


@dataclass
class Logistic(Baseline):
    """Logistic regression on thumbnails: one weight a pixel and class. chosen: standardised, C = 0.001."""

    name: ClassVar[str] = "logistic"
    title: ClassVar[str] = "logistic regression, thumbnails"
    c: float = 0.001  # the smaller, the more the weights are held back: there are more pixels than scans

    def make(self, seed):
        return make_pipeline(StandardScaler(), LogisticRegression(C=self.c, max_iter=2000))

    def parameters(self):
        model = self.classifier[-1]
        count = int(np.size(model.coef_) + np.size(model.intercept_)) + 2 * model.n_features_in_
        return count, count
