"""Every system that the two papers compare themselves with, and three baselines, as scikit-learn classifiers.

capsules = comparators.get("capsule", PROFILE)                   # a System: its settings
capsules.estimator(seed=SEED)                                    # by hand: fit(X, y), predict_proba(X)
runs.find_or_train(capsules, scans, split, weights=comparators.NONE)   # fitted, tested, saved as a run folder

X are uint8 pixels (N, size, size, 3), y class numbers (N,) in class order; ``clone`` and ``cross_val_predict`` work.
The function or class that makes a system says where it comes from, what is known of it and what was chosen here.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from inspect import signature
from itertools import product

import keras
import numpy as np
import pandas as pd
from scipy.special import softmax
from skimage.feature import graycomatrix, graycoprops, hog, local_binary_pattern
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.validation import has_fit_parameter

from busilib import recipes
from busilib.data import images
from busilib.errors import RunError, WeightsError
from busilib.learning import models, networks, training
from busilib.recipes import CLASSES, one_of

NO_EPOCHS = pd.DataFrame(columns=["epoch"])


def thumbnails(pixels):
    """Return grey values in [0, 1], one row per image: (N, size · size)."""
    return pixels.mean(axis=-1).reshape(len(pixels), -1) / 255


def majority():
    """Return always the most frequent class; its probabilities are the shares of the classes in training."""
    return DummyClassifier(strategy="prior")


def nearest():
    """Return the class of the training scan whose pixels are nearest: it finds copies, and little else.

    Where copies of a scan lie on both sides of a split, it does well without having learned anything.
    """
    return make_pipeline(FunctionTransformer(thumbnails), KNeighborsClassifier(n_neighbors=1))


def logistic(c=0.001):
    """Return logistic regression on thumbnails: one weight for each pixel and class. chosen: standardised, C = 0.001.

    The smaller ``c``, the more the weights are held back: there are more pixels than scans.
    """
    return make_pipeline(FunctionTransformer(thumbnails), StandardScaler(), LogisticRegression(C=c, max_iter=2000))


def texture(image):
    """Return texture features of one grey image (size, size), uint8, as a vector.

    HOG (Dalal & Triggs 2005): in which directions do edges run, in each cell of 16 × 16 pixels. GLCM (Haralick 1973):
    how often do two grey values, of 32, lie 1, 2 or 4 pixels apart, in 4 directions. LBP (Ojala 2002): which
    neighbours on a ring are brighter than the middle; histograms of the uniform patterns of three rings.
    """
    edges = hog(image, orientations=8, pixels_per_cell=(16, 16), cells_per_block=(2, 2))
    pairs = graycomatrix(image // 8, [1, 2, 4], np.arange(4) * np.pi / 4, levels=32, symmetric=True, normed=True)
    names = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
    parts = [edges, *(graycoprops(pairs, name).ravel() for name in names)]
    for points, radius in ((8, 1), (16, 2), (24, 3)):
        patterns = local_binary_pattern(image, points, radius, method="uniform")
        parts.append(np.bincount(patterns.astype(int).ravel(), minlength=points + 2) / patterns.size)
    return np.concatenate(parts)


def textures(pixels):
    """Return the `texture` of each image: (N, F)."""
    return np.stack([texture(image.mean(axis=-1).astype(np.uint8)) for image in pixels])


def forest(trees=500, seed=0):
    """Return a random forest on HOG, GLCM and LBP.

    Source: Jackins, Vimal, Kaliappan & Lee, J. Supercomputing 77 (2021) 5198, 92.40 % on tabular clinical records.
    known: a random forest. chosen: everything else, 500 trees and scikit-learn's defaults; scans have no table of
    records, so texture features take its place.
    """
    return make_pipeline(FunctionTransformer(textures), RandomForestClassifier(trees, random_state=seed))


def mask_shapes(pixels):
    """Return the twelve shape features (N, 12) of masks, as `busilib.data.images` measures them."""
    return np.array([images.shape_features(image[..., 0] > 0) for image in pixels])


def mask_forest(trees=500, seed=0):
    """Return a random forest on the shape of the ground-truth mask: a warning, not a comparator.

    It never sees a scan. A radiologist drew its input, and drew nothing for a normal scan: the answer is in it.
    known: that masks were inputs in paper B. chosen: `busilib.data.images.SHAPE_FEATURES`.
    """
    return make_pipeline(FunctionTransformer(mask_shapes), RandomForestClassifier(trees, random_state=seed))


@networks.estimator
class FrozenFeatures(TransformerMixin, BaseEstimator):
    """Pixels to the globally averaged feature maps (N, channels) of a frozen base from keras.applications.

    ``weights``: "imagenet", "phantom", "none" or a file, as in `models.find_weights`. The base is not saved with it: it
    is built again from these settings, and must then be the same.
    """

    backbone: str
    weights: str = "imagenet"
    image_size: int = 224
    seed: int = 0

    def base(self):
        """Return the Keras model, uint8 pixels to averages."""
        weights = models.find_weights(self.weights, self.backbone)
        return _averages(training.frozen_base(self.backbone, self.image_size, "own", weights, self.seed))

    def fit(self, X=None, y=None):
        """Look the base up: nothing is learned from X."""
        self.sha256_ = models.weights_sha256(self.base())
        return self

    def transform(self, X):
        """Return the features, float32: computed once per image, then taken from the user's cache."""
        base = self.base()
        if models.weights_sha256(base) != self.sha256_:
            raise WeightsError(f"{self.backbone}: this is not the base that the system was trained on: other weights")
        return training.features(base, X)


