"""The lessons at full profile on an accelerator: by papermill with the real BUSI, by nbval as they are.

Run by `make test-gpu`; skipped where Keras' backend sees no accelerator. BUSI_DIR names the real BUSI; without it the
lessons take phantoms of the same number.
"""

import os
import subprocess
import sys

import nbformat
import pytest

from busilib import runs
from busitools import notebooks

pytestmark = pytest.mark.gpu
# Those that train or explain at full profile; 10 is about many runs, and has tests of its own.
LESSONS = ["01", "02", "03", "04", "05", "06", "07", "08", "09"]


@pytest.fixture(scope="module")
def accelerator():
    """On what this process computes; without an accelerator the test is skipped, and says on what it would have run."""
    device = runs.environment()["device"]
    if device.startswith("CPU"):
        pytest.skip(f"no accelerator: {device}")
    return device


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("full")


def given(lesson, results):
    """The parameters of a full run of a lesson: real scans where they are, one folder of runs for all lessons."""
    wanted = {"PROFILE": "full", "DATASET": os.environ.get("BUSI_DIR", "phantom"), "RUNS": str(results / "runs")}
    known = notebooks.parameters(lesson)
    return {name: value for name, value in wanted.items() if name in known}


@pytest.mark.parametrize("number", LESSONS)
def test_papermill_runs_it_at_full_profile(number, accelerator, results):
    (lesson,) = notebooks.lessons([number])
    done = notebooks.execute(lesson, results / lesson.name, given(lesson, results))
    assert done.error is None


@pytest.mark.parametrize("number", ["03", "04"])
def test_nbval_runs_it_at_full_profile(number, accelerator, results, tmp_path):
    """nbval cannot inject parameters, so it is given a copy with others, without outputs to compare."""
    (lesson,) = notebooks.lessons([number])
    notebook = with_parameters(nbformat.read(lesson, as_version=4), given(lesson, results))
    nbformat.write(notebook, tmp_path / lesson.name)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-p", "no:xdist"]
    command += ["--rootdir", str(tmp_path), "-c", os.devnull, str(tmp_path / lesson.name)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]


def with_parameters(notebook, values):
    """Return a notebook with other values in its parameters cell, and no stored outputs."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
        tags = cell.metadata.get("tags", [])
        if "parameters" in tags:
            cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())
        cell.metadata["tags"] = [tag for tag in tags if tag != "nbval-check-output"]
    return notebook


def test_the_runs_say_where_they_were_trained(accelerator, results):
    table = runs.collect(results / "runs")
    if table.empty:
        pytest.skip("no lesson has trained: run the whole file")
    assert set(table["device"]) == {accelerator}
