"""Every lesson keeps the skeleton; and the checks are proven on bad notebooks."""

import copy

import nbformat
import papermill
import pytest

from busitools import notebooks
from tests.notebooks import skeleton

LESSONS = notebooks.lessons()
GOOD = notebooks.lessons(["01"])[0]  # what is spoiled below


def test_there_are_lessons():
    assert len(LESSONS) >= 6


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lesson_keeps_the_skeleton(path):
    assert skeleton.check_all(nbformat.read(path, as_version=4), path.name) == []


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_papermill_can_set_every_parameter(path):
    assert set(papermill.inspect_notebook(path)) == set(notebooks.parameters(path))


@pytest.fixture(scope="module")
def good():
    return nbformat.read(GOOD, as_version=4)


def first_code(notebook, tag=None):
    cells = [cell for cell in skeleton.code(notebook) if tag is None or tag in skeleton.tags(cell)]
    return cells[0]


def no_badge(notebook):
    notebook.cells[0].source = notebook.cells[0].source.replace("01_data", "02_data")


def no_purpose(notebook):
    notebook.cells[0].source = notebook.cells[0].source.replace("not for diagnosis", "")


def no_minutes(notebook):
    notebook.cells[0].source = notebook.cells[0].source.replace("Reading:", "")


def no_title(notebook):
    notebook.cells[0].source = notebook.cells[0].source.replace("# 01", "# 02")


def foreign_address(notebook):
    notebook.cells[2].source += "\nhttps://github.com/somebody/busi-notebooks"


def no_setup(notebook):
    notebook.cells[1].source = "import numpy"


def other_minutes_on_colab(notebook):
    notebook.cells[1].source = notebook.cells[1].source.replace("minutes=", "minutes=9")


def no_parameters(notebook):
    first_code(notebook, "parameters").metadata = {}


def computed_parameter(notebook):
    first_code(notebook, "parameters").source += "\nMORE = 1 + 1"


def parameters_in_disorder(notebook):
    cell = first_code(notebook, "parameters")
    cell.source = cell.source.replace("PROTOCOL", "AAA")


def too_many_parameters(notebook):
    first_code(notebook, "parameters").source += "".join(f"\nP{i} = {i}" for i in range(7))


def equals_sign_in_a_comment(notebook):
    first_code(notebook, "parameters").source += '\nFOLD = 0  # for PROTOCOL = "clean"'


def no_check_of_the_parameters(notebook):
    cell = skeleton.code(notebook)[2]
    cell.source = cell.source.replace("recipes.check_parameters(globals())\n", "")


def too_few_cells(notebook):
    notebook.cells = notebook.cells[:9] + notebook.cells[-3:]


def too_many_cells(notebook):
    notebook.cells[3:3] = [nbformat.v4.new_markdown_cell("more")] * (61 - len(notebook.cells))


def long_cell(notebook):
    skeleton.code(notebook)[3].source = "\n".join(["x = 1"] * 10)


def long_definition(notebook):
    skeleton.code(notebook)[3].source = "def f():" + "\n    x = 1" * 20


def two_long_definitions_in_a_section(notebook):
    cells = [nbformat.v4.new_code_cell("def f():" + "\n    x = 1" * 12) for _ in range(2)]
    notebook.cells[7:7] = [
        nbformat.v4.new_markdown_cell("one"),
        cells[0],
        nbformat.v4.new_markdown_cell("two"),
        cells[1],
    ]


def wide_line(notebook):
    skeleton.code(notebook)[3].source += "\nx = 1  # " + "x" * 100


def no_text_before(notebook):
    del notebook.cells[4]


def no_exercises(notebook):
    notebook.cells[-1].source = notebook.cells[-1].source.replace("**Exercises**", "")


def next_is_no_link(notebook):
    notebook.cells[-1].source = notebook.cells[-1].source.replace("**Next**: [", "**Next**: ")


def link_to_nowhere(notebook):
    notebook.cells[-1].source = notebook.cells[-1].source.replace("(exercises/01", "(exercises/99")