@lru_cache(maxsize=2)
def _averages(maps):
    """Return a frozen base with the average of each of its maps: built once, as Keras traces each model anew."""
    return keras.Model(maps.input, keras.layers.GlobalAveragePooling2D()(maps.output))


@networks.estimator
class Best(networks.Classifier):
    """Of some classifiers the one that does best on the validation set; of equals the first."""

    candidates: tuple
    seed: int = 0

    def fit(self, X, y, validation=None, groups=None):
        """Learn. ``validation`` (X, y) only chooses; without it a fifth of X does, whole ``groups`` (N,) held out."""
        train, validation = networks.parts(X, y, validation, groups, self.seed)
        fitted = [clone(candidate).fit(*train) for candidate in self.candidates]
        self.best_ = max(fitted, key=lambda candidate: candidate.score(*validation))
        return self

    def predict_proba(self, X):
        """Return the probabilities (N, 3) of the classes for inputs (N, …)."""
        return self.best_.predict_proba(X)


class LinearSvm(LinearSVC):
    """scikit-learn's linear SVM; its probabilities are the softmax of its decision values, its decisions the same."""

    def predict_proba(self, X):
        """Return the probabilities (N, 3) of the classes for inputs (N, …)."""
        values = self.decision_function(X)
        # Of two classes scikit-learn gives one value: above 0 is the second class.
        return softmax(np.stack([-values, values], axis=1) if values.ndim == 1 else values, axis=1)


def svm(image_size=224, backbone="ResNet50", c=1.0, weights="imagenet", seed=0):
    """Return a linear SVM on ResNet50's features.

    Source: Ismael & Sengur, Expert Systems with Applications 164 (2021) 114054, 94.7 % on chest X-rays.
    known: frozen ResNet50, linear SVM. chosen: global average, standardised features, C = 1, one class against the
    rest; probabilities are the softmax of the decision values, which leaves the SVM's decisions as they are.
    """
    base = FrozenFeatures(backbone, weights, image_size, seed)
    return make_pipeline(base, StandardScaler(), LinearSvm(C=c, dual=False, max_iter=100_000, random_state=seed))


def solve(h, targets, ridge):
    """Return the B that makes |H B − T|² + λ |B|² smallest: (HᵀH + λ I)⁻¹ Hᵀ T, for H (N, M) and T (N, K)."""
    return np.linalg.solve(h.T @ h + ridge * np.eye(h.shape[1]), h.T @ targets)


@networks.estimator
class RandomisedNetwork(networks.Classifier):
    """One hidden layer that is drawn and never trained; only the output layer is, and that by solving an equation.

    H = sigmoid(X W + b), with W and b drawn; the output weights B are what `solve` gives for one-hot targets. Outputs
    are cut to [0, 1] and divided by their sum to be probabilities.
    Source: Schmidt, Kraaijveld & Duin 1992; as "extreme learning machine", Huang, Zhu & Siew, Neurocomputing 70 (2006)
    489. ``width``: neurons of the hidden layer; ``ridge``: λ.
    """

    width: int = 256
    ridge: float = 1.0
    seed: int = 0

    def hidden(self, x):
        """Return H (N, width), values in (0, 1), for inputs (N, F)."""
        return 1 / (1 + np.exp(-(x @ self.weights_ + self.bias_)))

    def fit(self, X, y):
        """Draw the hidden layer and solve for the output weights."""
        rng = np.random.default_rng(self.seed)
        # Divided by √F so that a sum over many standardised features stays where the sigmoid bends.
        self.weights_ = rng.normal(size=(X.shape[1], self.width)) / np.sqrt(X.shape[1])
        self.bias_ = rng.uniform(-1, 1, size=self.width)
        self.output_ = solve(self.hidden(X), np.eye(len(CLASSES))[y], self.ridge)
        return self

    def predict_proba(self, X):
        """Return the probabilities (N, 3) of the classes for inputs (N, …)."""
        raw = np.clip(self.hidden(X) @ self.output_, 1e-6, 1)
        return raw / raw.sum(axis=1, keepdims=True)


