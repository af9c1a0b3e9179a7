"""The lessons hold for data that lack optional things: a class, all masks."""

import shutil

import pytest

from busitools import notebooks

# What makes a lesson smaller; what it shows stays the same.
SMALLER = {"00": {"EPOCHS": 2}, "03": {"IMAGE_SIZE": 32}, "06": {"SEEDS": 1}, "07": {"SEEDS": 2}, "10": {"SEEDS": 3}}
SAYS = {"02": "No masks", "06": "No masks", "07": "Not every scan", "09": "no masks", "11": "No masks"}


@pytest.fixture(scope="module")
def bare(phantom_dir, tmp_path_factory):
    """A folder of 50 scans: benign and malignant, and no masks."""
    folder = tmp_path_factory.mktemp("data") / "bare"
    for label in ("benign", "malignant"):
        shutil.copytree(phantom_dir / label, folder / label, ignore=shutil.ignore_patterns("*_mask*"))
    return folder


@pytest.mark.slow  # half a minute to a minute and a half of processor time each
@pytest.mark.parametrize("path", notebooks.lessons(), ids=lambda path: path.stem)
def test_two_classes_without_masks(path, bare, tmp_path):
    given = {"DATASET": str(bare), "RUNS": str(tmp_path / "runs")}
    done = notebooks.execute(path, tmp_path / path.name, given | SMALLER.get(path.stem[:2], {}))
    assert done.error is None
    assert SAYS.get(path.stem[:2], "") in done.output.read_text(encoding="utf-8")
