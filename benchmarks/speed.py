"""How fast: augmentation against what people write, a frozen base's features against a plain fit, fit against its step.

Augmentation is timed on the real BUSI where BUSI_DIR names it: its files are larger than a phantom's, and what people
write reads them again in every epoch. The rest is timed on phantoms.
"""

import io
import os
import shutil
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from rows import row, seconds

from busilib import data, recipes
from busilib.data import catalogue, images, phantom, splits
from busilib.learning import features, keras, models, training
from busilib.learning.augmentation import RandomAffine

SCANS, EPOCHS, SIZE = 240, 5, 150
AUGMENTED_EPOCHS = 10  # paper B's
NONE = models.Weights("none", "random")


def measure():
    """Return the rows of the three comparisons."""
    scans = catalogue.read(phantom.cached(600, 0))
    real = os.environ.get("BUSI_DIR")
    return [*augmentation(data.load(real) if real else scans), *frozen_base(scans), *steps(scans)]


# --- augmentation ---------------------------------------------------------------------------------------------------


def augmentation(scans):
    """Time ten epochs of augmented batches of paper B's size from a folder of PNGs, reading included."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        table = _copy(scans, Path(folder))
        for batch in (8, 32):

            def generator(batch=batch):
                options = dict(rotation_range=20, shear_range=0.2, zoom_range=0.2, fill_mode="nearest", rescale=1 / 255)
                with redirect_stdout(io.StringIO()):  # it prints how many images it found
                    flow = ImageDataGenerator(**options).flow_from_directory(folder, (SIZE, SIZE), batch_size=batch)
                for _ in range(AUGMENTED_EPOCHS * len(flow)):
                    next(flow)

            def layers(batch=batch):
                read = keras.utils.image_dataset_from_directory(
                    folder, label_mode="categorical", image_size=(SIZE, SIZE), batch_size=batch, verbose=False
                )
                move = keras.Sequential(
                    [keras.layers.RandomRotation(20 / 360, fill_mode="nearest"),
                     keras.layers.RandomZoom(0.2, 0.2, fill_mode="nearest"),
                     keras.layers.RandomShear(0.002, 0.002, fill_mode="nearest")]
                )  # fmt: skip
                for _ in range(AUGMENTED_EPOCHS):
                    for _ in read.map(lambda x, y: move(x, training=True)):
                        pass

            def ours(batch=batch):
                affine, pixels = RandomAffine(seed=0), images.load(table["path"], SIZE)
                for _ in range(AUGMENTED_EPOCHS):
                    batches = training.Batches(affine.moved(pixels), table["label"], batch, 0, shuffle=True)
                    for step in range(len(batches)):
                        batches[step]

            old, three, new = seconds(generator, layers, ours, repeats=3)
            count = len(table) * AUGMENTED_EPOCHS
            note = f"{len(table)} scans of {scans.name} from disk, {AUGMENTED_EPOCHS} epochs, {SIZE} px"
            for what, other, target in (("ImageDataGenerator", old, "ratio >= 10"), ("three layers", three, None)):
                name = f"augmented images, batches of {batch}, against {what}"
                rows.append(row(name, count / new, "images/s", count / other, target=target, note=note))
    return rows


def _copy(scans, folder):
    """Copy scans without their masks, which both readers would take for images of the class; return their table."""
    table = scans.table.groupby("label", sort=True).head(SCANS // 3).copy()
    for label in table["label"].unique():
        (folder / label).mkdir()
    table["path"] = [
        shutil.copy(path, folder / label) for path, label in zip(table["path"], table["label"], strict=True)
    ]
    return table


# --- a frozen base --------------------------------------------------------------------------------------------------


def frozen_base(scans):
    """Time 30 epochs of a head: its base run in every epoch, as a plain fit does, against features computed once."""
    rows = []
    for name, epochs in (("A-frozen", 30), ("B-frozen", 30)):
        recipe = recipes.get(name, "quick", epochs=epochs, augment=False, augment_validation=False, patience=epochs)
        files = splits.make("A", "paper", scans).part("train")
        pixels = images.load(files["path"], recipe.image_size)
        model = models.build(recipe, NONE)
        plain, cached, worst = _fit_both(model, recipe, pixels, files["label"])
        note = f"{recipe.backbone}, {recipe.image_size} px, {len(pixels)} phantoms, batches of {recipe.batch_size}"
        rows.append(row(f"30 epochs on a frozen base, {name}", cached, "s", plain, "lower", "ratio >= 10", note))
        what = "largest difference of probabilities, whole model against kept features"
        rows.append(row(f"{what}, {name}", worst, "probability", target="ours <= 0.0001", note=note))
    return rows


def _fit_both(model, recipe, pixels, labels):
    """Return the seconds of a plain fit and of ours, and the largest difference of the two ways to predict.

    The plain fit is timed for three epochs, the first without its compilation, and counted thirty times.
    """
    frozen, head = models.parts(model, recipe)
    with tempfile.TemporaryDirectory() as folder, _cache(folder):
        compiled = dict(loss="categorical_crossentropy", metrics=["accuracy"])
        head.compile(keras.optimizers.Adam(recipe.learning_rate), **compiled)
        start = time.perf_counter()
        kept = features.load(frozen, pixels)
        batches = training.Batches(kept, labels, recipe.batch_size, 0, shuffle=True)
        _fit(head, batches, recipe.epochs)
        cached = time.perf_counter() - start
    whole = keras.Model(model.input, model.output)
    worst = np.abs(whole.predict(pixels, verbose=0) - head.predict(kept, verbose=0)).max()
    whole.compile(keras.optimizers.Adam(recipe.learning_rate), **compiled)
    fit = lambda: whole.fit(pixels, batches.labels, batch_size=recipe.batch_size, verbose=0)  # noqa: E731
    fit()
    return seconds(fit, repeats=2)[0] * recipe.epochs, cached, float(worst)


def _cache(folder):
    """Use an empty cache for a while."""
    from unittest.mock import patch

    return patch.dict("os.environ", BUSILIB_CACHE=folder)


# --- the training step ----------------------------------------------------------------------------------------------


def steps(scans):
    """Compare fit's images per second at the full profile with the bare compiled step on one resident batch."""
    rows = []
    for name, unfreeze in (("A-tuned", "block"), ("B-tuned", "block"), ("A-tuned", "all")):
        recipe = recipes.get(name, "full", augment=False, augment_validation=False, unfreeze=unfreeze)
        files = splits.make("A", "paper", scans).part("train").head(320 if unfreeze == "block" else 32)
        frozen, trained = models.parts(models.build(recipe, NONE), recipe)
        trained.compile(keras.optimizers.Adam(recipe.learning_rate), "categorical_crossentropy", metrics=["accuracy"])
        batches = training.Views(recipe, files, frozen, 0, augment=False, shuffle=True)
        x, y = batches[0]
        bare = _step(trained, x, y, EPOCHS * len(batches))
        whole = lambda: _fit(trained, batches, EPOCHS)  # noqa: B023, E731
        for once in (bare, whole):
            once()
        step, fit = seconds(bare, whole, repeats=3)
        note = f"{recipe.backbone}, {recipe.image_size} px, batches of {recipe.batch_size}, {EPOCHS} epochs"
        count = EPOCHS * len(files)
        what = f"fit against the bare step, {name}, unfrozen: {unfreeze}"
        rows.append(row(what, count / fit, "images/s", count / step, target="ratio >= 0.95", note=note))
    return rows


def _fit(model, batches, epochs):
    """Fit as `training.fit` does, without validation."""
    model.fit(batches.epochs(epochs), steps_per_epoch=len(batches), epochs=epochs, shuffle=False, verbose=0)


def _step(model, x, y, count):
    """Return a function that makes ``count`` compiled training steps on one batch that stays where it is."""
    if keras.backend.backend() == "jax":
        from jax import device_put

        x, y = device_put(x), device_put(y)
        return lambda: [model.train_on_batch(x, y) for _ in range(count)]
    import tensorflow as tf

    function = model.make_train_function() or model.train_function
    resident = tf.data.Dataset.from_tensors((tf.constant(x), tf.constant(y))).repeat()
    iterator = iter(resident)
    return lambda: [function(iterator) for _ in range(count)]