def bcdnet(image_size=224, backbone="VGG16", widths=(64, 256, 1024), ridges=(0.1, 1, 10), weights="imagenet", seed=0):
    """Return BCDNet: frozen VGG16 features and a randomised network.

    Source: Lu, Wang & Zhang, IRBM 44 (2023) 100774, 93.97 % on breast ultrasound. (Other networks of this name have
    nothing to do with it.) known: frozen pretrained CNN, a randomised network, tuned by a metaheuristic; details are
    not public. chosen: VGG16, global average, and instead of the metaheuristic the width and λ with the best accuracy
    on the validation set.
    """
    base = FrozenFeatures(backbone, weights, image_size, seed)
    tried = tuple(RandomisedNetwork(*size, seed) for size in product(widths, ridges))
    return make_pipeline(base, StandardScaler(), Best(tried, seed))


@networks.estimator
class SoftmaxHead(networks.Network):
    """BatchNormalization and one softmax layer, trained on features (N, F)."""

    def build(self, x):
        """Return the probabilities (N, 3) as a tensor, for features (N, F)."""
        return networks.softmax(networks.norm()(x))


def inception(
    image_size=224, backbone="InceptionResNetV2", epochs=100, batch_size=32, learning_rate=1e-3, patience=10,
    weights="imagenet", seed=0,
):  # fmt: skip
    """Return Inception-ResNet-v2, frozen, with a softmax layer on its averaged features.

    Source: Badawy et al., ITC-Egypt (2021), as paper B cites it: 82.93 %. known: frozen transfer from
    Inception-ResNet-v2. chosen: global average, BatchNormalization, one softmax layer, Adam.
    """
    base = FrozenFeatures(backbone, weights, image_size, seed)
    return make_pipeline(base, SoftmaxHead(epochs, batch_size, learning_rate, patience, seed))


@dataclass(frozen=True)
class System:
    """One system with its settings, which has not learned anything yet.

    ``title`` is what the papers call it; ``make`` gives its classifier; ``reads`` what its images are: "scan", or
    "mask" (the union of a scan's lesion masks, 255 inside).
    """

    name: str
    title: str
    make: object
    settings: dict
    reads: str = "scan"

    def as_dict(self):
        """Return name, title and settings, ready for JSON; ``get(**that)`` is the same system again."""
        return {"name": self.name, "title": self.title} | self.settings

    def estimator(self, weights="imagenet", seed=0):
        """Return the scikit-learn classifier; ``weights`` are for a frozen base: see `FrozenFeatures`."""
        values = self.settings | {"weights": weights, "seed": seed}
        return self.make(**{key: values[key] for key in signature(self.make).parameters})


# What makes each system; its title and the profiles' settings stand in tables/recipes.json.
_MAKE = {"majority": majority, "nearest": nearest, "logistic": logistic, "svm": svm, "forest": forest}
_MAKE |= {"capsule": networks.Capsules, "bcdnet": bcdnet, "ensemble": networks.Ensemble, "enas": networks.Cells}
_MAKE |= {"lenet": networks.LeNet, "inception": inception, "shape": mask_forest}


def get(name, profile="quick", *, title=None, **changes):
    """Return a `System` with a profile's settings; ``changes`` replace single ones, ``title`` is what it is anyway.

    On another base than the published one it is a stand-in, and its title says so.

    Raises ValueError for a name, profile or setting that does not exist.
    """
    one_of("system", name, _MAKE)
    one_of("PROFILE", profile, recipes.PROFILES)
    make, title = _MAKE[name], recipes.SYSTEMS[name]["title"]
    values = {key: item.default for key, item in signature(make).parameters.items() if key not in ("weights", "seed")}
    values |= recipes.SYSTEMS[name]["full"] | recipes.SYSTEMS[name][profile]
    for change in changes:
        one_of(f"setting of {name}", change, values)
    if (backbone := changes.get("backbone", values.get("backbone"))) != values.get("backbone"):
        title = recipes.SYSTEMS[name]["stand_in"].format(backbone)
    return System(name, title, make, values | changes, "mask" if make is mask_forest else "scan")


SYSTEMS = {name: get(name, "full") for name in _MAKE}
NONE = models.Weights("none", "No pretrained weights: all is learned here.")


def find_weights(system, weights, kind, profile="quick"):
    """Return the weights of a system's frozen base, as `models.find_weights` does; `NONE` for a system without one."""
    backbone = system.settings.get("backbone")
    return models.find_weights(weights, backbone, kind, profile) if backbone else NONE


