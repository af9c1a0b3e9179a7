"""Exercises are what their sources give, leak nothing, and their checks are proven.

They are proven on the reference, on the stub and on wrong answers. All answers of a lesson run in one process: the
notebook's cells are executed once, then each answer in a copy of the namespace before its task.
``wrong_answers/NN.txt`` holds the wrong ones: "#### task · name", "#### hint: text", code.
"""

import contextlib
import copy
import io
import json
import re
from pathlib import Path

import nbformat
import pytest

from busilib.errors import ClassroomError
from busitools import exercises
from tests.notebooks import skeleton

SOURCES = exercises.sources()
WRONG = Path(__file__).parent / "wrong_answers"
LEAST, MOST = 4, 6  # tasks of a lesson


def answers(number):
    """The wrong answers of a lesson as a list of (task, name, hint, code)."""
    text = (WRONG / f"{number}.txt").read_text(encoding="utf-8")
    blocks = re.findall(r"^#### (\S+) · (.+)\n#### hint: (.+)\n((?:(?!####).*\n?)*)", text, re.MULTILINE)
    assert len(blocks) == text.count("#### hint:"), f"{number}.txt has an answer that is not in the format"
    return blocks


def tasks(notebook):
    """The pairs (solution cell, test cell) of a source notebook, by the task's grade id."""
    cells = {exercises.name(cell): cell for cell in notebook.cells if exercises.name(cell)}
    return {key: (cell, cells[f"{key}-check"]) for key, cell in cells.items() if f"{key}-check" in cells}


def python(source):
    """A cell's source without the line that installs the package on Colab."""
    return re.sub(r"^(\s*)%pip .*$", r"\1pass", source, flags=re.MULTILINE)


