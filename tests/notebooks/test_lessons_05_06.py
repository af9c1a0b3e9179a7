"""What lessons 05 and 06 write out is what the library, scipy and scikit-learn do."""

import keras
import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, multilabel_confusion_matrix

from busilib import explain, metrics
from tests.notebooks.test_written_out import functions


@pytest.fixture(scope="module")
def lesson_05():
    return functions("05", np=np, pd=pd, f1_score=f1_score)


def test_one_class_against_the_rest(lesson_05):
    matrix = np.array([[63, 3, 2], [4, 27, 0], [1, 0, 20]])
    truth, predicted = lesson_05["back_to_labels"](matrix)
    assert np.array_equal(metrics.confusion_matrix(truth, predicted), matrix)
    for k, ((TN, FP), (FN, TP)) in enumerate(multilabel_confusion_matrix(truth, predicted)):
        assert lesson_05["four_counts"](matrix, k) == {"TP": TP, "FN": FN, "FP": FP, "TN": TN}


@pytest.mark.parametrize("counts", [(0, 5), (27, 31), (20, 20), (1, 1), (113, 117)])
def test_wilson(lesson_05, counts):
    assert np.allclose(lesson_05["wilson"](*counts), metrics.wilson(*counts), atol=1e-4)


def test_bootstrap_over_groups_draws_as_the_library_does(lesson_05):
    rng = np.random.default_rng(1)
    groups, classes = rng.integers(12, size=30), np.array(["benign", "malignant", "normal"])
    truth, predicted = classes[rng.integers(3, size=(2, 30))]
    arguments = lesson_05["f1_malignant"], groups, truth, predicted
    low, high, draws = lesson_05["bootstrap"](*arguments, draws=50, seed=2)
    assert (low, high) == metrics.grouped_bootstrap(*arguments, draws=50, seed=2) and draws <= 50


@pytest.fixture(scope="module")
def small_network():
    """A network in the library's form: preprocessing, base, head."""
    keras.utils.set_random_seed(0)
    pixels, values, features = keras.Input((16, 16, 3)), keras.Input((16, 16, 3)), keras.Input((4, 4, 5))
    prepare = keras.Model(pixels, keras.layers.Rescaling(1 / 255)(pixels), name="preprocessing")
    inner = keras.layers.Conv2D(4, 3, 2, "same", activation="relu", name="inner")(values)
    base = keras.Model(values, keras.layers.Conv2D(5, 3, 2, "same", activation="relu")(inner), name="base")
    scores = keras.layers.Dense(3, "softmax", name="probabilities")(keras.layers.Flatten()(features))
    head = keras.Model(features, scores, name="head")
    return keras.Model(pixels, head(base(prepare(pixels))))


def test_grad_cam(small_network):
    parts = {name: small_network.get_layer(name) for name in ("base", "head")}
    lesson = functions("06", np=np, keras=keras, pd=pd, prepare=small_network.get_layer("preprocessing"), **parts)
    pixels = np.random.default_rng(0).integers(256, size=(6, 16, 16, 3), dtype=np.uint8)
    classes = np.array([0, 1, 2, 0, 1, 2])
    maps = explain.grad_cam(small_network, pixels, classes, "inner")
    lesson["gradient"] = lesson[f"gradient_by_{keras.backend.backend()}"]
    parts["head"].layers[-1].activation = None
    sums = lesson["weighted_sums"]("inner", pixels, classes)
    highest = sums.max(axis=(1, 2), keepdims=True)
    assert np.allclose(maps, np.where(highest > 0, sums.clip(0) / highest, 0), atol=1e-5)
    lesson["size"] = 16
    maps = maps[maps.max(axis=(1, 2)) > 0]  # the library gives a map of zeros no peak
    assert len(maps) and np.allclose(np.transpose(lesson["peaks"](maps)), 16 * explain.peaks(maps))


def test_the_maps_rank_correlation_is_spearmans():
    first, second = np.random.default_rng(0).integers(0, 5, (2, 6, 4, 4)).astype(float)  # with ties
    expected = [spearmanr(a, b, axis=None).statistic for a, b in zip(first, second, strict=True)]
    assert np.allclose(functions("06", pd=pd)["compare"](first, second), expected)
