"""training: views, the epoch that is restored, what is trained, features computed once, and what is not saved."""

import io
import zipfile

import numpy as np
import pandas as pd
import pytest

from busilib import recipes
from busilib.data import images, splits
from busilib.learning import keras, models, training
from busilib.recipes import PROBABILITIES

NONE = models.Weights("none", "random")


def recipe(name="A-frozen", **changes):
    return recipes.get(name, **{"backbone": "Tiny", "image_size": 32, "epochs": 2, "dense": (8,)} | changes)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch, phantoms):
    """Features of these tests in a cache of their own; the phantoms come from the session's."""
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def split_a(phantoms):
    return splits.paper_a(phantoms)


@pytest.fixture(scope="module")
def split_b(phantoms):
    return splits.paper_b(phantoms)


class Settings:
    """Of a fit that shows what it was fed."""

    monitor, patience, epochs, batch_size = "loss", None, 7, 4


class FirstNumber(keras.layers.Layer):
    """Gives each input's number back; its weight is there so that there is something to train."""

    def build(self, shape):
        self.still = self.add_weight(shape=(), initializer="zeros")

    def call(self, inputs):
        return inputs[:, :1] + 0 * self.still


def test_epoch_e_sees_view_e_in_training_and_validation():
    """Each view's inputs are its number, and the loss is the mean of what came in."""
    n, views = 10, 3
    inputs, labels = np.repeat(np.arange(views, dtype="float32"), n)[:, None], np.zeros((n, 1), "float32")
    pixels = keras.Input((1,))
    model = keras.Model(pixels, FirstNumber()(pixels))
    model.compile("sgd", "mae")
    history = training.fit(model, Settings, (inputs, labels), (inputs, labels), seed=0)
    for column in ("loss", "val_loss"):
        start = int(history[column][0])  # JAX begins with another view
        assert history[column].tolist() == [(start + epoch) % views for epoch in range(7)], column


def epochs_of(batches, count):
    """Return what the first epochs of `training.batches` yield, each a list of (inputs, labels)."""
    epochs = []
    for _ in range(count):
        if not hasattr(batches, "as_numpy_iterator"):
            batches.on_epoch_begin()
            epochs.append([batches[step] for step in range(len(batches))])
        else:
            epochs.append(list(batches.as_numpy_iterator()))
    return epochs


def test_every_image_is_in_every_epoch_once_with_its_label():
    inputs = np.arange(10, dtype="float32")[:, None]
    labels = inputs * 2
    first, second = epochs_of(training.batches(inputs, labels, 4, seed=0), 2)
    assert [len(x) for x, _ in first] == [4, 4, 2]
    for epoch in (first, second):
        x, y = (np.concatenate(parts) for parts in zip(*epoch, strict=True))
        assert (y == 2 * x).all() and sorted(x.ravel()) == list(range(10))
    assert any((a[0] != b[0]).any() for a, b in zip(first, second, strict=True)), "each epoch has an order of its own"
    again = epochs_of(training.batches(inputs, labels, 4, seed=0), 1)[0]
    assert all((a[0] == b[0]).all() for a, b in zip(first, again, strict=True)), "the seed fixes the orders"
    still = np.concatenate([x for x, _ in epochs_of(training.batches(inputs, labels, 4), 1)[0]])
    assert (still == inputs).all()


def test_views_of_the_training_set_stand_one_after_the_other(split_b, tiny):
    files = split_b.part("train")
    settings, n = recipe("B-frozen", views=3, epochs=7), len(files)
    views = training.moved(settings, files, None, seed=0)
    assert views.shape == (3 * n, 32, 32, 3) and views.dtype == np.uint8
    assert (views[:n] != views[n : 2 * n]).any() and (views == training.moved(settings, files, None, seed=0)).all()
    assert (training.moved(recipe("B-frozen", views=3, epochs=2), files, None, 0) == views[: 2 * n]).all()


def test_best_epoch_is_the_first_best():
    history = pd.DataFrame(
        {"epoch": [1, 2, 3, 4], "val_loss": [3.0, 1.0, 1.0, 2.0], "val_accuracy": [0.1, 0.5, 0.9, 0.9]}
    )
    assert training.best_epoch(history, "val_loss") == 2
    assert training.best_epoch(history, "val_accuracy") == 3


@pytest.mark.parametrize(
    ("losses", "patience", "best"),
    [([3, 2, 1, 2, 2], None, 3), ([3, 2, 2.5, 2.5, 1], 2, 2), ([3, 2, 2.5, 1, 1.5], 2, 4), ([1, 1, 1], 1, 1)],
)
def test_the_epoch_that_early_stopping_would_restore(losses, patience, best):
    epochs = range(1, len(losses) + 1)
    history = pd.DataFrame({"epoch": epochs, "val_loss": losses, "val_accuracy": np.negative(losses)})
    assert training.best_epoch(history, "val_loss", patience) == best
    assert training.best_epoch(history, "val_accuracy", patience) == best


def separable(flip):
    """Return eight rows of noise whose class is the sign of the first number, or the other one."""
    rows = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    return rows, np.eye(3, dtype="float32")[((rows[:, 0] > 0) != flip).astype(int)]


