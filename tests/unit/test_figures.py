"""Figures are made from arrays and tables, and say in words what they show."""

import io

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
COUNTS = pd.DataFrame({"images": [4, 2], "masks": [5, 2], "files": [9, 4]}, index=["benign", "malignant"])
SIZES = pd.DataFrame({"label": ["benign", "normal"], "width": [200, 390], "height": [300, 250]})
SCORES = pd.DataFrame({"score": [0.8], "low": [0.7], "high": [0.9]}, index=["phase 1"])
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
LESION = np.pad(np.ones((6, 6), bool), 7)

PICTURES = {
    "workflows": (lambda: figures.workflows(), "Paper A has no validation part of its own"),
    "scans": (lambda: figures.scans(PIXELS, ["a", "b"], [LESION, None]), "2 scans: a; b."),
    "class_balance": (lambda: figures.class_balance(COUNTS), "benign: 4 images and 5 masks"),
    "sizes": (lambda: figures.sizes(SIZES), "widths from 200 to 390 pixels"),
    "curves": (lambda: figures.curves({"frozen": EPOCHS}, EPOCHS), "accuracy goes from 0.50 to 0.75 in 2 epochs"),
    "confusion": (lambda: figures.confusion({"A": MATRIX}, CLASSES), "A: benign: 63, 3, 0; malignant: 4, 27, 0"),
    "scores": (lambda: figures.scores(SCORES, baseline=0.5), "phase 1: 0.80, 95 % interval 0.70 to 0.90"),
    "one_against_rest": (lambda: figures.one_against_rest(MATRIX, CLASSES), "benign: TP 63, FN 3, FP 4, TN 47"),
    "cnn_structure": (lambda: figures.cnn_structure(), "convolution"),
    "inception_resnet_block": (lambda: figures.inception_resnet_block(), "concatenated"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_figure_is_drawn_and_described(name):
    make, words = PICTURES[name]
    picture = make()
    assert words in picture.description
    image = np.asarray(Image.open(io.BytesIO(picture.png)).convert("L"))
    assert image.shape[0] > 100 and image.std() > 5, "an empty picture"


def test_no_scans_give_a_picture_that_says_so():
    assert figures.scans([], []).description.startswith("0 scans")


def test_the_outline_is_drawn():
    plain, outlined = (figures.scans(PIXELS[:1], ["a"], masks) for masks in (None, [LESION]))
    assert plain.png != outlined.png


def test_a_picture_shows_itself_with_its_description_as_alternative_text(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *data, **options: shown.append((data, options)))
    picture = figures.workflows()
    picture._ipython_display_()
    (image, options), (caption, _) = shown
    assert image[0]["image/png"] == picture.png
    assert options["metadata"]["image/png"]["alt"] == picture.description
    assert picture.description in caption[0].data


def test_the_class_colours_differ_in_brightness_for_the_colour_blind():
    def brightness(colour):
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    values = sorted(brightness(colour) for colour in figures.COLOURS.values())
    assert list(figures.COLOURS) == list(CLASSES)
    assert min(np.diff(values)) > 5