def train(system, split, *, scans, weights, seed=0):
    """Fit a system on a split and return a `training.Trained`; raise RunError when it gives no probabilities."""
    X, y, groups = read(system, split, scans), split.table["label"].map(CLASSES.index).to_numpy(), split.table["group"]
    train, held_out = (split.table["file_id"].isin(split.part(name)["file_id"]) for name in ("train", "validation"))
    classifier, more = _estimator(system, weights, seed), {}
    *before, last = _steps(classifier)
    for step in before:  # by hand: a Pipeline would hand the validation set on without making features of it
        X = step.fit(X[train], y[train]).transform(X)
    if has_fit_parameter(last, "validation"):
        more = {"validation": (X[held_out], y[held_out]), "groups": groups[train].to_numpy()}
    last.fit(X[train], y[train], **more)
    probabilities = training.probabilities(last, X)
    history = getattr(last, "history_", NO_EPOCHS)
    model = getattr(classifier, "network_", classifier)  # a system that is one Keras network is saved as that
    return training.Trained(model, history, training.predictions(split, probabilities), {"epochs_run": len(history)})


def _estimator(system, weights, seed):
    return system.estimator(weights.path if weights.kind == "file" else weights.kind, seed)


def by_hand(model, history, probabilities, system, scans, split, weights, seed=0):
    """Return (edited, `training.Trained`) of a system that was fitted outside: see `runs.save`.

    ``edited`` names, as a list of texts, what is not as the system says: empty when all is.
    """
    fresh, first = _estimator(system, weights, seed), read(system, replace(split, table=split.table[:4]), scans)
    if isinstance(model, keras.Model):
        steps = -(-len(split.part("train")) // fresh.batch_size)
        edited, model, table = fresh.by_hand(model, history, first.shape[1:], steps)
        answers = keras.ops.convert_to_numpy(model(first))
    else:
        edited, (*before, last) = _adopted(model, fresh)
        for step in before:  # called as it is, a base is not traced for four images
            is_base = isinstance(step, FrozenFeatures)
            first = keras.ops.convert_to_numpy(step.base()(first)) if is_base else step.transform(first)
        model, table, answers = fresh, getattr(last, "history_", NO_EPOCHS), training.probabilities(last, first)
    if not np.allclose(answers, probabilities[:4], atol=0.001):
        # Its settings are the system's, or are said to be others already; what it computes is something else.
        edited, model = [*edited, f"answers than {system.title} gives with what was learned"], None
    predictions = training.predictions(split, probabilities)
    return edited, training.Trained(model, table, predictions, {"epochs_run": len(table)})


def _adopted(model, fresh):
    """Return (edited, steps): the steps of ``fresh``, with what a model learned from pixels or a base's features.

    Each step of the model stands for the step of ``fresh`` that has its class, or one derived from it, or a class of
    the same name: a notebook's class could not be opened elsewhere.
    """
    given, steps, edited = _steps(model), _steps(fresh), []
    if isinstance(steps[0], FrozenFeatures) and not isinstance(given[0], FrozenFeatures):
        given = [steps[0].fit(), *given]
    if isinstance(steps[-1], Best) and not isinstance(given[-1], Best):
        best = steps.pop()
        same = [one for one in best.candidates if one.get_params() == given[-1].get_params()]
        best.best_ = clone((same or best.candidates)[0])
        steps.append(best.best_)
    if [_name(step) for step in given] != [_name(step) for step in steps]:
        raise RunError(f"a fitted {' → '.join(map(_name, given))} is no {' → '.join(map(_name, steps))}")
    for step, own in zip(given, steps, strict=True):
        if step.get_params() != own.get_params():
            edited.append(f"settings of {_name(own)}")
            own.set_params(**step.get_params())
        vars(own).update({name: value for name, value in vars(step).items() if name.endswith("_")})
    return edited, steps


def _steps(classifier):
    """Return the estimators that follow one another in a classifier, as a list."""
    return [step for _, step in classifier.steps] if hasattr(classifier, "steps") else [classifier]


def _name(step):
    """Return what a step is called: the name of its class; scikit-learn's linear SVM and ours are one."""
    return type(step).__name__.replace("LinearSVC", "LinearSvm")


def read(system, split, scans):
    """Return what a system looks at: uint8 (N, size, size, 3), one per row of the split."""
    size = system.settings["image_size"]
    if system.reads == "scan":
        return images.load(split.table["path"], size)
    paths = scans.table.set_index("image_id")["mask_paths"]
    masks = np.stack([images.small_mask(paths[name], size) for name in split.table["image_id"]])
    return np.repeat(masks[..., None].astype(np.uint8) * 255, 3, axis=-1)