def run(source, names):
    """Execute a cell's source in a namespace, without its prints; return None or the exception."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            exec(compile(python(source), "cell", "exec"), names)  # noqa: S102
        except Exception as error:  # noqa: BLE001
            return error
    return None


@pytest.fixture(scope="module", params=SOURCES, ids=lambda path: path.stem)
def source(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(source):
    return exercises.read(source)


@pytest.fixture(scope="module")
def before(notebook):
    """The namespace before each task, from a run of the whole source notebook; every reference passes its test."""
    names, before_cell = {"__name__": "__main__"}, {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            before_cell[exercises.name(cell)] = dict(names)
            error = run(cell.source, names)
            assert error is None, f"{exercises.name(cell)}: the reference fails: {error!r}"
    return before_cell


def test_every_lesson_up_to_10_has_exercises():
    from busitools import notebooks

    lessons = {path.name[:2]: path.name for path in notebooks.lessons() if path.name[:2] <= "10"}
    assert lessons.items() <= {path.name[:2]: path.name for path in SOURCES}.items(), (
        "an exercise is named as its lesson"
    )


def test_committed_files_are_what_the_sources_give(tmp_path):
    made = {path.name: path.read_bytes() for path in exercises.write(SOURCES[0].parent, tmp_path)}
    committed = {path.name: path.read_bytes() for path in (SOURCES[0].parents[1] / "exercises").iterdir()}
    assert committed == made, "run `make exercises` and commit notebooks/exercises"


SOLUTION = re.compile(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", re.DOTALL)


def leaks(source_notebook, released):
    """All complaints about what a student could find in a released notebook."""
    text, complaints = json.dumps(released, ensure_ascii=False), []
    secret, public = [], []
    for cell in source_notebook.cells:
        secret += (exercises.hidden(cell) + "\n".join(SOLUTION.findall(cell.source))).splitlines()
        public += SOLUTION.sub("", exercises.HIDDEN.sub("", cell.source)).splitlines()
    for line in sorted(set(map(str.strip, secret))):
        if (
            len(line) > 12
            and not any(line in other for other in public)
            and json.dumps(line, ensure_ascii=False)[1:-1] in text
        ):
            complaints.append(f"a secret line is in the student's file: {line}")
    for mark in ("BEGIN SOLUTION", "END SOLUTION", "HIDDEN TESTS", "MARK SCHEME"):
        complaints += [f"the mark {mark!r} is in the student's file"] * (mark in text)
    allowed = {"grade", "grade_id", "locked", "points", "schema_version", "solution", "task", "checksum", "cell_type"}
    for cell in released.cells:
        extra = set(cell.metadata) - {"nbgrader", "deletable", "editable"}
        extra |= set(cell.metadata.get("nbgrader", {})) - allowed
        complaints += [f"metadata {key!r} is in the student's file" for key in sorted(extra)]
        if cell.get("outputs") or cell.get("execution_count"):
            complaints.append(f"{exercises.name(cell)} has an output or a count")
    extra = set(released.metadata) - {"kernelspec", "language_info"}
    return complaints + [f"metadata {key!r} is in the student's file" for key in sorted(extra)]


def test_nothing_of_the_source_leaks(notebook, source):
    released = nbformat.read(source.parent.parent / "exercises" / source.name, as_version=4)
    assert leaks(notebook, released) == []


def test_a_leak_is_found(notebook):
    """The search is proven: each kind of secret, put back, is found."""
    good = exercises.release(notebook)
    solution, test = next(iter(tasks(notebook).values()))
    secrets = {
        "solution": "\n".join(SOLUTION.findall(solution.source)),
        "hidden": exercises.hidden(test),
        "mark": "### BEGIN HIDDEN TESTS",
    }
    for what, text in secrets.items():
        bad = copy.deepcopy(good)
        bad.cells[2].source += "\n" + text
        assert leaks(notebook, bad), what
    bad = copy.deepcopy(good)
    bad.cells[3].outputs = [nbformat.v4.new_output("stream", text="42")]
    bad.cells[3].metadata["tags"] = ["secret"]
    bad.metadata["celltoolbar"] = "Create Assignment"
    assert len(leaks(notebook, bad)) == 3


def test_form(notebook, source):
    """4 to 6 tasks, points, a badge that opens this file, the set-up cell of the lessons, locked tests."""
    graded = [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade")]
    assert LEAST <= len(graded) <= MOST
    points = sum(cell.metadata.nbgrader.points for cell in graded)
    assert f"{len(graded)} tasks, {points} points" in notebook.cells[0].source
    home = skeleton.address().replace("https://github.com/", "https://colab.research.google.com/github/")
    assert f"({home}/blob/main/notebooks/exercises/{source.name})" in notebook.cells[0].source
    assert skeleton.PURPOSE in notebook.cells[0].source
    assert skeleton.check_setup(notebook) == []
    assert {exercises.name(cell)[:3] for cell in notebook.cells if exercises.name(cell)} == {f"{source.name[:2]}-"}
    for cell in graded:
        if cell.cell_type == "code":
            assert cell.metadata.nbgrader.locked and exercises.hidden(cell), exercises.name(cell)


def test_the_stub_fails(notebook, before):
    released = {exercises.name(cell): cell for cell in exercises.release(notebook).cells if exercises.name(cell)}
    for task in tasks(notebook):
        names = dict(before[task])
        run(released[task].source, names)
        assert run(released[f"{task}-check"].source, names) is not None, f"{task}: the stub as released passes"


def test_a_forgotten_return_is_named(notebook, before):
    for task, (solution, check) in tasks(notebook).items():
        if "return " in solution.source:
            names = dict(before[task])
            assert run(SOLUTION.sub("pass", solution.source), names) is None
            error = run(check.source, names)
            assert isinstance(error, AssertionError) and "return" in str(error), f"{task}: {error!r}"


def test_wrong_answers_are_refused_with_their_own_hint(notebook, source, before):
    by_task, hints = tasks(notebook), {}
    for task, name, hint, code in answers(source.name[:2]):
        names = dict(before[task])
        assert run(code, names) is None, f"{task}, {name}: the wrong answer itself fails"
        error = run(by_task[task][1].source, names)
        assert error is not None, f"{task}, {name}: this wrong answer passes"
        assert hint in str(error), f"{task}, {name}: expected the hint {hint!r}, got {error!r}"
        assert hint not in hints.setdefault(task, []), f"{task}: two wrong answers share the hint {hint!r}"
        hints[task].append(hint)
    for task in by_task:
        assert len(hints.get(task, [])) >= 3, f"{task} has {len(hints.get(task, []))} wrong answers; 3 at least"


def bad_region(notebook):
    notebook.cells[0].source += "\n### BEGIN SOLUTION\nx\n### END SOLUTION"


def open_region(notebook):
    cell = next(cell for cell in notebook.cells if "### END SOLUTION" in cell.source)
    cell.source = cell.source.replace("### END SOLUTION", "")


@pytest.mark.parametrize("spoil", [bad_region, open_region])
def test_a_source_that_is_wrong_is_refused(spoil):
    notebook = copy.deepcopy(exercises.read(SOURCES[0]))
    spoil(notebook)
    with pytest.raises(ClassroomError, match="no exercise can be made"):
        exercises.release(notebook)


def test_two_cells_of_one_name_are_refused():
    notebook = exercises.read(SOURCES[0])
    notebook.cells[4].metadata = notebook.cells[3].metadata
    with pytest.raises(ClassroomError, match="no exercise can be made"):
        exercises.release(notebook)