def no_quiz(notebook):
    notebook.cells[-2].source = "## Something else"


def wrong_answer_without_a_reason(notebook):
    notebook.cells[-2].source = notebook.cells[-2].source.replace("* a)", "* d)", 1)


def nothing_to_predict(notebook):
    for cell in notebook.cells:
        cell.source = cell.source.replace("**Predict first.**", "")


def unanswered(notebook):
    notebook.cells[6].source += "\n**Predict first.** Why?" * 20


def unclosed(notebook):
    notebook.cells[6].source += "\n<details>"


def counted_wrongly(notebook):
    skeleton.code(notebook)[2].execution_count = 99


def machine_path(notebook):
    output(notebook, "see /home/ada/busi/benign (1).png")


def progress_bar(notebook):
    output(notebook, " 40%|████      | 4/10 [00:01<00:02]")


def warning(notebook):
    output(notebook, "x.py:3: UserWarning: careful")


def stderr(notebook):
    output(notebook, "careful", name="stderr")


def output(notebook, text, name="stdout"):
    skeleton.code(notebook)[3].outputs.append(nbformat.v4.new_output("stream", name=name, text=text))


def undescribed_picture(notebook):
    picture = nbformat.v4.new_output("display_data", data={"image/png": "aGVsbG8="})
    skeleton.code(notebook)[3].outputs.append(picture)


def too_few_exact(notebook):
    for cell in skeleton.code(notebook):
        cell.metadata = {"tags": [tag for tag in skeleton.tags(cell) if tag == "parameters"]}


def exact_without_output(notebook):
    first_code(notebook, "nbval-check-output").outputs = []


BAD = {
    no_badge: "lacks a Colab badge that opens",
    no_purpose: "not for diagnosis",
    no_minutes: "lacks the minutes",
    no_title: "lacks a title",
    foreign_address: "'somebody/busi-notebooks' is not the project's own",
    no_setup: "cell 2, the set-up cell, lacks",
    other_minutes_on_colab: "lacks 'colab.start(minutes=1,'",
    no_parameters: "0 cells are tagged 'parameters'",
    computed_parameter: "is no plain assignment",
    parameters_in_disorder: "the parameters must begin with DATASET",
    too_many_parameters: "at most six",
    equals_sign_in_a_comment: "parameters line 8 has a comment with '='",
    no_check_of_the_parameters: "does not begin with 'from busilib import recipes",
    too_few_cells: "12 cells; a sitting is 25 to 60",
    too_many_cells: "61 cells; a sitting is 25 to 60",
    long_cell: "has 10 lines; 3 to 6 is the rule, 9 the limit",
    long_definition: "has 21 lines; 3 to 6 is the rule, 20 the limit",
    two_long_definitions_in_a_section: "has 13 lines; 3 to 6 is the rule, 9 the limit",
    wide_line: "characters; 100 is the limit",
    no_text_before: "no text cell before it",
    no_exercises: "the last cell lacks **Exercises**",
    next_is_no_link: "the last cell lacks **Next**",
    link_to_nowhere: "which does not exist",
    no_quiz: "'## Quiz' is not in its place",
    wrong_answer_without_a_reason: "question 1 needs three options",
    nothing_to_predict: "no question '**Predict first.**",
    unanswered: "<details> answers for",
    unclosed: "a <details> block is not closed",
    counted_wrongly: "not counted 1..n",
    machine_path: "stored a machine path",
    progress_bar: "stored a progress bar",
    warning: "stored a warning",
    stderr: "something on stderr",
    undescribed_picture: "a picture without a description",
    too_few_exact: "tagged 'nbval-check-output'; at least 5",
    exact_without_output: "has no output",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda function: function.__name__)
def test_bad_notebook_is_complained_about(good, spoil):
    notebook = copy.deepcopy(good)
    spoil(notebook)
    complaints = skeleton.check_all(notebook, GOOD.name)
    assert any(BAD[spoil] in complaint for complaint in complaints), complaints
