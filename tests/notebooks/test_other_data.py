"""The lessons hold for data that lack optional things (a class, all masks), and for each choice from a list."""

import shutil

import pytest

from busilib import recipes
from busitools import notebooks

# What makes a lesson smaller; what it shows stays the same.
SMALLER = {"00": {"EPOCHS": 2}, "03": {"IMAGE_SIZE": 32}, "06": {"SEEDS": 1}, "07": {"SEEDS": 2}, "10": {"SEEDS": 3}}
SAYS = {"02": "No masks", "06": "No masks", "07": "Not every scan", "09": "no masks", "11": "No masks"}
CHOICES = ("PROTOCOL", "PREPROCESSING", "UNFREEZE", "FILL_MODE")
NAMES = {
    "00": {"WEIGHTS": "none"},
    "05": {"WEIGHTS": "none", "WEIGHTS_B": "none"},
    "07": {"BACKBONE": "MobileNetV2"},
    "09": {"BASE": "MobileNetV2"},
    "11": {"BACKBONE": "MobileNetV2"},
}


@pytest.fixture(scope="module")
def bare(phantom_dir, tmp_path_factory):
    """A folder of 50 scans: benign and malignant, and no masks."""
    folder = tmp_path_factory.mktemp("data") / "bare"
    for label in ("benign", "malignant"):
        shutil.copytree(phantom_dir / label, folder / label, ignore=shutil.ignore_patterns("*_mask*"))
    return folder


def other_choices():
    """Return (lesson, values that are not its defaults) pairs, as many as it takes to try each choice on offer."""
    pairs = []
    for path in notebooks.lessons():
        defaults = notebooks.parameters(path)
        others = {
            name: [one for one in recipes.PARAMETERS[name] if one != defaults[name]]
            for name in CHOICES
            if name in defaults
        }
        for k in range(max(map(len, others.values()))):
            given = {name: values[k % len(values)] for name, values in others.items()} | NAMES.get(path.stem[:2], {})
            pairs.append(pytest.param(path, given, id="-".join([path.stem[:2], *map(str, given.values())])))
    return pairs


@pytest.mark.slow  # half a minute to a minute and a half of processor time each
@pytest.mark.parametrize(("path", "choices"), other_choices())
def test_two_classes_without_masks(path, choices, bare, tmp_path):
    given = {"DATASET": str(bare), "RUNS": str(tmp_path / "runs"), **choices}
    done = notebooks.execute(path, tmp_path / path.name, given | SMALLER.get(path.stem[:2], {}))
    assert done.error is None, choices
    assert SAYS.get(path.stem[:2], "") in done.output.read_text(encoding="utf-8")
