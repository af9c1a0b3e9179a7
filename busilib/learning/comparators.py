"""Every system that the two papers compare themselves with, and three baselines, as scikit-learn classifiers.

run = comparators.run("capsule", scans, split, profile=PROFILE, seed=SEED)   # fitted, tested, kept as a run folder
capsules = comparators.get("capsule", PROFILE).estimator(seed=SEED)          # by hand: fit(X, y), predict_proba(X)

X are uint8 pixels (N, size, size, 3), y class numbers (N,) in class order; ``clone`` and ``cross_val_predict`` work.
The function or class that makes a system says where it comes from, what is known of it and what was chosen here.
"""

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import sha256
from inspect import signature
from itertools import product
from types import SimpleNamespace

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

from busilib.data import images, shapes, splits
from busilib.errors import RunError, WeightsError
from busilib.learning import features, models, networks
from busilib.recipes import CLASSES, _one_of
from busilib.runs import PROBABILITIES, Trained, find_or_train

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
    """Return the twelve shape features (N, 12) of masks, as `busilib.data.shapes` measures them."""
    return np.array([shapes.features(image[..., 0] > 0) for image in pixels])


def mask_forest(trees=500, seed=0):
    """Return a random forest on the shape of the ground-truth mask: a warning, not a comparator.

    It never sees a scan. A radiologist drew its input, and drew nothing for a normal scan: the answer is in it.
    known: that masks were inputs in paper B. chosen: `busilib.data.shapes.FEATURES`.
    """
    return make_pipeline(FunctionTransformer(mask_shapes), RandomForestClassifier(trees, random_state=seed))


@lru_cache(maxsize=1)
def frozen_base(backbone, weights, image_size, seed):
    """Return (base, sha256): uint8 pixels to globally averaged feature maps (N, channels), and its weights' hash."""
    chosen = models.find_weights(weights, backbone)
    base = models.backbone(backbone, image_size, chosen, seed)
    base.trainable = False
    # LEAD: what models.preprocessing asks for.
    recipe = SimpleNamespace(backbone=backbone, image_size=image_size, preprocessing="own")
    prepare = models.preprocessing(recipe, chosen)
    averages = keras.layers.GlobalAveragePooling2D(name="average")(base(prepare.output))
    digest = sha256(b"".join(weight.tobytes() for weight in base.get_weights()))
    return keras.Model(prepare.input, averages, name="frozen_base"), digest.hexdigest()


@networks.estimator
class FrozenFeatures(TransformerMixin, BaseEstimator):
    """Pixels to the globally averaged feature maps (N, channels) of a frozen base from keras.applications.

    ``weights``: "imagenet", "phantom", "none" or a file, as in `models.find_weights`. The base is not saved with it: it
    is found again by these settings, and must then be the same.
    """

    backbone: str
    weights: str = "imagenet"
    image_size: int = 224
    seed: int = 0

    def base(self):
        """Return the Keras model, and its hash."""
        return frozen_base(self.backbone, self.weights, self.image_size, self.seed)

    def fit(self, X=None, y=None):
        """Look the base up: nothing is learned from X."""
        self.sha256_ = self.base()[1]
        return self

    def transform(self, X):
        """Return the features, float32: computed once per image, then found in the user's cache."""
        base, digest = self.base()
        if digest != self.sha256_:
            raise WeightsError(f"{self.backbone}: this is not the base that the system was trained on: other weights")
        return features.load(base, X)  # LEAD: training.features


@networks.estimator
class OnFeatures(networks.Classifier):
    """Features, and the one of some classifiers that does best with them on the validation set (of equals the first).

    A Pipeline would hand the validation set on without making features of it.
    """

    features: object
    candidates: tuple
    seed: int = 0

    def fit(self, X, y, validation=None, groups=None):
        """Learn. ``validation`` (X, y) only chooses; without it a fifth of X does, whole ``groups`` (N,) held out."""
        (X, y), (held_out, truth) = networks.parts(X, y, validation, groups, self.seed)
        self.features_ = clone(self.features)
        x, validation = self.features_.fit_transform(X), (self.features_.transform(held_out), truth)
        fitted = [clone(candidate).fit(x, y, validation) for candidate in self.candidates]
        self.best_ = max(fitted, key=lambda candidate: candidate.score(*validation))
        self.history_ = getattr(self.best_, "history_", NO_EPOCHS)
        return self

    def predict_proba(self, X):
        return self.best_.predict_proba(self.features_.transform(X))


class LinearSvm(LinearSVC):
    """scikit-learn's linear SVM; its probabilities are the softmax of its decision values, its decisions the same."""

    def predict_proba(self, X):
        return softmax(self.decision_function(X), axis=1)


