"""augmentation: the one affine layer against Keras' legacy ImageDataGenerator, under jit, and on JAX where it is."""

import os
import subprocess
import sys
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from keras.src.legacy.preprocessing.image import apply_affine_transform

from busilib.learning.augmentation import RandomAffine, matrices

STILL = np.array([[0, 0, 1, 1]], "float32")


def pictures(n=6, size=24, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (n, size, size, 3)).astype("float32")


def scans(size):
    """Pictures that are as smooth as scans: noise would magnify what float32 rounds in the coordinates."""
    return np.asarray(keras.ops.image.resize(pictures(), (size, size)))


def legacy(image, theta, shear, zx, zy):
    axes = {"row_axis": 0, "col_axis": 1, "channel_axis": 2, "fill_mode": "nearest"}
    return apply_affine_transform(image, theta=theta, shear=shear, zx=zx, zy=zy, **axes)


@pytest.mark.parametrize("settings", [{}, {"rotation": 90, "shear": 30, "zoom": 0.4}])
@pytest.mark.parametrize("size", [64, 150])
def test_it_is_what_image_data_generator_did(settings, size):
    layer = RandomAffine(seed=1, **settings)
    images = scans(size)
    parameters = np.asarray(layer.draw(len(images)))
    moved = np.asarray(layer.transform(images, parameters))
    for image, ours, drawn in zip(images, moved, parameters, strict=True):
        assert abs(ours - legacy(image, *drawn)).max() < 1e-3
        assert abs(ours - image).max() > 10, "nothing moved"


@pytest.mark.parametrize("one", [(20, 0, 1, 1), (0, 20, 1, 1), (0, 0, 0.8, 1), (0, 0, 1, 1.2)])
def test_each_parameter_alone_is_the_legacy_one(one):
    image = pictures(1)
    moved = np.asarray(RandomAffine().transform(image, np.array([one], "float32")))[0]
    assert abs(moved - legacy(image[0], *one)).max() < 1e-3


def test_shear_of_a_fifth_of_a_degree_hardly_moves_anything():
    # Paper B's shear_range=0.2 is in degrees: at the border of 150 pixels it is a quarter of a pixel.
    a, b, c, d, e, f, *_ = np.asarray(matrices(np.array([[0, 0.2, 1, 1]], "float32"), 150, 150))[0]
    corners = np.array([[0, 0], [149, 0], [0, 149], [149, 149]])
    moved = np.stack([corners @ [a, b] + c, corners @ [d, e] + f], axis=1) - corners
    assert 0.2 < abs(moved).max() < 0.3


def test_standing_still_is_the_input_also_when_not_square():
    images = pictures(2)[:, :, :17]
    moved = RandomAffine().transform(images, np.repeat(STILL, 2, axis=0))
    np.testing.assert_allclose(moved, images, atol=1e-3)


def test_a_rotation_is_about_the_centre_also_when_not_square():
    images = pictures(1)[:, :, :17]
    turned = np.asarray(RandomAffine().transform(images, np.array([[180, 0, 1, 1]], "float32")))
    np.testing.assert_allclose(turned, images[:, ::-1, ::-1], atol=0.05)


def test_the_border_is_repeated_and_no_new_value_appears():
    flat = np.full((1, 20, 20, 3), 77, "float32")
    np.testing.assert_allclose(RandomAffine(seed=0)(flat, training=True), flat, atol=1e-3)


def test_only_training_moves_and_every_image_on_its_own():
    layer, same = RandomAffine(seed=0), np.repeat(pictures(1), 3, axis=0)
    assert (np.asarray(layer(same)) == same).all() and (np.asarray(layer(same, training=False)) == same).all()
    moved = np.asarray(layer(same, training=True))
    assert abs(moved[0] - moved[1]).max() > 1 and abs(moved[1] - moved[2]).max() > 1
    assert layer(same.astype("uint8"), training=True).dtype == "float32"


def test_the_seed_fixes_the_draws_and_each_call_draws_anew():
    first, second, other = RandomAffine(seed=5), RandomAffine(seed=5), RandomAffine(seed=6)
    one, again = np.asarray(first.draw(4)), np.asarray(first.draw(4))
    assert (one == np.asarray(second.draw(4))).all() and (again == np.asarray(second.draw(4))).all()
    assert (one != again).any() and (one != np.asarray(other.draw(4))).any()


