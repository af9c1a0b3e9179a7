"""What lessons 01 and 02 write out is what the library does under the same settings."""

import ast
import random
import re

import nbformat
import numpy as np
import pytest
from PIL import Image

from busilib.data import images
from busilib.data.files import natural_key
from busilib.learning import keras
from busilib.learning.augmentation import RandomAffine
from busitools import notebooks


def functions(number, **names):
    """Return the functions that a lesson's cells define, by name; ``names`` is what they use."""
    for cell in nbformat.read(notebooks.lessons([number])[0], as_version=4).cells:
        if cell.cell_type == "code" and "\ndef " in f"\n{cell.source}":
            definitions = [node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)]
            exec(compile(ast.Module(definitions, []), cell.id, "exec"), names)  # noqa: S102
    return names


def test_natural_order():
    written = functions("01", re=re, np=np, Image=Image)["natural_key"]
    names = [f"{label} ({i}){end}.png" for label in ("benign", "normal") for i in range(120) for end in ("", "_mask")]
    random.Random(0).shuffle(names)
    assert sorted(names, key=written) == sorted(names, key=natural_key)


def test_resizing(phantoms):
    read = functions("01", re=re, np=np, Image=Image)["read"]
    paths = phantoms.table["path"][:10]
    assert np.array_equal([read(path, 64) for path in paths], images.load(paths, 64))


@pytest.mark.parametrize("fill_mode", ["nearest", "reflect"])
def test_one_affine_matrix(fill_mode):
    lesson = functions("02", np=np, keras=keras, IMAGE_SIZE=40, FILL_MODE=fill_mode)
    batch = np.random.default_rng(0).uniform(0, 255, (2, 40, 40, 1)).astype("float32")
    for numbers in ((0, 0, 1, 1), (-17, 0.2, 0.8, 1.2), (20, -11, 1.1, 0.9)):
        ours = lesson["warp"](batch, lesson["affine_matrix"](*numbers))
        layer = RandomAffine(fill_mode=fill_mode)
        assert np.allclose(ours, layer.transform(batch, [numbers, numbers]), atol=0.05), numbers
