"""Figures are made from arrays and tables, and say in words what they show."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import auc, average_precision_score

from busilib import figures
from busilib.recipes import CLASSES

EPOCHS = pd.DataFrame(
    {"epoch": [1, 2], "accuracy": [0.5, 0.75], "loss": [1.0, 0.5], "val_accuracy": [0.4, 0.6], "val_loss": [1.1, 0.9]}
)
MATRIX = [[63, 3, 0], [4, 27, 0], [0, 0, 20]]
COUNTS = pd.DataFrame({"images": [4, 2], "masks": [5, 2], "files": [9, 4]}, index=["benign", "malignant"])
SIZES = pd.DataFrame({"label": ["benign", "normal"], "width": [200, 390], "height": [300, 250]})
SCORES = pd.DataFrame({"score": [0.8, np.nan], "low": [0.7, np.nan], "high": [0.9, np.nan]}, index=["phase 1", "2"])
POINTS = {"benign": [-3.0, 1.0, np.nan], "normal": [np.nan]}
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
LESION = np.pad(np.ones((6, 6), bool), 7)
MAPS = np.pad(np.ones((2, 1, 1)), ((0, 0), (2, 1), (1, 2)))  # the highest cell is outside the lesion
PEAKS = [[0.625, 0.375], [np.nan, np.nan]]
FEATURES = {"conv": np.zeros((4, 4, 3)), "first": np.ones((20, 20, 3))}

PICTURES = {
    "scans": (lambda: figures.scans(PIXELS, ["a", "b"], [LESION, None]), "2 scans: a; b."),
    "class_balance": (lambda: figures.class_balance(COUNTS), "benign: 4 images and 5 masks"),
    "sizes": (lambda: figures.sizes(SIZES), "widths from 200 to 390 pixels"),
    "curves": (lambda: figures.curves({"frozen": EPOCHS}, EPOCHS), "accuracy goes from 0.50 to 0.75 in 2 epochs"),
    "confusion": (lambda: figures.confusion({"A": MATRIX}, CLASSES), "A: benign: 63, 3, 0; malignant: 4, 27, 0"),
    "scores": (lambda: figures.scores(SCORES, "share", 0.5), "phase 1: 0.80 (0.70 to 0.90); 2: none; the majority"),
    "one_against_rest": (lambda: figures.one_against_rest(MATRIX, CLASSES), "benign: TP 63, FN 3, FP 4, TN 47"),
    "points": (lambda: figures.points(POINTS, "grey"), "median -1.00, from -3.00 to 1.00, 50% of 2 scans below zero"),
    "heat": (lambda: figures.heat(PIXELS, MAPS, [LESION, LESION], PEAKS, ["a", "b"]), "the peak: inside in 1 of 2"),
    "feature_maps": (lambda: figures.feature_maps(PIXELS[0], FEATURES), "conv: 4 × 4 places, 100% of the values"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_figure_is_drawn_and_described(name):
    make, words = PICTURES[name]
    picture = make()
    assert words in picture.description
    image = np.asarray(Image.open(io.BytesIO(picture.png)).convert("L"))
    assert image.shape[0] > 100 and image.std() > 5, "an empty picture"


def test_no_scans_and_no_mistakes_give_a_picture_that_says_so():
    assert figures.scans([], []).description.startswith("0 scans")
    assert figures.mistakes(pd.DataFrame(), [], []).description.startswith("0 mistakes")


def test_the_outline_is_drawn():
    plain, outlined = (figures.scans(PIXELS[:1], ["a"], masks) for masks in (None, [LESION]))
    assert plain.png != outlined.png


def test_the_drawn_precision_recall_curve_has_the_average_precision_as_its_area(monkeypatch):
    """Precision between two thresholds is not what a straight line says: the drawn line goes in steps."""
    monkeypatch.setattr(figures, "Picture", lambda figure, description: figure)
    rng = np.random.default_rng(0)
    truth = rng.random(60) < 0.3
    p = rng.random(60) + 0.3 * truth
    drawn = figures.roc_and_precision_recall(truth, {"model": p}).axes[1].get_lines()[0].get_path().vertices
    assert auc(*drawn.T) == pytest.approx(average_precision_score(truth, p))
