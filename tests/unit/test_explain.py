"""Filters, feature maps and Grad-CAM, on tiny models whose answers are known in closed form."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from busilib import explain

# What runs on any backend: the tests call it, and so does a child process with JAX.
CHECK = """
import numpy as np
from busilib import explain
from busilib.learning import keras
L = keras.layers


def tiny(seed=0):
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((8, 8, 3), dtype="uint8", name="pixels")
    prepare = keras.Model(pixels, L.Rescaling(1 / 255)(pixels), name="preprocessing")
    x = keras.Input((8, 8, 3))
    stage = L.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="stage")(x)
    out = L.Activation("linear", name="again")(stage)
    base = keras.Model(x, out, name="base")
    head = keras.Sequential(
        [keras.Input((4, 4, 4)), L.GlobalAveragePooling2D(), L.Dense(3, activation="softmax")], name="head"
    )
    whole = keras.Input((8, 8, 3), dtype="uint8")
    return keras.Model(whole, head(base(prepare(whole), training=False)))


def cam(model, pixels, classes):
    # Zhou et al. 2016: after global average pooling the map is the sum of the feature maps times the class's weights.
    features = explain.feature_maps(model, pixels, ["stage"])["stage"]
    kernel = np.asarray(model.get_layer("head").layers[-1].get_weights()[0])
    maps = np.maximum(np.einsum("nhwk,nk->nhw", features, kernel[:, classes].T), 0)
    highest = maps.max(axis=(1, 2), keepdims=True)
    return maps / np.where(highest > 0, highest, 1)


def check():
    model = tiny()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype="uint8")
    predicted = model.predict(pixels, verbose=0).argmax(axis=1)
    other = (predicted + 1) % 3
    for layer in (None, "stage"):
        maps = explain.grad_cam(model, pixels, layer=layer)
        np.testing.assert_allclose(maps, cam(model, pixels, predicted), atol=1e-5)
        maps = explain.grad_cam(model, pixels, other, layer)
        np.testing.assert_allclose(maps, cam(model, pixels, other), atol=1e-5)
    return model, pixels
"""
space = {}


@pytest.fixture(scope="module")
def tiny():
    exec(CHECK, space)
    return space["check"]()


def test_grad_cam_is_the_class_activation_map_after_global_average_pooling(tiny):
    model, pixels = tiny  # `check` has compared them
    maps = explain.grad_cam(model, pixels, 2)
    assert maps.shape == (40, 4, 4) and maps.dtype == np.float32
    assert maps.min() >= 0 and set(np.round(maps.max(axis=(1, 2)), 6)) <= {0, 1}


def test_grad_cam_on_jax():
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed: it is an extra")
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", CHECK + "check()"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_map_without_positive_values_stays_zero(tiny):
    model, pixels = tiny
    dense = model.get_layer("head").layers[-1]
    kept = dense.get_weights()
    dense.set_weights([-np.abs(kept[0]), kept[1]])
    assert not explain.grad_cam(model, pixels).any()
    dense.set_weights(kept)


def test_the_gradient_is_of_the_score_before_the_softmax(tiny):
    # A head that is very sure has a flat softmax; the map must not fade with it.
    model, pixels = tiny
    dense = model.get_layer("head").layers[-1]
    kept, before = dense.get_weights(), explain.grad_cam(model, pixels, 1)
    dense.set_weights([kept[0], kept[1] + np.array([0, 1e4, 0])])
    np.testing.assert_allclose(explain.grad_cam(model, pixels, 1), before, atol=1e-5)
    dense.set_weights(kept)


def test_layers_that_do_not_exist_or_can_be_passed_by_are_refused(tiny):
    model, pixels = tiny
    with pytest.raises(ValueError, match="'nowhere' is no layer of the base; its last one is 'again'"):
        explain.grad_cam(model, pixels, layer="nowhere")
    keras = space["keras"]
    x = keras.Input((8, 8, 3))
    side = keras.layers.Conv2D(3, 1, name="side")(x)
    base = keras.Model(x, keras.layers.Add()([x, side]), name="base")
    head = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)], name="head")
    whole = keras.Input((8, 8, 3), dtype="uint8")
    skipped = keras.Model(whole, head(base(model.get_layer("preprocessing")(whole))))
    with pytest.raises(ValueError, match="a path leads past the layer 'side': name the end of a stage"):
        explain.grad_cam(skipped, pixels[:2], layer="side")


def test_first_filters_and_feature_maps(tiny):
    model, pixels = tiny
    assert explain.first_filters(model).shape == (3, 3, 3, 4)
    both = explain.feature_maps(model, pixels[:2], ["stage", "again"])
    assert both["stage"].shape == (2, 4, 4, 4)
    np.testing.assert_array_equal(both["stage"], both["again"])


def test_peaks_are_the_middles_of_the_strongest_cells():
    maps = np.zeros((2, 4, 2))
    maps[0, 3, 1] = 1
    np.testing.assert_allclose(explain.peaks(maps), [[0.875, 0.75], [np.nan, np.nan]])


def test_peak_inside():
    maps, masks = np.zeros((3, 2, 2)), np.zeros((3, 10, 20), dtype=bool)
    maps[:2, 1, 0] = 1  # the middle of that cell is at row 7.5 of 10, column 5 of 20
    masks[0, 7, 5] = masks[2, :, :] = True
    assert explain.peak_inside(maps, masks).tolist() == [True, False, False]  # the third map has no peak
    with pytest.raises(ValueError, match="3 maps but 2 masks"):
        explain.peak_inside(maps, masks[:2])


def test_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    a, b = np.random.default_rng(0).integers(0, 5, (2, 6, 4, 4)).astype(float)  # with ties
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(explain.rank_correlation(a, b), expected)
    np.testing.assert_allclose(explain.rank_correlation(a, a * 2 + 1), 1)
    assert np.isnan(explain.rank_correlation(np.zeros((1, 2, 2)), a[:1, :2, :2])).all()
    with pytest.raises(ValueError, match="cannot be compared"):
        explain.rank_correlation(a, b[:2])
