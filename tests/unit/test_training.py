"""training: views, the epoch that is kept, what is trained, and what is not saved."""

import io
import zipfile

import numpy as np
import pandas as pd
import pytest

from busilib import recipes
from busilib.data import splits
from busilib.learning import models, training
from busilib.runs import PROBABILITIES

import keras  # isort: skip  (after busilib.learning, which loads it quietly)

NONE = models.Weights("none", "random")


def recipe(name="A-frozen", **changes):
    return recipes.get(name, **{"backbone": "Tiny", "image_size": 32, "epochs": 2, "dense": (8,)} | changes)


@pytest.fixture(scope="module")
def split_b(phantoms):
    return splits.paper_b(phantoms)


@pytest.fixture(scope="module")
def split_a(phantoms):
    return splits.paper_a(phantoms)


class Brightness:
    """Stands for a frozen part: a picture's mean, and how often it was asked."""

    calls = 0

    def predict(self, pixels, **options):
        self.calls += 1
        return pixels.mean(axis=(1, 2))


def test_epoch_e_sees_view_e(split_b, tiny):
    own, frozen = recipe("B-frozen", views=3, epochs=7), Brightness()
    views = training.Views(own, split_b.part("train"), frozen, seed=0, augment=True)
    seen = []
    for epoch in range(7):
        views.begin(epoch)
        seen.append(np.concatenate([views[i][0] for i in range(len(views))]))
    assert frozen.calls == 3, "each view is computed once"
    for epoch in range(7):
        for other in range(7):
            assert (seen[epoch] == seen[other]).all() == (epoch % 3 == other % 3)


def test_fit_shows_the_views_in_turn_to_training_and_validation(split_b, tiny, monkeypatch):
    fetched = []
    get = training.Views.__getitem__
    monkeypatch.setattr(training.Views, "__getitem__", lambda self, i: fetched.append((self, self.now)) or get(self, i))
    training.train(recipe("B-frozen", views=2, epochs=3), split_b, weights=NONE)
    for shuffle in (True, False):
        batches = [(views, now) for views, now in fetched if views.shuffle == shuffle]
        seen = [next(k for k, kept in enumerate(views.kept) if kept is now) for views, now in batches]
        turns = [view for view, before in zip(seen, [None, *seen], strict=False) if view != before]
        assert turns == [0, 1, 0] and len(batches[0][0].kept) == 2


def test_the_epochs_come_from_one_generator_with_the_images_weights(split_a, tiny):
    files = split_a.part("train")
    views = training.Views(recipe(), files, None, seed=0, augment=False, shuffle=True)
    own = {0: 1.0, 1: 2.0, 2: 0.5}
    batches = list(views.epochs(2, own))
    assert len(batches) == 2 * len(views)
    for _, labels, weights in batches:
        assert weights.tolist() == [own[k] for k in labels.argmax(axis=1)]
    halves = [np.concatenate([x for x, *_ in batches[start : start + len(views)]]) for start in (0, len(views))]
    assert (halves[0] != halves[1]).any(), "the second epoch has an order of its own"
    for half in halves:
        assert sorted(x.tobytes() for x in half) == sorted(x.tobytes() for x in views.pixels)
    assert all(len(batch) == 2 for batch in views.epochs(1))


