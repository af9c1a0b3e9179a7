"""Exercises: the notebooks with solutions are the source; what a student gets is generated from them.

The source is in nbgrader's format (https://nbgrader.readthedocs.io): cells named by ``grade_id`` ("03-loss" holds an
answer, "03-loss-check" its test), solution regions, hidden tests, points. nbgrader's own steps make the student's file.
"""

import copy
import re
from pathlib import Path

import nbformat

from busilib.cache import bar, write_file
from busilib.errors import ClassroomError
from busitools import notebooks

HIDDEN = re.compile(r"^### BEGIN HIDDEN TESTS\n(.*?)^### END HIDDEN TESTS\n?", re.MULTILINE | re.DOTALL)
STEPS = "LockCells ClearSolutions ClearOutput ClearHiddenTests ClearMarkScheme ComputeChecksums CheckCellMetadata"


def sources(place=None):
    """Return the paths of the notebooks with solutions, sorted; ``place`` is their folder, the checkout's when None."""
    place = Path(place or Path(__file__).parents[1] / "notebooks" / "solutions")
    paths = sorted(place.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise ClassroomError(f"{place} holds no notebooks with solutions (NN_name.ipynb): clone it from the repository")
    return paths


def read(path):
    """Return a source notebook."""
    return nbformat.read(path, as_version=4)


def name(cell):
    """Return a cell's grade_id, or None when it has none."""
    data = cell.metadata.get("nbgrader")
    grade_id = data.get("grade_id") if isinstance(data, dict) else None
    return grade_id if isinstance(grade_id, str) else None


def graded(cell):
    """Return whether a cell of a source, or of what was made from one, has points."""
    return bool(cell.metadata.get("nbgrader", {}).get("grade"))


def hidden(cell):
    """Return the hidden tests of a cell as source text, "" when it has none."""
    return "".join(HIDDEN.findall(cell.source))


def release(notebook):
    """Return what a student gets from a source notebook: no solution, no hidden test, no output; tests are locked.

    The steps are those of ``nbgrader generate_assignment`` without its database. Raises ClassroomError for a solution
    region in a cell that is not marked as one, and for a region without an end.
    """
    from nbgrader import preprocessors

    made = copy.deepcopy(notebook)
    for cell in made.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "nbgrader"}
    made.metadata = {key: value for key, value in made.metadata.items() if key in ("kernelspec", "language_info")}
    try:
        for step in STEPS.split():
            made, _ = getattr(preprocessors, step)().preprocess(made, {})
    except Exception as error:  # nbgrader raises RuntimeError, its validator its own kinds
        raise ClassroomError(f"no exercise can be made of this notebook: {error}") from error
    return made


def write(place=None, target=None):
    """Write notebooks/exercises/NN_*.ipynb from the solutions; return the paths."""
    paths = sources(place)
    target = Path(target or paths[0].parents[1] / "exercises")
    target.mkdir(parents=True, exist_ok=True)
    for source in bar(paths, "exercises"):
        with write_file(target / source.name) as part:
            nbformat.write(notebooks.relink(release(read(source))), part)
    return [target / source.name for source in paths]