def svm(image_size=224, backbone="ResNet50", c=1.0, weights="imagenet", seed=0):
    """Return a linear SVM on ResNet50's features.

    Source: Ismael & Sengur, Expert Systems with Applications 164 (2021) 114054, 94.7 % on chest X-rays.
    known: frozen ResNet50, linear SVM. chosen: global average, standardised features, C = 1, one class against the
    rest; probabilities are the softmax of the decision values, which leaves the SVM's decisions as they are.
    """
    base = FrozenFeatures(backbone, weights, image_size, seed)
    return make_pipeline(base, StandardScaler(), LinearSvm(C=c, max_iter=100_000, random_state=seed))


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

    def fit(self, X, y, validation=None, groups=None):
        """Draw the hidden layer and solve for the output weights; validation and groups are of no use here."""
        rng = np.random.default_rng(self.seed)
        # Divided by √F so that a sum over many standardised features stays where the sigmoid bends.
        self.weights_ = rng.normal(size=(X.shape[1], self.width)) / np.sqrt(X.shape[1])
        self.bias_ = rng.uniform(-1, 1, size=self.width)
        self.output_ = solve(self.hidden(X), np.eye(len(CLASSES))[y], self.ridge)
        return self

    def predict_proba(self, X):
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
    return OnFeatures(make_pipeline(base, StandardScaler()), tried, seed)


@networks.estimator
class SoftmaxHead(networks.Network):
    """BatchNormalization and one softmax layer, trained on features (N, F)."""

    def build(self, shape):
        values = keras.Input(shape, name="features")
        answer = networks.softmax(networks.norm()(values))
        return keras.Model(values, answer, name="head"), answer


def inception(
    image_size=224, backbone="InceptionResNetV2", epochs=100, batch_size=32, learning_rate=1e-3, patience=10,
    weights="imagenet", seed=0,
):  # fmt: skip
    """Return Inception-ResNet-v2, frozen, with a softmax layer on its averaged features.

    Source: Badawy et al., ITC-Egypt (2021), as paper B cites it: 82.93 %. known: frozen transfer from
    Inception-ResNet-v2. chosen: global average, BatchNormalization, one softmax layer, Adam.
    """
    base = FrozenFeatures(backbone, weights, image_size, seed)
    return OnFeatures(base, (SoftmaxHead(epochs, batch_size, learning_rate, patience, seed),), seed)


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


# name: (title, what makes it, image size at full profile, what the quick profile makes smaller).
_EPOCHS = {"image_size": 48, "epochs": 12}
_TABLE = {
    "majority": ("majority class", majority, 32, {}),
    "nearest": ("1-nearest neighbour, pixels", nearest, 32, {}),
    "logistic": ("logistic regression, thumbnails", logistic, 32, {}),
    "svm": ("SVM on ResNet50 features", svm, 224, {"image_size": 64}),
    "forest": ("random forest", forest, 128, {"image_size": 64, "trees": 200}),
    "capsule": ("convolutional capsule network", networks.Capsules, 128, _EPOCHS),
    "bcdnet": ("BCDNet", bcdnet, 224, {"image_size": 64}),
    "ensemble": ("Gaussian-dropout stacked ensemble", networks.Ensemble, 128, _EPOCHS | {"folds": 2}),
    "enas": ("ENAS-style cells", networks.Cells, 128, {"image_size": 48, "epochs": 10, "stack": "NRN", "width": 12}),
    "lenet": ("LeNet-like CNN", networks.LeNet, 224, {"image_size": 48, "epochs": 15}),
    "inception": ("Inception-ResNet-v2, plain head", inception, 224, {"image_size": 75, "epochs": 30}),
    "shape": ("random forest on the mask's shape", mask_forest, 128, {"trees": 200}),
}


def _system(name, profile):
    title, make, image_size, quick = _TABLE[name]
    values = {key: item.default for key, item in signature(make).parameters.items() if key not in ("weights", "seed")}
    values |= {"image_size": image_size} | (quick if profile == "quick" else {})
    return System(name, title, make, values, "mask" if make is mask_forest else "scan")


SYSTEMS = {name: _system(name, "full") for name in _TABLE}


def get(name, profile="quick", *, title=None, **changes):
    """Return a `System` with a profile's settings; ``changes`` replace single ones, ``title`` is what it is anyway.

    Raises ValueError for a name, profile or setting that does not exist.
    """
    _one_of("system", name, SYSTEMS)
    _one_of("PROFILE", profile, ("quick", "full"))
    system = _system(name, profile)
    for change in changes:
        _one_of(f"setting of {name}", change, system.settings)
    changes = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}  # from JSON
    return replace(system, settings=system.settings | changes)


def folds(scans, count=5, seed=0, protocol="clean"):
    """Return the splits of a grouped, stratified cross-validation: each scan is tested in just one of them.

    ``protocol="paper"`` gives paper A's single split instead, whose test set is its validation set as well. Raises
    SplitError when a class has fewer images (near-identical ones counted once) than there are folds, or when a set of
    a fold is without one of the classes.
    """
    if protocol == "paper":
        return [splits.paper_a(scans, seed)]
    networks.check_folds(scans.table["label"].map(CLASSES.index), scans.table["group"], count)
    return [check_parts(splits.clean(scans, fold, count, seed)) for fold in range(count)]


