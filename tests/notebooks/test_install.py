"""Without a checkout: the built package in an environment like Colab's, and by a plain pip install.

Slow: both install TensorFlow. Colab's versions are in tests/colab-versions.txt. The package index that pip is set to
must be reachable.
"""

import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from busitools import notebooks

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
VERSIONS = ROOT / "tests" / "colab-versions.txt"


def run(*command, **options):
    """Run a command; return what it printed; fail with its last words."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command[:4]}: {(done.stdout + done.stderr)[-2000:]}"
    return done.stdout


def python_313():
    """Return a Python 3.13 that runs, or None."""
    places = [os.environ.get("COLAB_PYTHON"), shutil.which("python3.13")]
    places += glob.glob(os.path.expanduser("~/.pyenv/versions/3.13*/bin/python3.13"))
    for place in filter(None, places):
        if subprocess.run([place, "--version"], capture_output=True).returncode == 0:
            return place
    return None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as it is built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    return next(folder.glob("*.whl"))


def packages(python):
    """{package: version} of an environment."""
    lines = run(python, "-m", "pip", "freeze", "--all").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def lesson_runs_alone(python, folder):
    """Run lesson 01 whole, in an empty folder that holds the notebook alone."""
    folder.mkdir()
    shutil.copy(notebooks.lessons(["01"])[0], folder / "lesson.ipynb")
    keep = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment = keep | {"BUSILIB_CACHE": str(folder / "cache")}
    command = [python, "-m", "papermill", "-k", "python3", "--no-progress-bar", "lesson.ipynb", "out.ipynb"]
    run(*command, cwd=folder, env=environment)
    done = nbformat.read(folder / "out.ipynb", as_version=4)
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert len(code) > 10 and all(cell.execution_count for cell in code)
    return environment


def test_colab(wheel, tmp_path):
    """What Colab has stays as it is, to the last version; a lesson runs there whole."""
    base = python_313()
    if base is None:
        pytest.skip("Colab has Python 3.13, and there is none here (COLAB_PYTHON can name one)")
    run(base, "-m", "venv", tmp_path / "colab")
    python = tmp_path / "colab" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "-r", VERSIONS)
    before = packages(python)
    run(python, "-m", "pip", "install", "--quiet", wheel)
    after = packages(python)
    assert {name: after.get(name) for name in before} == before
    lesson_runs_alone(python, tmp_path / "work")


def test_colab_versions_are_a_test():
    """The file names what the lessons lean on, each held to one minor version."""
    lines = [line for line in VERSIONS.read_text().splitlines() if line and not line.startswith("#")]
    assert all(line.endswith(".*") and "==" in line for line in lines)
    assert {line.split("==")[0] for line in lines} >= {
        "tensorflow",
        "keras",
        "numpy",
        "pandas",
        "ipython",
        "ipywidgets",
    }


def test_plain_install_without_a_checkout(wheel, tmp_path):
    """Not editable, no checkout: lessons are there, a lesson runs, and no solution comes with it."""
    run(sys.executable, "-m", "venv", tmp_path / "plain")
    python = tmp_path / "plain" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "tests" / "constraints.txt", wheel)
    environment = lesson_runs_alone(python, tmp_path / "work")
    code = "from busitools import notebooks; print(len(notebooks.lessons()), notebooks.folder())"
    said = run(python, "-c", code, cwd=tmp_path / "work", env=environment).split()
    assert int(said[0]) == len(notebooks.lessons()) and str(tmp_path / "plain") in said[1]
    assert not list((tmp_path / "plain").rglob("*/busitools/lessons/solutions"))
    refused = subprocess.run([python, "-m", "busitools.cli", "exercises"], capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode == 1 and "clone it" in refused.stderr
