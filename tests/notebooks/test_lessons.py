"""The lessons run elsewhere too: with other parameters, on the real BUSI, without network; and what they reach is real.

Each lesson itself runs once in these tests, by nbval, which compares the cells tagged nbval-check-output (the
Makefile's test command collects notebooks/).
"""

import ast
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from busilib import data, recipes, runs
from busilib.data import splits
from busitools import cli, notebooks


def text(path):
    """All text that a notebook's cells printed."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def test_papermill_runs_01_as_anyone_would_type_it(tmp_path, phantom_dir):
    command = [sys.executable, "-m", "papermill", notebooks.lessons(["01"])[0], tmp_path / "out.ipynb"]
    command += ["-p", "DATASET", phantom_dir, "-p", "SEED", "3", "-p", "IMAGE_SIZE", "64"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "(60, 64, 64, 3) uint8 0.7 MB" in text(tmp_path / "out.ipynb")


REFUSE = """
from busilib import runs
def refuse(*given, **named):
    raise AssertionError("this lesson trains in the open: it must not call find_or_train")
runs.find_or_train = refuse
"""


def in_the_open(number, out, given):
    """Execute a lesson in which `runs.find_or_train` raises; return the Execution."""
    lesson = notebooks.lessons([number])[0]
    notebook = nbformat.read(lesson, as_version=4)
    notebook.cells[1].source += REFUSE
    nbformat.write(notebook, out / f"{lesson.stem}-refusing.ipynb")
    return notebooks.execute(out / f"{lesson.stem}-refusing.ipynb", out / lesson.name, given)


def same_as_the_librarys(folder, scans, names, **changes):
    """Train each recipe again, by the library, and compare with the run that a lesson saved, number by number."""
    from busilib.learning import models, training

    saved = {run.info["recipe"]["name"]: run for run in map(runs.open_run, sorted(folder.glob("[AB]-*")))}
    assert set(saved) == set(names), "a run that is called -edited is not the recipe's"
    for name, start in names.items():
        recipe, split = splits.plan(name, scans, protocol="clean", fold=1, **changes)
        weights = models.find_weights("auto", recipe.backbone, scans.kind)
        trained = training.train(recipe, split, weights=weights, start=saved.get(start))
        pd.testing.assert_frame_equal(saved[name].history, trained.history, check_dtype=False, atol=1e-3)
        pd.testing.assert_frame_equal(saved[name].predictions, trained.predictions, check_dtype=False, atol=1e-3)


def test_03_trains_in_the_open_what_the_library_trains(tmp_path, phantom_dir):
    given = {"DATASET": str(phantom_dir), "PROTOCOL": "clean", "FOLD": 1, "IMAGE_SIZE": 32, "RUNS": str(tmp_path)}
    done = in_the_open("03", tmp_path, given)
    assert done.error is None and "clean, fold 2 of 5" in text(done.output)
    names = {"A-frozen": None, "A-tuned": "A-frozen", "A-new-head": "A-frozen", "A-careful": "A-new-head"}
    same_as_the_librarys(tmp_path, data.load(phantom_dir), names, image_size=32)
    table = runs.collect(tmp_path)
    assert set(table["image_size"]) == {32} and set(table["preprocessing"]) == {"own"} and set(table["fold"]) == {1}


@pytest.mark.slow  # about two minutes: Inception-ResNet-v2 twice
def test_04_trains_in_the_open_what_the_library_trains(tmp_path, phantom_dir):
    given = {"DATASET": str(phantom_dir), "PROTOCOL": "clean", "FOLD": 1, "RUNS": str(tmp_path)}
    done = in_the_open("04", tmp_path, given)
    assert done.error is None
    same_as_the_librarys(tmp_path, data.load(phantom_dir), {"B-frozen": None, "B-tuned": "B-frozen"})


@pytest.mark.slow  # lesson 03 four times: about five minutes
def test_the_sweep_that_the_documentation_shows(tmp_path):
    example, out = Path(__file__).parents[2] / "docs" / "examples" / "sweep_quick.yaml", str(tmp_path / "try")
    assert cli.main(["sweep", str(example), "--workers", "2", "--out", out]) == 0
    assert cli.main(["collect", out, "--plot", "dropout"]) == 0
    table = runs.collect(out)
    assert table["execution"].nunique() == 4 and set(table["DROPOUT"]) == {0.2, 0.5} and set(table["fold"]) == {0, 1}


@pytest.mark.slow
def test_00_trains_in_the_open(tmp_path, phantom_dir):
    assert in_the_open("00", tmp_path, {"DATASET": str(phantom_dir), "RUNS": str(tmp_path)}).error is None


@pytest.mark.parametrize("number", ["00", "03", "04"])
def test_the_lesson_is_the_program(number):
    cells = nbformat.read(notebooks.lessons([number])[0], as_version=4).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert "find_or_train" not in source and all(word in source for word in (".compile(", "fit(", ".predict("))


@pytest.mark.parametrize(("number", "network"), [("03", "ResNet50"), ("04", "InceptionResNetV2")])
def test_every_choice_of_unfreeze_cuts_inside_the_base(number, network):
    """A seam at the base's own output leaves nothing above it, which Keras refuses."""
    from busilib.learning import keras

    cells = nbformat.read(notebooks.lessons([number])[0], as_version=4).cells
    line = next(line for cell in cells for line in cell.source.splitlines() if line.startswith("seams = "))
    seams = ast.literal_eval(line.removeprefix("seams = "))
    base = getattr(keras.applications, network)(include_top=False, weights=None, input_shape=(75, 75, 3))
    assert set(seams) == set(recipes.PARAMETERS["UNFREEZE"])
    for seam in seams.values():
        assert keras.Model(base.get_layer(seam).output, base.output).layers