def check_parts(split):
    """Return the split; raise SplitError when one of its parts is without one of the classes."""
    for part in splits.PARTS:
        networks.check_classes(split.part(part)["label"].map(CLASSES.index), f"{split.name}: the {part} set")
    return split


def check_probabilities(probabilities, count, who):
    """Return ``probabilities`` as float64 (count, 3); raise RunError when they are none.

    They must be finite, in [0, 1], and sum to 1 for each image (within 1e-3).
    """
    values = np.asarray(probabilities, dtype=float)
    bad = ~np.isfinite(values).all(axis=-1)
    if bad.any():
        raise RunError(
            f"{who} gave NaN or infinite probabilities for {bad.sum()} of {count} images: its training diverged, or "
            "its features are not numbers. Lower the learning rate, or look at its inputs. Nothing was kept."
        )
    if values.shape != (count, 3) or (values < -1e-6).any() or (np.abs(values.sum(axis=1) - 1) > 1e-3).any():
        raise RunError(f"{who} gave no probabilities: there must be three per image, in [0, 1], that sum to 1")
    return values


def run(name, scans, split, *, profile="quick", weights="auto", seed=0, runs="auto", **changes):
    """Return the Run of a system on a split: a finished one with the same key, else it is trained now.

    ``weights`` is for systems with a frozen base: "auto", "imagenet", "phantom", "none" or a file, as in
    `models.find_weights`. ``changes`` replace single settings of the profile.
    """
    system = get(name, profile, **changes)
    chosen = models.Weights("none", "No pretrained weights: all is learned here.")
    if "backbone" in system.settings:
        chosen = models.find_weights(weights, system.settings["backbone"], scans.name, profile)  # LEAD: scans.kind
    # LEAD: without the callback
    return find_or_train(system, scans, split, partial(train, scans=scans), weights=chosen, seed=seed, runs=runs)


def train(system, split, *, scans, weights, seed=0, start=None):
    """Fit a system on a split and return a `busilib.runs.Trained`.

    Raises SplitError when a part is without a class, RunError when what the system says is no probability.
    """
    check_parts(split)
    table = split.table[["file_id", "image_id", "kind", "split", "label"]].reset_index(drop=True)
    X, y = read(system, split, scans), table["label"].map(CLASSES.index).to_numpy()
    rows = {part: table["file_id"].isin(split.part(part)["file_id"]).to_numpy() for part in ("train", "validation")}
    classifier, more = system.estimator(weights.path if weights.kind == "file" else weights.kind, seed), {}
    if has_fit_parameter(classifier, "validation"):
        more = {"validation": (X[rows["validation"]], y[rows["validation"]])}
        more["groups"] = split.table["group"].to_numpy()[rows["train"]]
    classifier.fit(X[rows["train"]], y[rows["train"]], **more)
    probabilities = check_probabilities(classifier.predict_proba(X), len(X), f"{system.title} ({split.name})")
    table[PROBABILITIES] = probabilities.round(6)
    history = getattr(classifier, "history_", NO_EPOCHS)
    counts = map(int, parameters(classifier))
    info = {"epochs_run": len(history)} | dict(zip(("parameters", "parameters_trained"), counts, strict=True))
    # A system that is one Keras network is saved as that.
    return Trained(getattr(classifier, "network_", classifier), history, table, info)


def read(system, split, scans):
    """Return what a system looks at: uint8 (N, size, size, 3), one per row of the split."""
    size = system.settings["image_size"]
    if system.reads == "scan":
        return images.load(split.table["path"], size)
    paths = scans.table.set_index("image_id")["mask_paths"]
    masks = np.stack([shapes.small_mask(paths[name], size) for name in split.table["image_id"]])
    return np.repeat(masks[..., None].astype(np.uint8) * 255, 3, axis=-1)


def parameters(fitted):
    """Return [all, learned]: how many numbers a fitted system keeps, and how many of them were learned.

    The nodes of a forest count as its numbers, and the pixels that a nearest neighbour keeps.
    """
    if isinstance(fitted, keras.Model):
        return np.array([fitted.count_params(), sum(np.prod(weight.shape) for weight in fitted.trainable_weights)])
    if isinstance(fitted, FrozenFeatures):
        return np.array([fitted.base()[0].count_params(), 0])
    size = lambda *names: sum(np.size(getattr(fitted, name, ())) for name in names)  # noqa: E731
    learned = size("coef_", "intercept_", "mean_", "scale_", "class_prior_", "output_")
    learned += sum(tree.tree_.node_count for tree in getattr(fitted, "estimators_", ()))
    learned += getattr(fitted, "n_samples_fit_", 0) * getattr(fitted, "n_features_in_", 0)
    inside = [step for _, step in getattr(fitted, "steps", ())] + sum(getattr(fitted, "members_", []), [])
    inside += [vars(fitted)[name] for name in ("network_", "features_", "best_", "judge_") if hasattr(fitted, name)]
    return sum(map(parameters, inside), np.array([learned + size("weights_", "bias_"), learned]))
