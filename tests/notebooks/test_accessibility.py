"""For readers who see less, or otherwise: pictures are described, colours can be told apart, headings are in order."""

import ast
import copy
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest

from busilib import figures
from busitools import notebooks

LESSONS = notebooks.lessons()
ROOT = notebooks.folder()
EXERCISES = sorted((ROOT / "exercises").glob("*.ipynb"))
WITHOUT = "No description has been provided for this image"  # what nbconvert writes when there is none

# Below this distance (CAM02-UCS) two colours are easily mixed up in a small mark.
APART = 10
SIGHTS = ("deuteranomaly", "protanomaly", "tritanomaly")


def stem(path):
    return path.stem


# Pictures.


def undescribed(notebook):
    """Complaints about stored pictures whose description does not stand below them."""
    complaints = []
    for number, cell in enumerate(notebook.cells, start=1):
        outputs = cell.get("outputs", [])
        for output, below in itertools.zip_longest(outputs, outputs[1:], fillvalue={}):
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt", "")
                text = below.get("data", {}).get("text/markdown", "")
                if len(alt) < 20 or f"*Figure. {alt}*" != text.strip():
                    complaints.append(f"cell {number}: a picture without its description below it")
    return complaints


@pytest.mark.parametrize("path", LESSONS, ids=stem)
def test_each_picture_has_its_description_below(path):
    assert undescribed(nbformat.read(path, as_version=4)) == []


class Reader(HTMLParser):
    """Collects the pictures' alternative texts and the levels of the headings of a page."""

    def __init__(self):
        super().__init__()
        self.alts, self.levels = [], []

    def handle_starttag(self, tag, attributes):
        if tag == "img" and dict(attributes).get("src", "").startswith("data:image/png"):
            self.alts.append(dict(attributes).get("alt", ""))
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))


@pytest.fixture(scope="module", params=LESSONS, ids=stem)
def page(request, tmp_path_factory):
    """A lesson as stored and its exported page, read."""
    copied = tmp_path_factory.mktemp("page") / request.param.name
    copied.write_bytes(request.param.read_bytes())
    reader = Reader()
    reader.feed(notebooks.page(copied).read_text(encoding="utf-8"))
    return nbformat.read(request.param, as_version=4), reader


def test_exported_page_has_the_alternative_texts(page):
    notebook, reader = page
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    wanted = [output.metadata["image/png"]["alt"] for output in outputs if "image/png" in output.get("data", {})]
    assert wanted and WITHOUT not in reader.alts
    assert [" ".join(alt.split()) for alt in reader.alts] == wanted


def no_alt(output):
    output.metadata = {}


def empty_alt(output):
    output.metadata["image/png"]["alt"] = ""


@pytest.mark.parametrize("spoil", [no_alt, empty_alt])
def test_a_picture_without_description_is_found(spoil):
    notebook = copy.deepcopy(nbformat.read(LESSONS[0], as_version=4))
    pictures = [o for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    spoil(pictures[1])
    assert len(undescribed(notebook)) == 1


def test_a_description_elsewhere_is_not_enough():
    notebook = nbformat.read(LESSONS[0], as_version=4)
    cell = next(c for c in notebook.cells if any("image/png" in o.get("data", {}) for o in c.get("outputs", [])))
    cell.outputs.reverse()
    assert undescribed(notebook)


# Headings.


def out_of_order(levels):
    """Complaints about a page's heading levels: one of level 1, the first; then no level is skipped on the way down."""
    complaints = [] if levels[:1] == [1] and levels.count(1) == 1 else [f"level 1 must come once, first: {levels}"]
    steps = zip(levels, levels[1:], strict=False)
    return complaints + [f"level {b} follows level {a}" for a, b in steps if b > a + 1]


def levels(notebook):
    text = "\n".join(
        re.sub(r"```.*?```", "", c.source, flags=re.S) for c in notebook.cells if c.cell_type == "markdown"
    )
    return [len(marks) for marks in re.findall(r"^(#{1,6}) ", text, re.MULTILINE)]


@pytest.mark.parametrize("path", [*LESSONS, *EXERCISES], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_headings_are_in_order(path):
    assert out_of_order(levels(nbformat.read(path, as_version=4))) == []


def test_headings_of_the_page_are_in_order(page):
    assert out_of_order(page[1].levels) == []


@pytest.mark.parametrize("bad", [[2, 3], [1, 3], [1, 2, 1], [1, 2, 4], []])
def test_bad_headings_are_found(bad):
    assert out_of_order(bad)


# Colours.


def closest(colours):
    """The smallest distance between two colours for normal sight and three kinds of colour blindness: (distance, pair).

    Simulation: Machado, Oliveira & Fernandes, IEEE TVCG 15 (2009) 1291, at full severity, by colorspacious.
    """
    import colorspacious

    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    found = []
    for sight in (None, *SIGHTS):
        seen = rgb
        if sight:
            space = {"name": "sRGB1+CVD", "cvd_type": sight, "severity": 100}
            seen = np.clip(colorspacious.cspace_convert(rgb, space, "sRGB1"), 0, 1)
        for (a, one), (b, other) in itertools.combinations(zip(colours, seen, strict=True), 2):
            found.append((float(colorspacious.deltaE(one, other, input_space="sRGB1")), a, b, sight or "normal sight"))
    return min(found)


def palettes():
    """The colours that each function of figures.py uses together, constants resolved."""
    tree = ast.parse(Path(figures.__file__).read_text(encoding="utf-8"))
    for function in [node for node in tree.body if isinstance(node, ast.FunctionDef)]:
        used = set()
        for node in ast.walk(function):
            if isinstance(node, ast.Constant) and re.fullmatch(r"#[0-9A-Fa-f]{6}", str(node.value)):
                used.add(node.value.upper())
            if isinstance(node, ast.Name) and node.id == "COLOURS":
                used |= {colour.upper() for colour in figures.COLOURS.values()}
            if isinstance(node, ast.Name) and node.id in ("TRAIN", "VALIDATION", "PAPER"):
                used.add(getattr(figures, node.id).upper())
        if len(used) > 1:
            yield pytest.param(sorted(used), id=function.name)


@pytest.mark.parametrize("colours", list(palettes()))
def test_colours_used_together_can_be_told_apart(colours):
    distance, *pair = closest(colours)
    assert distance >= APART, f"{pair}: {distance:.1f}"


@pytest.mark.parametrize("bad", [("#2CA02C", "#D62728"), ("#0000FF", "#6000C0"), ("#808080", "#858585")])
def test_colours_that_are_mixed_up_are_found(bad):
    assert closest(list(bad))[0] < APART