def test_draws_fill_the_ranges_of_table_1():
    drawn = np.asarray(RandomAffine(seed=0).draw(4000))
    low, high = np.array([-20, -0.2, 0.8, 0.8]), np.array([20, 0.2, 1.2, 1.2])
    assert (drawn >= low - 1e-6).all() and (drawn <= high + 1e-6).all()
    span = high - low
    assert (drawn.min(axis=0) < low + 0.01 * span).all() and (drawn.max(axis=0) > high - 0.01 * span).all()
    assert abs(drawn.mean(axis=0) - (low + high) / 2).max() < 0.5
    assert abs(np.corrcoef(drawn[:, 2], drawn[:, 3])[0, 1]) < 0.05, "the two zooms are independent"


def test_it_trains_inside_a_compiled_model():
    layer = RandomAffine(seed=0)
    model = keras.Sequential([layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse", jit_compile="auto")
    before = np.asarray(layer.random.state)
    assert np.isfinite(model.fit(pictures() / 255, np.ones(6), epochs=1, verbose=0).history["loss"]).all()
    assert (np.asarray(layer.random.state) != before).any(), "no draw was made while training"
    assert model.predict(pictures(), verbose=0).shape == (6, 1)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow's graphs")
def test_in_a_tensorflow_graph_it_draws_in_every_call():
    import tensorflow

    layer = RandomAffine(seed=0)
    step = tensorflow.function(lambda images: layer(images, training=True))
    images = pictures()
    assert abs(np.asarray(step(images)) - np.asarray(step(images))).max() > 1
    assert not layer.supports_jit, "XLA has no kernel for it there: jit_compile='auto' must leave it out"


def test_it_survives_saving(tmp_path):
    layer = RandomAffine(rotation=5, shear=1, zoom=0.1, fill_mode="constant", seed=3, name="move")
    copy = RandomAffine.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert (np.asarray(copy.draw(3)) == np.asarray(RandomAffine(5, 1, 0.1, seed=3).draw(3))).all()
    model = keras.Sequential([keras.Input((8, 8, 3)), layer])
    model.save(tmp_path / "a.keras")
    assert keras.models.load_model(tmp_path / "a.keras").layers[0].get_config() == layer.get_config()


ON_JAX = """
import os, jax, keras, numpy as np
from busilib.learning.augmentation import RandomAffine
from keras.src.legacy.preprocessing.image import apply_affine_transform
assert keras.backend.backend() == "jax"
images = np.random.default_rng(0).uniform(0, 255, (3, 24, 24, 3)).astype("float32")
layer = RandomAffine(seed=1)
drawn = np.asarray(layer.draw(3))
moved = np.asarray(jax.jit(layer.transform)(images, drawn))
for image, ours, (theta, shear, zx, zy) in zip(images, moved, drawn):
    old = apply_affine_transform(image, theta=theta, shear=shear, zx=zx, zy=zy, row_axis=0, col_axis=1,
                                 channel_axis=2, fill_mode="nearest")
    assert abs(ours - old).max() < 1e-3, abs(ours - old).max()
assert layer.supports_jit
model = keras.Sequential([layer, keras.layers.Flatten(), keras.layers.Dense(1)])
model.compile(optimizer="sgd", loss="mse", jit_compile=True)
model.fit(images / 255, np.ones(3), verbose=0)
"""


@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed: pip install busi-notebooks[jax]")
def test_on_jax_and_under_its_jit():
    done = subprocess.run(
        [sys.executable, "-c", ON_JAX],
        env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_grey_scans_are_moved_in_one_channel_with_the_same_result():
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (5, 20, 24, 1), dtype=np.uint8), 3, axis=-1)
    colour = grey.copy()
    colour[0, 0, 0] = (255, 0, 0)
    one, three = RandomAffine(seed=4).moved(grey), RandomAffine(seed=4).moved(colour)
    assert one.dtype == np.uint8 and one.shape == grey.shape
    np.testing.assert_array_equal(one[1:], three[1:])
    assert (one != grey).any() and len(RandomAffine(seed=4).moved(grey[:0])) == 0