def test_every_image_is_in_every_epoch_once_with_its_own_label(split_a, tiny):
    files = split_a.part("train")
    views = training.Views(recipe(), files, None, seed=0, augment=False, shuffle=True)
    orders = []
    for epoch in range(2):
        views.begin(epoch)
        batches = [views[i] for i in range(len(views))]
        assert [len(x) for x, _ in batches[:-1]] == [16] * (len(batches) - 1) and len(batches) == -(-len(files) // 16)
        orders.append(np.concatenate([x for x, _ in batches]))
        labels = np.concatenate([y for _, y in batches]).argmax(axis=1)
        where = [int((views.pixels == x).all(axis=(1, 2, 3)).argmax()) for x in orders[-1]]
        # Two of the phantoms are one picture with two labels: they may stand for each other.
        wrong = [i for i, k in enumerate(where) if files["label"][k] != recipes.CLASSES[labels[i]]]
        assert len(wrong) <= 1 and len(set(where)) >= len(files) - 1
    assert (orders[0] != orders[1]).any(), "the order is drawn anew"
    same = training.Views(recipe(), files, None, seed=0, augment=False, shuffle=True)
    same.begin(1)
    assert (same.order != np.arange(len(files))).any()


def test_without_a_frozen_part_pixels_are_augmented_anew(split_b, tiny):
    views = training.Views(recipe("B-frozen"), split_b.part("validation"), None, seed=0, augment=True)
    first = views[0][0].copy()
    views.begin(1)
    assert first.dtype == np.uint8 and (views[0][0] != first).any()
    plain = training.Views(recipe(), split_b.part("validation"), None, seed=0, augment=False)
    assert (plain[0][0] == plain.pixels[: len(plain[0][0])]).all()


def test_best_epoch_is_the_first_best():
    history = pd.DataFrame(
        {"epoch": [1, 2, 3, 4], "val_loss": [3.0, 1.0, 1.0, 2.0], "val_accuracy": [0.1, 0.5, 0.9, 0.9]}
    )
    assert training.best_epoch(history, "val_loss") == 2
    assert training.best_epoch(history, "val_accuracy") == 3


def separable(flip):
    """Return one batch of eight rows of noise whose class is the sign of the first number, or the other one."""
    rows = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    labels = [recipes.CLASSES[int((row[0] > 0) != flip)] for row in rows]
    return training.Batches(rows, labels, 8, 0)


@pytest.mark.parametrize(("monitor", "patience", "ran"), [("val_loss", 2, 3), ("val_loss", None, 6)])
def test_fit_goes_back_to_the_best_epoch(monitor, patience, ran):
    """What is right in training is wrong in validation, so the first epoch is the best."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model.compile(optimizer=keras.optimizers.Adam(0.5), loss="categorical_crossentropy", metrics=["accuracy"])
    own = recipe(monitor=monitor, patience=patience, epochs=6)
    if patience is None:  # a recipe change of None leaves what it was
        own = recipe("B-frozen", monitor=monitor, epochs=6)
    history = training.fit(model, separable(False), separable(True), own)
    assert history["epoch"].tolist() == list(range(1, ran + 1))
    kept = training.best_epoch(history, monitor)
    assert kept == 1
    loss = model.evaluate(separable(True), verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(history.loc[kept - 1, "val_loss"], rel=1e-5)


@pytest.mark.parametrize(("name", "unfreeze"), [("A-frozen", "none"), ("A-tuned", "last"), ("B-frozen", "all")])
def test_train(name, unfreeze, split_a, split_b, tiny, tmp_path):
    split = split_a if name[0] == "A" else split_b
    own = recipe(name, unfreeze=unfreeze)
    trained = training.train(own, split, weights=NONE, seed=3)
    table = trained.predictions
    assert table["file_id"].tolist() == split.table["file_id"].tolist()
    assert table.columns.tolist() == ["file_id", "image_id", "kind", "split", "label", *PROBABILITIES]
    np.testing.assert_allclose(table[PROBABILITIES].sum(axis=1), 1, atol=5e-6)
    info = trained.info
    assert info["steps_per_epoch"] == -(-len(split.part("train")) // own.batch_size)
    assert info["epochs_run"] == len(trained.history) == 2
    assert info["epoch_kept"] == training.best_epoch(trained.history, own.monitor)
    assert trained.history.columns.tolist() == ["epoch", "accuracy", "loss", "val_accuracy", "val_loss"]
    assert (info["parameters_trained"] < info["parameters"]) and info["copied"] == []
    # The model as a whole says the same as its two parts did, and carries no optimizer.
    trained.model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    pixels = training.images.load(split.table["path"], 32)
    np.testing.assert_allclose(loaded.predict(pixels, verbose=0), table[PROBABILITIES], atol=1e-4)
    assert not optimizer_in(tmp_path / "model.keras")


def optimizer_in(file):
    """Say whether a saved model holds an optimizer's state."""
    import h5py

    found = []
    with zipfile.ZipFile(file) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
        weights.visit(lambda name: found.append(name) if "optimizer" in name else None)
    return bool(found)


def test_an_optimizer_would_be_found(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(optimizer="adam", loss="mse")
    model.fit(np.ones((2, 4)), np.ones((2, 3)), verbose=0)
    model.save(tmp_path / "a.keras")
    assert optimizer_in(tmp_path / "a.keras")


def test_it_learns(split_a, tiny):
    own = recipe(epochs=15, dropout=0.0, learning_rate=1e-2, patience=15)
    history = training.train(own, split_a, weights=NONE, seed=0).history
    assert history["loss"].min() < 0.7 * history["loss"].iloc[0]


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
