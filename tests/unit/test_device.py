"""device: what is chosen for which chip, and that a shorter type trains but is never kept."""

from dataclasses import replace

import numpy as np
import pytest

from busilib import recipes
from busilib.data import splits
from busilib.learning import device, models, training
from busilib.runs import PROBABILITIES

import keras  # isort: skip  (after busilib.learning, which loads it quietly)

NONE = models.Weights("none", "random")
GPU = ("NVIDIA H100", 9.0)


def test_a_cpu_computes_in_float32_and_jit_is_jaxs():
    for backend, jit in (("tensorflow", False), ("jax", True)):
        own = device.choose(backend)
        assert (own.precision, own.jit_compile, own.predict_batch, own.steps_per_execution) == ("float32", jit, 64, 1)
        assert not own.accelerated and own.device.startswith("CPU")


def test_a_gpu_trains_in_bfloat16_where_it_has_it():
    assert device.choose("jax", *GPU).precision == "mixed_bfloat16"
    assert device.choose("jax", "Tesla T4", 7.5).precision == "float32"
    assert device.choose("jax", "unknown").precision == "float32"
    # jit of everything would fail on TensorFlow's projective transform.
    assert device.choose("tensorflow", *GPU).jit_compile == "auto" and device.choose("jax", *GPU).jit_compile is True


def test_an_execution_is_one_step_everywhere():
    """`Batches.epochs` is one generator for all epochs: more steps would take batches of the next epoch."""
    for own in (device.choose("tensorflow"), device.choose("tensorflow", *GPU), device.choose("jax", *GPU)):
        assert own.steps_per_execution == 1


def test_the_sentence_names_all_of_it():
    sentence = device.choose("jax", *GPU).sentence
    for part in ("jax", "NVIDIA H100", "mixed_bfloat16", "float32", "jit is on", "256"):
        assert part in sentence
    assert "float32, jit is off" in device.choose("tensorflow").sentence


def test_settings_are_those_of_this_process():
    own = device.settings()
    assert own is device.settings() and own.backend == keras.backend.backend()


@pytest.fixture
def gpu(monkeypatch):
    """A CPU that takes itself for a GPU with bfloat16."""
    own = replace(device.choose(keras.backend.backend(), *GPU), jit_compile=device.settings().jit_compile)
    monkeypatch.setattr(device, "settings", lambda: own)
    return own


def test_within_the_block_convolutions_compute_in_bfloat16_and_after_it_nothing_does(tiny):
    recipe = recipes.get("A-tuned", backbone=tiny, image_size=32, dense=(8,), unfreeze="all")
    model = models.build(recipe, NONE)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    before, settings = model.predict(pixels, verbose=0), model.get_config()
    _, trained = models.parts(model, recipe)
    trained.compile("sgd", "categorical_crossentropy")
    with pytest.raises(RuntimeError, match="on the way"), device.computing(trained, "mixed_bfloat16"):
        base, head = trained.get_layer("base"), trained.get_layer("head")
        assert str(keras.backend.standardize_dtype(base(np.zeros((1, 32, 32, 3), "float32")).dtype)) == "bfloat16"
        assert keras.backend.standardize_dtype(head.layers[-1].compute_dtype) == "float32", "softmax stays exact"
        mixed = trained.predict(pixels, verbose=0)
        raise RuntimeError("on the way out the policies are restored too")
    assert model.get_config() == settings and {str(w.dtype) for w in model.weights} == {"float32"}
    assert 0 < abs(mixed - before).max() < 0.05
    np.testing.assert_array_equal(trained.predict(pixels, verbose=0), before)


@pytest.mark.parametrize(("name", "unfreeze"), [("A-tuned", "last"), ("B-frozen", "all"), ("A-frozen", "none")])
def test_a_run_says_in_which_type_it_was_trained_and_its_model_is_float32(
    gpu, name, unfreeze, phantoms, tiny, tmp_path
):
    recipe = recipes.get(name, backbone=tiny, image_size=32, dense=(8,), epochs=2, unfreeze=unfreeze)
    split = splits.paper_a(phantoms) if name[0] == "A" else splits.paper_b(phantoms)
    trained = training.train(recipe, split, weights=NONE)
    told = trained.info["computing"]
    assert told["precision"] == ("float32" if unfreeze == "none" else "mixed_bfloat16")
    assert told["predict_batch"] == 256 and told["accelerated"]
    trained.model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert not [layer for layer in device.layers(loaded) if layer.compute_dtype != "float32"]
    pixels = training.images.load(split.table["path"], 32)
    np.testing.assert_allclose(loaded.predict(pixels, verbose=0), trained.predictions[PROBABILITIES], atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data feeds TensorFlow only")
def test_tf_data_does_not_tune_what_keras_reads(monkeypatch):
    """Its tuning thread may sleep through the end of a fit: see `busilib.learning`."""
    import tensorflow

    seen, start = [], tensorflow.data.Dataset.__iter__
    watch = lambda self: seen.append(self.options().autotune.enabled) or start(self)  # noqa: E731
    monkeypatch.setattr(tensorflow.data.Dataset, "__iter__", watch)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    rows = np.zeros((4, 2), "float32")
    model.fit(rows, rows[:, :1], validation_data=(rows, rows[:, :1]), verbose=0)
    model.predict(rows, verbose=0)
    assert len(seen) >= 3 and not any(enabled is not False for enabled in seen)
