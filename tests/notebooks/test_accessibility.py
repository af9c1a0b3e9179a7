"""For readers who see less, or otherwise: pictures are described, colours can be told apart, headings are in order."""

import ast
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
EXERCISES = sorted((notebooks.folder() / "exercises").glob("*.ipynb"))

# Below this distance (CAM02-UCS) two colours are easily mixed up in a small mark.
APART = 10
SIGHTS = ("deuteranomaly", "protanomaly", "tritanomaly")


class Reader(HTMLParser):
    """The pictures' alternative texts and the levels of the headings of a page."""

    def __init__(self, text):
        super().__init__()
        self.alts, self.levels = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img" and (values.get("src") or "").startswith("data:image/"):
            self.alts.append(" ".join(values.get("alt", "").split()))
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))


# Pictures.


def alts(output):
    """The alternative texts of the pictures of one output; "" where there is none."""
    data = output.get("data", {})
    if "image/png" in data:
        return [output.metadata.get("image/png", {}).get("alt", "")]
    return Reader(data.get("text/html", "")).alts


def undescribed(outputs):
    """The pictures that have no description, or no caption below them."""
    pairs = itertools.zip_longest(outputs, outputs[1:], fillvalue={})
    captions = [
        (alt, below.get("data", {}).get("text/markdown", "")) for output, below in pairs for alt in alts(output)
    ]
    return [alt for alt, caption in captions if len(alt) < 20 or not re.fullmatch(r"\*Figure\. .+\*\s*", caption)]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_pictures_and_headings_of_a_lesson_and_its_page(path, tmp_path):
    copied = tmp_path / path.name
    copied.write_bytes(path.read_bytes())
    page = Reader(notebooks.page(copied).read_text(encoding="utf-8"))
    outputs = [cell.get("outputs", []) for cell in nbformat.read(path, as_version=4).cells]
    described = [alt for cell in outputs for output in cell for alt in alts(output)]
    assert not [alt for cell in outputs for alt in undescribed(cell)]
    assert described and page.alts == described and out_of_order(page.levels) == []


@pytest.fixture
def shown(monkeypatch):
    """What a picture and a drawing display, as the outputs of a cell."""
    outputs = []

    def display(data, metadata=None, raw=False):
        data = data if raw else {"text/markdown": data.data}
        outputs.append(nbformat.from_dict({"data": data, "metadata": metadata or {}}))

    monkeypatch.setattr("IPython.display.display", display)
    figures.scans([np.zeros((9, 9))] * 2, ["one black square", "another"])._ipython_display_()
    figures.drawing("workflows")
    return outputs


def test_a_picture_and_a_drawing_are_described(shown):
    assert [len(alts(output)) for output in shown] == [1, 0, 1, 0] and undescribed(shown) == []
    assert "no validation set of its own" in alts(shown[2])[0]
    assert [output["data"]["text/markdown"] for output in shown[1::2]] == [
        "*Figure. 2 scans.*",
        "*Figure. The steps of the two papers, side by side and from top to bottom: data, split, training, scores.*",
    ]


def test_a_missing_description_is_found(shown):
    assert len(undescribed(shown[1::-1])) == 1, "above, not below"
    assert len(undescribed(shown[:1])) == len(undescribed([shown[0], shown[0], shown[1]])) == 1, "no caption"
    shown[1]["data"]["text/markdown"] = "*Figure. *"
    assert len(undescribed(shown)) == 1, "an empty caption"
    shown[0]["metadata"] = nbformat.from_dict({})
    shown[2]["data"]["text/html"] = shown[2]["data"]["text/html"].replace("alt=", "title=")
    assert undescribed(shown) == ["", ""], "no alternative text"


# Headings.


def out_of_order(levels):
    """Complaints about a page's heading levels: one of level 1, the first; then no level is skipped on the way down."""
    complaints = [] if levels[:1] == [1] and levels.count(1) == 1 else [f"level 1 must come once, first: {levels}"]
    steps = zip(levels, levels[1:], strict=False)
    return complaints + [f"level {b} follows level {a}" for a, b in steps if b > a + 1]


@pytest.mark.parametrize("path", [*LESSONS, *EXERCISES], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_headings_are_in_order(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(re.sub(r"```.*?```", "", c.source, flags=re.S) for c in cells if c.cell_type == "markdown")
    assert out_of_order([len(marks) for marks in re.findall(r"^(#{1,6}) ", text, re.MULTILINE)]) == []


@pytest.mark.parametrize("bad", [[2, 3], [1, 3], [1, 2, 1], [1, 2, 4], []])
def test_bad_headings_are_found(bad):
    assert out_of_order(bad)


# Colours.


def closest(colours):
    """The smallest distance between two colours for normal sight and three kinds of colour blindness: (distance, pair).

    Simulation: Machado, Oliveira & Fernandes, IEEE TVCG 15 (2009) 1291, at full severity, by colorspacious.
    """
    import colorspacious

    rgb = np.array([list(bytes.fromhex(colour[1:])) for colour in colours]) / 255
    distances = []
    for sight in (None, *SIGHTS):
        space = {"name": "sRGB1+CVD", "cvd_type": sight, "severity": 100}
        seen = np.clip(colorspacious.cspace_convert(rgb, space, "sRGB1"), 0, 1) if sight else rgb
        for (a, one), (b, other) in itertools.combinations(zip(colours, seen, strict=True), 2):
            distances.append((float(colorspacious.deltaE(one, other, input_space="sRGB1")), a, b, sight))
    return min(distances)


def palettes():
    """The colours that each function of figures.py and each drawing uses together, constants resolved."""
    constants = {name: str(value) for name, value in vars(figures).items() if name.isupper()}
    source = Path(figures.__file__).read_text(encoding="utf-8")
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    texts = {
        node.name: re.sub(r"\b[A-Z_]+\b", lambda m: constants.get(m[0], ""), ast.unparse(node)) for node in functions
    }
    drawings = Path(figures.__file__).parent.glob("drawings/*.svg")
    for name, text in (texts | {file.stem: file.read_text(encoding="utf-8") for file in drawings}).items():
        colours = sorted(set(re.findall("#[0-9A-F]{6}", text)))
        if len(colours) > 1:
            yield pytest.param(colours, id=name)


@pytest.mark.parametrize("colours", list(palettes()))
def test_colours_used_together_can_be_told_apart(colours):
    distance, *pair = closest(colours)
    assert distance >= APART, f"{pair}: {distance:.1f}"


@pytest.mark.parametrize("bad", [("#2CA02C", "#D62728"), ("#0000FF", "#6000C0"), ("#808080", "#858585")])
def test_colours_that_are_mixed_up_are_found(bad):
    assert closest(list(bad))[0] < APART
