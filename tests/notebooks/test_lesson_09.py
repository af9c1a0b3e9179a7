"""What lesson 09 builds, compiles and fits in the open is what the library trains: same seed, same numbers."""

import re

import matplotlib
import nbformat
import numpy as np
import pytest

from busilib import runs
from busitools import notebooks


@pytest.fixture(scope="module")
def lesson(phantom_dir, tmp_path_factory):
    """Return the names that lesson 09 knows once its three systems are fitted, without ``find_or_train``."""
    matplotlib.use("agg")
    names, home = {}, tmp_path_factory.mktemp("runs")
    refuse = pytest.MonkeyPatch()
    refuse.setattr(runs, "find_or_train", lambda *given, **more: pytest.fail("the lesson trains in the open"))
    for cell in nbformat.read(notebooks.lessons(["09"])[0], as_version=4).cells:
        if cell.cell_type == "code":
            source = re.sub(r"^(\s*)%.*", r"\1pass", cell.source, flags=re.MULTILINE)
            exec(compile(source, cell.id, "exec"), names)  # noqa: S102
            if "parameters" in cell.metadata.get("tags", []):
                names |= {"DATASET": str(phantom_dir), "RUNS": str(home)}
        if len(names.get("opened", ())) == 3:
            refuse.undo()
            return names
    pytest.fail("lesson 09 does not save three systems")


@pytest.mark.parametrize("name", ["svm", "bcdnet", "capsule"])
def test_the_lesson_is_the_library(name, lesson, tmp_path):
    run, system = lesson["opened"][name], lesson["system_of"](name)
    given = {"weights": lesson["weights_of"](system), "seed": lesson["SEED"]}
    again = runs.find_or_train(system, lesson["scans"], lesson["split"], **given, runs=lesson["RUNS"])
    assert again.folder == run.folder and again.info["seconds"] is None, "it was trained again"
    library = runs.find_or_train(system, lesson["scans"], lesson["split"], **given, runs=tmp_path)
    answers = (one.predictions[runs.PROBABILITIES] for one in (run, library))
    np.testing.assert_allclose(*answers, atol=1e-4)
    np.testing.assert_allclose(run.history.astype(float), library.history.astype(float), atol=1e-4)
