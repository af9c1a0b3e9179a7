"""What lesson 00 writes out is what scipy and the library do."""

import ast
from itertools import islice

import nbformat
import numpy as np
import pytest
from scipy.signal import correlate2d
from skimage.measure import block_reduce

from busilib.learning import training
from busitools import notebooks


@pytest.fixture(scope="module")
def written():
    """The functions that the lesson's cells define, by name."""
    names = {"np": np}
    for cell in nbformat.read(notebooks.lessons(["00"])[0], as_version=4).cells:
        if cell.cell_type == "code" and "\ndef " in f"\n{cell.source}":
            definitions = [node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)]
            exec(compile(ast.Module(definitions, []), cell.id, "exec"), names)  # noqa: S102
    return names


def test_a_convolution_and_pooling_by_hand(written):
    rng = np.random.default_rng(0)
    image, kernel = rng.normal(size=(13, 17)), rng.normal(size=(3, 3))
    assert np.allclose(written["convolve"](image, kernel), correlate2d(image, kernel, mode="valid"))
    assert np.array_equal(written["pool"](image), block_reduce(image[:12, :16], (2, 2), np.max))


@pytest.mark.parametrize(("n", "batch_size", "seed"), [(10, 4, 0), (64, 16, 3), (37, 8, 5), (3, 8, 1)])
def test_batches_are_dealt_out_as_the_library_does(written, n, batch_size, seed):
    inputs, labels, steps = np.arange(n) ** 2, np.arange(n), -(-n // batch_size)
    by_hand = list(islice(written["batches"](inputs, labels, batch_size, seed), 3 * steps))
    library = training.batches(inputs, labels, batch_size, seed)
    dealt = [batch for epoch in range(3) for batch in library]
    assert len(dealt) == len(by_hand)
    for ours, theirs in zip(by_hand, dealt, strict=True):
        assert all(np.array_equal(x, np.array(y)) for x, y in zip(ours, theirs, strict=True))
