"""How fast: augmentation against what people write, a frozen base's features against a plain fit, fit against its step.

Augmentation is timed on the real BUSI where BUSI_DIR names it: its files are larger than a phantom's, and what people
write reads them again in every epoch. The rest is timed on phantoms.
"""

import io
import os
import shutil
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

from rows import row, seconds

from busilib import data, recipes
from busilib.data import splits
from busilib.learning import keras, models, training

SCANS, EPOCHS, SIZE = 240, 5, 150
AUGMENTED_EPOCHS, BATCH = 10, 8  # paper B's
NONE = models.Weights("none", "random")


def measure():
    """Return the rows of the three comparisons."""
    scans = data.load("phantom")
    real = os.environ.get("BUSI_DIR")
    return [*augmentation(data.load(real) if real else scans), *frozen_base(scans), *steps(scans)]


# --- augmentation ---------------------------------------------------------------------------------------------------


def augmentation(scans):
    """Time ten epochs of augmented batches of paper B's size from a folder of PNGs, reading included."""
    with tempfile.TemporaryDirectory() as folder:
        table = _copy(scans, Path(folder))
        old, new = seconds(lambda: _generator(folder), lambda: _ours(table), repeats=3)
    count, name = len(table) * AUGMENTED_EPOCHS, f"augmented images, batches of {BATCH}, against ImageDataGenerator"
    note = f"{len(table)} scans of {scans.name} from disk, {AUGMENTED_EPOCHS} epochs, {SIZE} px"
    return [row(name, count / new, "images/s", count / old, target="ratio >= 10", note=note)]


def _copy(scans, folder):
    """Copy scans without their masks, which both readers would take for images of the class; return their table."""
    table = scans.table.groupby("label", sort=True).head(SCANS // 3).copy()
    for label in table["label"].unique():
        (folder / label).mkdir()
    paths = zip(table["path"], table["label"], strict=True)
    return table.assign(path=[shutil.copy(path, folder / label) for path, label in paths])


def _generator(folder):
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    options = dict(rotation_range=20, shear_range=0.2, zoom_range=0.2, fill_mode="nearest", rescale=1 / 255)
    with redirect_stdout(io.StringIO()):  # it prints how many images it found
        flow = ImageDataGenerator(**options).flow_from_directory(folder, (SIZE, SIZE), batch_size=BATCH)
    for _ in range(AUGMENTED_EPOCHS * len(flow)):
        next(flow)


def _ours(table):
    for path in table["path"]:
        os.utime(path)  # a changed file is read again
    recipe = recipes.get("B-frozen", image_size=SIZE, epochs=AUGMENTED_EPOCHS, views=AUGMENTED_EPOCHS)
    labels = keras.utils.to_categorical(table["label"].map(recipes.CLASSES.index), 3)
    epochs = training.batches(training.moved(recipe, table, None, seed=0), labels, BATCH, seed=0)
    for _ in range(AUGMENTED_EPOCHS):
        for _ in epochs:
            pass


# --- a frozen base --------------------------------------------------------------------------------------------------


def frozen_base(scans):
    """Time 30 epochs of a head: its base run in every epoch, as a plain fit does, against features computed once."""
    rows, split = [], splits.paper_a(scans)
    for name in ("A-frozen", "B-frozen"):
        recipe = recipes.get(name, epochs=30, augment=False, augment_validation=False, patience=30)
        plain, cached = _fit_both(recipe, split)
        note = f"{recipe.backbone}, {recipe.image_size} px, {len(split.part('train'))} phantoms, "
        note += f"batches of {recipe.batch_size}; validation of {len(split.part('test'))} in both"
        target = "ratio >= 10" if name == "B-frozen" else None
        rows.append(row(f"30 epochs on a frozen base, {name}", cached, "s", plain, "lower", target, note))
    return rows


def _fit_both(recipe, split):
    """Return the seconds of a plain fit, which is timed for two epochs without its compilation, and of ours."""
    model, pixels = models.build(recipe, NONE), training.still(recipe, split)
    model.get_layer("base").trainable = False
    whole = keras.Model(model.input, model.output)
    models.compile_for(recipe, whole)
    training.frozen_base(recipe.backbone, recipe.image_size, recipe.preprocessing, NONE)  # built: not timed
    with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", BUSILIB_CACHE=folder):
        (cached,) = seconds(lambda: training.train_head(recipe, split, weights=NONE), repeats=1)
    (x, y), validation = (training.part(split, name, pixels) for name in ("train", "validation"))
    epoch = lambda: whole.fit(x, y, recipe.batch_size, validation_data=validation, verbose=0)  # noqa: E731
    epoch()
    return seconds(epoch, repeats=2)[0] * recipe.epochs, cached


# --- the training step ----------------------------------------------------------------------------------------------


def steps(scans):
    """Compare fit's images per second at the full profile with the bare compiled step on one resident batch."""
    rows = []
    for name, unfreeze in (("A-tuned", "block"), ("B-tuned", "block"), ("A-tuned", "all")):
        recipe = recipes.get(name, "full", augment=False, augment_validation=False, unfreeze=unfreeze)
        split = splits.paper_a(scans)
        frozen, trained = models.parts(models.build(recipe, NONE), recipe)
        models.compile_for(recipe, trained)
        x, y = training.part(split, "train", training.still(recipe, split, frozen))
        few = 320 if unfreeze == "block" else 32
        whole, bare = fit_and_step(trained, x[:few], y[:few], recipe.batch_size, EPOCHS)
        note = f"{recipe.backbone}, {recipe.image_size} px, batches of {recipe.batch_size}, {EPOCHS} epochs"
        what = f"fit against the bare step, {name}, unfrozen: {unfreeze}"
        rows.append(row(what, whole, "images/s", bare, target="ratio >= 0.9", note=note))
    return rows


def fit_and_step(model, x, y, batch_size, epochs):
    """Return the images per second of a compiled model's `fit`, and of its bare step on a batch on the device."""
    first, count = (x[:batch_size], y[:batch_size]), epochs * -(-len(y) // batch_size)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        function = model.make_train_function() or model.train_function
        resident = iter(tf.data.Dataset.from_tensors(tuple(map(tf.constant, first))).repeat())
        step = lambda: function(resident)  # noqa: E731
    else:
        resident = [keras.ops.convert_to_tensor(array) for array in first]
        step = lambda: model.train_on_batch(*resident)  # noqa: E731
    batches = training.batches(x, y, batch_size, 0)
    fit = lambda: model.fit(batches, epochs=epochs, shuffle=False, verbose=0)  # noqa: E731
    bare = lambda: [step() for _ in range(count)]  # noqa: E731
    for once in (bare, fit):  # the first call compiles
        once()
    return [epochs * len(y) / taken for taken in seconds(fit, bare, repeats=3)]