@pytest.mark.parametrize(("name", "ran"), [("A-frozen", 3), ("B-frozen", 6)])
def test_fit_goes_back_to_the_best_epoch(name, ran):
    """What is right in training is wrong in validation, so the first epoch is the best. Paper B never stops early."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model.compile(optimizer=keras.optimizers.Adam(0.5), loss="categorical_crossentropy", metrics=["accuracy"])
    settings = recipe(name, monitor="val_loss", patience=2 if name == "A-frozen" else None, epochs=6)
    history = training.fit(model, settings, separable(False), separable(True), seed=0)
    assert history["epoch"].tolist() == list(range(1, ran + 1))
    assert training.best_epoch(history, "val_loss") == 1
    loss = model.evaluate(*separable(True), verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(history.loc[0, "val_loss"], rel=1e-5)


@pytest.mark.parametrize(("name", "unfreeze"), [("A-frozen", "none"), ("A-tuned", "last"), ("B-frozen", "all")])
def test_train(name, unfreeze, split_a, split_b, tiny, tmp_path):
    split = split_a if name[0] == "A" else split_b
    settings = recipe(name, unfreeze=unfreeze, views=2)
    trained = training.train(settings, split, weights=NONE, seed=3)
    table = trained.predictions
    assert table["file_id"].tolist() == split.table["file_id"].tolist()
    assert table.columns.tolist() == ["file_id", "image_id", "kind", "split", "label", *PROBABILITIES]
    np.testing.assert_allclose(table[PROBABILITIES].sum(axis=1), 1, atol=5e-6)
    info = trained.info
    assert info["steps_per_epoch"] == -(-len(split.part("train")) // settings.batch_size)
    assert info["epochs_run"] == len(trained.history) == 2
    assert info["epoch_kept"] == training.best_epoch(trained.history, settings.monitor)
    assert trained.history.columns.tolist() == ["epoch", "accuracy", "loss", "val_accuracy", "val_loss"]
    assert info["parameters_trained"] < info["parameters"]
    # The model as a whole says the same as its two parts did, and carries no optimizer.
    trained.model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    pixels = images.load(split.table["path"], 32)
    np.testing.assert_allclose(loaded.predict(pixels, verbose=0), table[PROBABILITIES], atol=1e-4)
    assert not optimizer_in(tmp_path / "model.keras")


def optimizer_in(file):
    """Say whether a saved model holds an optimizer's state."""
    import h5py

    names = []
    with zipfile.ZipFile(file) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
        weights.visit(lambda name: names.append(name) if "optimizer" in name else None)
    return bool(names)


def test_an_optimizer_would_be_seen(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(optimizer="adam", loss="mse")
    model.fit(np.ones((2, 4)), np.ones((2, 3)), verbose=0)
    model.save(tmp_path / "a.keras")
    assert optimizer_in(tmp_path / "a.keras")


def test_it_learns(split_a, tiny):
    settings = recipe(epochs=15, dropout=0.0, learning_rate=1e-2, patience=15)
    history = training.train(settings, split_a, weights=NONE, seed=0).history
    assert history["loss"].min() < 0.7 * history["loss"].iloc[0]


def test_a_head_alone_is_what_train_gives_on_a_frozen_base(split_a, tiny):
    history, predictions = training.train_head(recipe(), split_a, weights=NONE, seed=0)
    whole = training.train(recipe(), split_a, weights=NONE, seed=0)
    pd.testing.assert_frame_equal(history, whole.history, rtol=1e-4)
    pd.testing.assert_frame_equal(predictions, whole.predictions, atol=1e-5)
    other = training.train_head(recipe(), split_a, weights=NONE, seed=1)[1]
    assert (predictions[PROBABILITIES] - other[PROBABILITIES]).abs().to_numpy().max() > 1e-3


def test_a_head_alone_refuses_a_base_that_moves(split_a, tiny):
    with pytest.raises(ValueError, match="stands on a frozen base"):
        training.train_head(recipe(unfreeze="block"), split_a, weights=NONE)


def test_a_whole_network_sees_moved_pixels_in_training_only(tiny):
    """The augmentation is a part of the training step: the inputs stay, what the network sees does not."""
    pixels = keras.Input((32, 32, 3), dtype="uint8")
    mean = keras.Model(pixels, keras.ops.mean(keras.ops.cast(pixels, "float32"), axis=(1, 2)))
    moving = models.augmented(mean, training.RandomAffine(seed=0))
    scans = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    still = np.asarray(mean(scans))
    np.testing.assert_array_equal(np.asarray(moving(scans, training=False)), still)
    first, second = (np.asarray(moving(scans, training=True)) for _ in range(2))
    assert np.abs(first - still).max() > 0.5 and np.abs(first - second).max() > 0.5


def frozen_part(seed=0, **changes):
    settings = recipe(**changes)
    return models.parts(models.build(settings, NONE, seed), settings)[0]


def pixels_of(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def test_features_are_computed_once_per_image(tiny, monkeypatch):
    frozen, asked, predict = frozen_part(), [], training.predict
    monkeypatch.setattr(training, "predict", lambda model, x: asked.append(len(x)) or predict(model, x))
    few, more = pixels_of(5), np.concatenate([pixels_of(3, seed=1), pixels_of(5)])
    first = training.features(frozen, np.concatenate([few, few[:1]]))
    again = training.features(frozen, more)
    assert asked == [5, 3], "a copy is computed once, and only what is missing"
    assert (again[3:] == first[:5]).all() and (first[5] == first[0]).all() and first.dtype == np.float32
    np.testing.assert_allclose(again, frozen.predict(more, verbose=0), atol=1e-5)


def test_the_key_tells_apart_what_gives_other_features(tiny):
    same = training.features_key(frozen_part())
    assert same == training.features_key(frozen_part()), "built again with the same seed, it is the same"
    others = [frozen_part(seed=1), frozen_part(preprocessing="own"), frozen_part(unfreeze="block")]
    assert len({same, *map(training.features_key, others)}) == 4
