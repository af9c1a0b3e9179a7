"""Random forests: on texture features of the scan, and, as a warning, on the shape of the lesion's mask."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from skimage.feature import graycomatrix, graycoprops, hog, local_binary_pattern
from sklearn.ensemble import RandomForestClassifier

from busilib.data.images import shape_features
from busilib.learning.comparators.base import NO_EPOCHS, Comparator

PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
RINGS = ((8, 1), (16, 2), (24, 3))  # of LBP: points, radius in pixels


def texture(image):
    """Return texture features of one grey image (size, size), uint8, as a vector.

    HOG (Dalal & Triggs 2005): in which directions do edges run, in each cell of 16 × 16 pixels. GLCM (Haralick 1973):
    how often do two grey values, of 32, lie 1, 2 or 4 pixels apart, in 4 directions. LBP (Ojala 2002): which
    neighbours on a ring are brighter than the middle; histograms of the uniform patterns of three rings.
    """
    edges = hog(image, orientations=8, pixels_per_cell=(16, 16), cells_per_block=(2, 2))
    pairs = graycomatrix(image // 8, [1, 2, 4], np.arange(4) * np.pi / 4, levels=32, symmetric=True, normed=True)
    pairs = np.concatenate([graycoprops(pairs, name).ravel() for name in PROPERTIES])
    rings = []
    for points, radius in RINGS:
        patterns = local_binary_pattern(image, points, radius, method="uniform")
        rings.append(np.bincount(patterns.astype(int).ravel(), minlength=points + 2) / patterns.size)
    return np.concatenate([edges, pairs, *rings])


@dataclass
class Forest(Comparator):
    """A random forest on features of an image; a subclass says which. chosen: 500 trees, scikit-learn's defaults."""

    image_size: int = 128
    trees: int = 500

    def fit(self, train, validation=None, *, weights=None, seed=0):
        self.forest = RandomForestClassifier(self.trees, random_state=seed)
        self.forest.fit(self.features(train.pixels), train.labels)
        return NO_EPOCHS

    def predict(self, pixels):
        return self.forest.predict_proba(self.features(pixels))

    def parameters(self):
        nodes = sum(tree.tree_.node_count for tree in self.forest.estimators_)
        return nodes, nodes


@dataclass
class TextureForest(Forest):
    """Random forest on HOG, GLCM and LBP.

    Source: Jackins, Vimal, Kaliappan & Lee, J. Supercomputing 77 (2021) 5198, 92.40 % on tabular clinical records.
    known: a random forest. chosen: everything else; scans have no table of records, so texture features take its
    place. Parameters are counted in tree nodes.
    """

    name: ClassVar[str] = "forest"
    title: ClassVar[str] = "random forest"

    def features(self, pixels):
        """Return the texture features (N, F)."""
        return np.stack([texture(image.mean(axis=-1).astype(np.uint8)) for image in pixels])


@dataclass
class ShapeForest(Forest):
    """Random forest on the shape of the ground-truth mask: a warning, not a comparator.

    It never sees a scan. A radiologist drew its input, and drew nothing for a normal scan: the answer is in it.
    known: that masks were inputs in paper B. chosen: `busilib.data.images.SHAPE_FEATURES`.
    """

    name: ClassVar[str] = "shape"
    title: ClassVar[str] = "random forest on the mask's shape"
    reads: ClassVar[str] = "mask"

    def features(self, pixels):
        """Return the shape features (N, 12)."""
        return np.array([shape_features(image[..., 0] > 0) for image in pixels])