@pytest.fixture(scope="module")
def quick():
    """The quick runs of lessons 03 and 04: found when the lessons have run in this session, trained now otherwise."""
    from busilib.learning import models

    scans, quick_runs = data.load("phantom"), {}
    for paper in "AB":
        start = None
        for name in (f"{paper}-frozen", f"{paper}-tuned"):
            recipe, split = splits.plan(name, scans)
            weights = None if start else models.find_weights("auto", recipe.backbone, scans.kind)
            start = quick_runs[name] = runs.find_or_train(recipe, scans, split, weights=weights, start=start)
    return quick_runs


@pytest.mark.parametrize("name", ["A-frozen", "A-tuned", "B-frozen", "B-tuned"])
def test_quick_training_is_real(quick, name):
    scores = quick[name].summary("test")
    assert scores["accuracy_low"] > scores["majority"], runs.metrics.text(scores)


def test_the_phantoms_plant_the_leaks():
    """What lesson 07 measures on phantoms, found when it has run in this session."""
    from busilib import studies
    from busilib.learning import models

    scans, recipe = data.load("phantom"), recipes.study("quick")
    weights = models.find_weights("none", recipe.backbone)
    kinds = ("copies", "masks")  # what the quick profile measures
    worth = studies.worth(pd.concat([studies.leaks_of(recipe, weights, scans, seed, kinds) for seed in range(5)]))
    assert (worth.loc[["copies", "masks", "best epoch"], "mean"] > 0).all() and worth.loc["masks", "low"] > 0, worth
    # Early stopping on the test part: five seeds cannot tell its worth from nothing, on BUSI neither.
    assert worth.loc["validation", "high"] > 0, worth


@pytest.mark.parametrize("number", ["00", "01", "02", "03", "04", "05"])
def test_lesson_runs_on_the_real_busi(number, busi_dir, tmp_path):
    done = notebooks.execute(notebooks.lessons([number])[0], tmp_path / "out.ipynb", {"DATASET": str(busi_dir)})
    assert done.error is None


def test_a_kernel_that_tries_the_network_is_refused(tmp_path):
    code = "import urllib.request\nurllib.request.urlopen('https://example.org', timeout=5)"
    cells = [
        nbformat.v4.new_code_cell("A = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(code),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "tries.ipynb")
    done = notebooks.execute(tmp_path / "tries.ipynb", tmp_path / "out.ipynb")
    assert "tests allow connections to this machine only" in done.error
