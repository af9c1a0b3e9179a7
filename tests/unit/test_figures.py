"""Figures are made from arrays and tables, and say in words what they show: a short caption, a full description."""

import io
import re
import string
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busilib import figures
from busilib.recipes import CLASSES

EPOCHS = pd.DataFrame(
    {"epoch": [1, 2], "accuracy": [0.5, 0.75], "loss": [1.0, 0.5], "val_accuracy": [0.4, 0.6], "val_loss": [1.1, 0.9]}
)
MATRIX = [[63, 3, 0], [4, 27, 0], [0, 0, 20]]
SCORES = pd.DataFrame({"score": [0.8, np.nan], "low": [0.7, np.nan], "high": [0.9, np.nan]}, index=["phase 1", "2"])
POINTS = {"benign": [-3.0, 1.0, np.nan], "normal": [np.nan]}
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
LESION = np.pad(np.ones((6, 6), bool), 7)
MAPS = np.pad(np.ones((2, 1, 1)), ((0, 0), (2, 1), (1, 2)))  # the highest cell is outside the lesion
PEAKS = [[0.625, 0.375], [np.nan, np.nan]]

INTERVALS = SCORES.rename(columns={"score": "mean"}).dropna()
SYSTEMS = pd.DataFrame({name: [0.8, 0.7] for name in ("accuracy", "difference")}, index=["forest", "svm"])
SYSTEMS = SYSTEMS.assign(**{f"{name}_{end}": SYSTEMS[name] for name in SYSTEMS for end in ("low", "high")})
SYSTEMS = SYSTEMS.assign(printed=[90, np.nan], same_kind=True)
RUNS = pd.DataFrame({"protocol": "clean", "seed": [0, 1], "test_accuracy": [0.5, 0.75]})
MEANS = RUNS.assign(test_accuracy_low=0.4, test_accuracy_high=0.8)

PICTURES = {
    "scans": (lambda: figures.scans(PIXELS, ["a", "b"], [LESION, None]), "2 scans. The yellow line is"),
    "labelled": (lambda: figures.labelled(PIXELS, "ab", [{"lesion": (3, 4)}] * 2), "a, from top to bottom: lesion."),
    "panels": (lambda: figures.panels({"home": SCORES.dropna()}), "phase 1: home: 0.80 (0.70 to 0.90)"),
    "curves": (lambda: figures.curves({"frozen": EPOCHS}, EPOCHS), "accuracy goes from 0.50 to 0.75 in 2 epochs"),
    "confusion": (lambda: figures.confusion({"A": MATRIX}, CLASSES), "A: benign: 63, 3, 0; malignant: 4, 27, 0"),
    "scores": (lambda: figures.scores(SCORES, "share", 0.5), "phase 1: 0.80 (0.70 to 0.90); 2: none. The majority"),
    "one_against_rest": (lambda: figures.one_against_rest(MATRIX, CLASSES), "benign: TP 63, FN 3, FP 4, TN 47"),
    "points": (lambda: figures.points(POINTS, "grey"), "median -1.00, from -3.00 to 1.00, 50% of 2 scans below zero"),
    "heat": (lambda: figures.heat(PIXELS, MAPS, [LESION, LESION], PEAKS, ["a", "b"]), "the peak: inside in 1 of 2"),
    "right_counts": (lambda: figures.right_counts([3, 5, 5], {"Table 1": 4}, "right"), "Marked: Table 1 4."),
    "worth": (lambda: figures.worth({"BUSI": INTERVALS}), "BUSI: phase 1: +0.8 (+0.7 to +0.9)."),
    "comparison": (lambda: figures.comparison(SYSTEMS, 0.5), "measured on breast ultrasound: forest 90 %."),
    "by_parameter": (lambda: figures.by_parameter(RUNS, MEANS, "seed"), "seed 0: 0.500 (0.400 to 0.800); 1: 0.750"),
}


def is_short(caption):
    """One or two sentences in at most 220 characters."""
    return len(caption) <= 220 and 1 <= len(re.findall(r"[.?!](?= |$)", caption)) <= 2 and caption[-1] in ".?!"


@pytest.mark.parametrize("bad", ["", "No full stop", "One. Two. Three.", "a" * 220 + "."])
def test_a_caption_that_is_none_or_too_long_is_seen(bad):
    assert is_short("A point per scan (95 % intervals); p = 0.5. Two.") and not is_short(bad)


@pytest.mark.parametrize("name", PICTURES)
def test_a_figure_is_drawn_and_described(name):
    make, words = PICTURES[name]
    picture = make()
    assert is_short(picture.caption) and picture.description.startswith(f"{picture.caption} ")
    assert words in picture.description
    image = np.asarray(Image.open(io.BytesIO(picture.png)).convert("L"))
    assert image.shape[0] > 100 and image.std() > 5, "an empty picture"


def test_every_function_that_makes_a_picture_is_drawn_here():
    made = {name for make, _ in PICTURES.values() for name in make.__code__.co_names}
    assert {
        name
        for name, value in vars(figures).items()
        if callable(value) and value.__module__ == figures.__name__ and name[0] in string.ascii_lowercase
    } - made == {"drawing"}


def test_the_captions_of_the_drawings_are_short():
    files = list(Path(figures.__file__).parent.glob("drawings/*.svg"))
    titles = [ElementTree.parse(file).findtext("{http://www.w3.org/2000/svg}title") for file in files]
    assert len(files) >= 3 and all(map(is_short, titles))


def test_no_scans_give_a_picture_that_says_so():
    assert figures.scans([], []).description.startswith("0 scans")


def test_the_outline_is_drawn():
    plain, outlined = (figures.scans(PIXELS[:1], ["a"], masks) for masks in (None, [LESION]))
    assert plain.png != outlined.png
