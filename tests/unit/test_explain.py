"""Filters, feature maps and Grad-CAM, on tiny models whose answers are known in closed form."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from busilib import explain
from busilib.learning import keras

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype="uint8")
L = keras.layers


def model_of(x, out, tail):
    """A model as the library builds them: preprocessing, base (from x to out), head (tail: its layers)."""
    base, pixels = keras.Model(x, out, name="base"), keras.Input((8, 8, 3), dtype="uint8")
    prepare = keras.Model(pixels, L.Rescaling(1 / 255)(pixels), name="preprocessing")
    head = keras.Sequential([keras.Input(out.shape[1:]), *tail, L.Dense(3, activation="softmax")], name="head")
    return keras.Model(pixels, head(base(prepare(pixels), training=False)))


@pytest.fixture
def tiny():
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3))
    stage = L.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="stage")(x)
    return model_of(x, L.Activation("linear", name="again")(stage), [L.GlobalAveragePooling2D()])


def test_maps_follow_the_weights(tiny):
    """What is remembered of a model is how it is split, not its weights."""
    before, dense = explain.grad_cam(tiny, PIXELS, 1), tiny.get_layer("head").layers[-1]
    dense.set_weights([-values for values in dense.get_weights()])
    after = explain.grad_cam(tiny, PIXELS, 1)
    assert not np.allclose(before, after)
    explain._split.cache_clear()
    np.testing.assert_array_equal(explain.grad_cam(tiny, PIXELS, 1), after)


@pytest.mark.parametrize("layer", [None, "stage"])
def test_grad_cam_is_the_class_activation_map_after_global_average_pooling(tiny, layer):
    """Zhou et al. 2016: it is the sum of the feature maps times the class's weights."""
    base, prepare = tiny.get_layer("base"), tiny.get_layer("preprocessing")
    stage = keras.Model(base.input, base.get_layer("stage").output)
    features = stage.predict(prepare.predict(PIXELS, verbose=0), verbose=0)
    predicted = tiny.predict(PIXELS, verbose=0).argmax(axis=1)
    for asked, classes in ((None, predicted), (2, np.full(40, 2)), ((predicted + 1) % 3, (predicted + 1) % 3)):
        kernel = np.asarray(tiny.get_layer("head").layers[-1].get_weights()[0])[:, classes]
        expected = np.maximum(np.einsum("nhwk,kn->nhw", features, kernel), 0)
        expected /= np.maximum(expected.max(axis=(1, 2), keepdims=True), 1e-12)
        maps = explain.grad_cam(tiny, PIXELS, asked, layer)
        assert maps.dtype == np.float32
        np.testing.assert_allclose(maps, expected, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed: it is an extra")
def test_grad_cam_on_jax():
    chosen = ["-k", "class_activation_map and stage"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, *chosen]
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_maps_of_a_model_that_speaks_against_the_class_and_of_one_that_is_very_sure(tiny):
    dense = tiny.get_layer("head").layers[-1]
    (kernel, bias), before = dense.get_weights(), explain.grad_cam(tiny, PIXELS, 1)
    dense.set_weights([kernel, bias + np.array([0, 1e4, 0])])  # its softmax is flat, and the map must not fade with it
    np.testing.assert_allclose(explain.grad_cam(tiny, PIXELS, 1), before, atol=1e-5)
    dense.set_weights([-np.abs(kernel), bias])
    assert not explain.grad_cam(tiny, PIXELS).any()


def test_layers_that_do_not_exist_or_can_be_passed_by_are_refused(tiny):
    with pytest.raises(ValueError, match="nowhere"):
        explain.grad_cam(tiny, PIXELS, layer="nowhere")
    x = keras.Input((8, 8, 3))
    skipped = model_of(x, L.Add()([x, L.Conv2D(3, 1, name="side")(x)]), [L.Flatten()])
    with pytest.raises(ValueError, match="a path leads past the layer 'side': name the end of a stage"):
        explain.grad_cam(skipped, PIXELS, layer="side")


def test_peaks_are_the_middles_of_the_strongest_cells_inside_a_mask_or_not():
    maps, masks = np.zeros((3, 4, 2)), np.zeros((3, 10, 20), dtype=bool)
    maps[:2, 3, 1] = 1
    np.testing.assert_allclose(explain.peaks(maps), [[0.875, 0.75]] * 2 + [[np.nan, np.nan]])
    masks[0, 8, 15] = masks[2, :, :] = True
    assert explain.peak_inside(maps, masks).tolist() == [True, False, False]  # the third map has no peak
    with pytest.raises(ValueError, match="shorter"):
        explain.peak_inside(maps, masks[:2])
