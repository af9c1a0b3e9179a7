"""TensorFlow and JAX: the same weights, the same probabilities; and JAX alone, where TensorFlow is not installed."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from unittest.mock import patch

import nbformat
import numpy as np
import pytest

from busilib import data, recipes, runs, studies
from busilib.data import splits
from busitools import notebooks

ON_JAX = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}


def on(backend, function, *arguments):
    """What a function of this file gives on a backend, in a process of its own."""
    environment = ON_JAX | {"KERAS_BACKEND": backend, "BUSILIB_PROGRESS": "0"}
    with (
        patch.dict(os.environ, environment),
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        return pool.submit(function, *arguments).result()


def write(file, name, size, paths, labels):
    """Write a model whose head has learned a little; return the scans' pixels and what it makes of them, (N, 3)."""
    from busilib.data import images
    from busilib.learning import keras, models, training

    recipe = recipes.get("A-frozen", backbone=name, image_size=size)
    model, pixels = models.build(recipe, models.find_weights("auto", name)), images.load(paths, size)
    # A head that has learned nothing gives every scan nearly the same answer, and then all backends agree.
    frozen, head = models.parts(model, recipe)
    head.compile("adam", "categorical_crossentropy")
    answers = keras.utils.to_categorical(studies.codes(labels), 3)
    head.fit(training.predict(frozen, pixels), answers, epochs=40, batch_size=8, verbose=0)
    model.save(file)
    return pixels, probabilities(file, pixels)


def probabilities(file, pixels):
    from busilib.learning import keras

    return keras.models.load_model(file, compile=False).predict(pixels, batch_size=16, verbose=0)


@pytest.mark.parametrize(
    ("name", "size"), [("ResNet50", 32), pytest.param("InceptionResNetV2", 75, marks=pytest.mark.slow)]
)
def test_the_same_weights_give_the_same_probabilities(name, size, phantoms, tmp_path):
    scans, file = phantoms.table.iloc[::4], tmp_path / "model.keras"
    pixels, ours = on("tensorflow", write, file, name, size, scans["path"].tolist(), scans["label"].tolist())
    assert abs(ours - on("jax", probabilities, file, pixels)).max() < 1e-3
    assert ours.std(axis=0).max() > 0.05, "it answers nearly the same for all scans: nothing is compared"


def accuracies():
    """The accuracy on the clean protocol's test folds, quick profile, for each of three seeds and five folds."""
    from busilib.learning import models, training

    scans, recipe = data.load("phantom"), recipes.study("quick", "clean")
    weights = models.find_weights("auto", recipe.backbone)

    def answers(seed, fold):
        return training.train_head(recipe, splits.clean(scans, fold, seed=seed), weights=weights, seed=seed)[1]

    return [studies.accuracy(answers(seed, fold)) for seed in range(3) for fold in range(5)]


@pytest.mark.slow
def test_the_same_study_gives_the_same_accuracy():
    """Each backend draws its own numbers from the same seeds, so the means are compared."""
    assert abs(np.mean(on("tensorflow", accuracies)) - np.mean(on("jax", accuracies))) < 0.05


@pytest.fixture(scope="module")
def without_tensorflow(tmp_path_factory):
    """An environment with JAX in which TensorFlow is as good as not installed, in kernels too."""
    folder = tmp_path_factory.mktemp("blocked")
    (folder / "tensorflow").mkdir()
    (folder / "tensorflow" / "__init__.py").write_text("raise ImportError('TensorFlow is not installed')\n")
    return ON_JAX | {"PYTHONPATH": str(folder)}


def test_the_block_blocks(without_tensorflow):
    environment = os.environ | without_tensorflow
    done = subprocess.run([sys.executable, "-c", "import tensorflow"], env=environment, capture_output=True, text=True)
    assert "TensorFlow is not installed" in done.stderr


@pytest.mark.slow
def test_lessons_train_and_explain_on_jax_alone(tmp_path, phantom_dir, without_tensorflow):
    given = {"DATASET": str(phantom_dir), "IMAGE_SIZE": 32, "RUNS": str(tmp_path / "runs")}
    for number in ("03", "06"):
        done = notebooks.execute(
            notebooks.lessons([number])[0], tmp_path / f"{number}.ipynb", given, env=without_tensorflow
        )
        assert done.error is None
        assert not noise(done.output), number
    table = runs.collect(tmp_path / "runs")
    names = ["A-careful", "A-frozen", "A-new-head", "A-tuned"]
    assert sorted(table["name"]) == names, "06 found what 03 had trained"
    assert set(table["backend"]) == {"jax"} and table["device"].str.startswith("CPU").all()


def noise(notebook):
    """What the frameworks logged in a notebook's cells: nothing, when all is well. (Python's warnings are no matter of
    the backend, and are looked for in the stored outputs.)
    """
    cells = nbformat.read(notebook, as_version=4).cells
    written = [o["text"] for cell in cells for o in cell.get("outputs", []) if o.get("name") == "stderr"]
    return [text for text in written if "Warning: " not in text]
