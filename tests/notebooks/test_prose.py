"""The prose of 07, 08, 11 and 12 says what was measured; and the check is proven on bad texts."""

import nbformat
import pytest

from busitools import notebooks
from tests.notebooks import prose


@pytest.fixture(scope="module")
def numbers():
    return prose.values()


@pytest.mark.parametrize("number", ["07", "08", "11", "12"])
def test_every_number_names_its_result_and_is_it(number, numbers):
    assert prose.check_prose(nbformat.read(notebooks.lessons([number])[0], as_version=4), numbers) == []


@pytest.mark.parametrize("number", ["07", "08"])
def test_there_are_numbers_to_check(number):
    text = "".join(cell.source for cell in nbformat.read(notebooks.lessons([number])[0], as_version=4).cells)
    assert text.count("<!-- ") >= 3


def complaints(text):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    return prose.check_prose(notebook, {"A table 1": 93.16, "worth": -4.25})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("It reached 93.16 %.", "names no stored result"),
        ("It reached 0.7 of all.", "names no stored result"),
        ("About 40 % have a sibling.", "names no stored result"),
        ("It reached 93.17 %<!-- A table 1 -->.", "is not what 'A table 1' holds, 93.16"),
        ("It reached 93.16 %<!-- A table 9 -->.", "which does not exist"),
        ("Worth 4.2<!-- worth --> points.", "is not what 'worth' holds"),
        ("**0.7** and 0.8<!-- an example -->", "'0.7' names no stored result"),
    ],
)
def test_bad_prose_is_complained_about(text, complaint):
    (only,) = complaints(text)
    assert complaint in only


@pytest.mark.parametrize(
    "text",
    [
        "It reached 93.16 %<!-- A table 1 -->, or 93.2 %<!-- A table 1 -->, or 93 %<!-- A table 1 -->.",
        "Worth −4.3<!-- worth --> points (rounded), of 117 images, in 2024.",
        "Say `0.05` or $p < 0.05$; see [here](https://example.org/1.5/x); doi 10.1016/j.dib.2019.104863.",
        "A threshold of 95 %<!-- an example -->, the 0.05<!-- a convention --> level.",
    ],
)
def test_good_prose_passes(text):
    assert complaints(text) == []
