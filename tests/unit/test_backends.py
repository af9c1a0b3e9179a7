"""TensorFlow and JAX: the same weights, the same probabilities; and JAX alone, where TensorFlow is not installed."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from busilib import runs
from busitools import notebooks

ON_JAX = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}


@pytest.fixture
def backends(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import backends

    return backends


def test_the_same_weights_give_the_same_probabilities(backends):
    result = backends.differences({"ResNet50": 32}, 16)["ResNet50"]  # the other network: `backends.measure`, below
    assert result["largest"] < 1e-3
    assert result["spread"] > 0.05, "it answers nearly the same for all scans: nothing is compared"


@pytest.mark.slow
def test_the_same_study_gives_the_same_accuracy(backends):
    reached = {row["name"]: row["reached"] for row in backends.measure()}
    assert reached == dict.fromkeys(reached, True) and len(reached) == 3


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
    assert sorted(table["name"]) == ["A-frozen", "A-tuned"], "06 found what 03 had trained"
    assert set(table["backend"]) == {"jax"} and table["device"].str.startswith("CPU").all()


def noise(notebook):
    """What the frameworks logged in a notebook's cells: nothing, when all is well. (Python's warnings are no matter of
    the backend, and are looked for in the stored outputs.)
    """
    cells = nbformat.read(notebook, as_version=4).cells
    written = [o["text"] for cell in cells for o in cell.get("outputs", []) if o.get("name") == "stderr"]
    return [text for text in written if "Warning: " not in text]
