"""Searched cells: small graphs of operations that a search found, stacked into a network.

A cell has states. State 0 is what the cell before the last one gave, state 1 what the last one gave. Each node takes
two states, applies an operation to each, adds the results, and is a state of its own. What no node uses is the output.
"""

from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import layers

from busilib.learning.comparators.base import Network, grey
from busilib.recipes import CLASSES

OPERATIONS = ("separable 3×3", "separable 5×5", "average 3×3", "max 3×3", "identity")
# The cells that ENAS found on CIFAR-10, as its authors' script cifar10_micro_final.sh gives them: for each node
# (state, operation, state, operation).
NORMAL = ((0, 2, 0, 0), (0, 4, 0, 1), (0, 4, 1, 1), (1, 0, 0, 1), (0, 2, 1, 1))
REDUCTION = ((1, 0, 1, 0), (0, 3, 0, 2), (1, 1, 3, 1), (1, 0, 0, 4), (0, 3, 1, 1))


def wire(states, nodes, apply, stride=1):
    """Return the states that no node uses, after adding one state a node: the wiring of a cell.

    ``states``: the two that come in. ``apply(operation, state, stride)`` gives a tensor; the stride is 1 for states
    that the cell made itself, so that a reduction cell halves its inputs only.
    """
    states, used = list(states), set()
    for first, one, second, other in nodes:
        steps = [stride if number < 2 else 1 for number in (first, second)]
        states.append(apply(one, states[first], steps[0]) + apply(other, states[second], steps[1]))
        used |= {first, second}
    return [state for number, state in enumerate(states) if number not in used]


def operation(number, x, width, stride):
    """Apply operation ``number`` of `OPERATIONS` to a tensor (N, H, W, width); stride 2 halves H and W."""
    if number in (0, 1):
        x = layers.SeparableConv2D(width, (3, 5)[number], strides=stride, padding="same", use_bias=False)(
            layers.ReLU()(x)
        )
        return layers.BatchNormalization(momentum=0.9)(x)
    if number in (2, 3):
        return (layers.AveragePooling2D, layers.MaxPooling2D)[number - 2](3, strides=stride, padding="same")(x)
    return x if stride == 1 else fitting(x, width, stride)


def fitting(x, width, stride=1):
    """Make a tensor ``width`` channels wide, and smaller by ``stride``: ReLU, 1 × 1 convolution, BatchNormalization."""
    x = layers.ReLU()(x)
    if stride > 1:
        # Not a strided 1 × 1 convolution: its gradient crashes TensorFlow 2.21 on a CPU.
        x = layers.AveragePooling2D(stride)(x)
    x = layers.Conv2D(width, 1, use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def cell(before, last, nodes, width, stride=1):
    """Return a cell's output, its loose ends side by side: (N, H / stride, W / stride, width · loose ends)."""
    shrink = before.shape[1] // last.shape[1]  # 2 when the last cell was a reduction
    states = [fitting(before, width, shrink), fitting(last, width)]
    ends = wire(states, nodes, lambda number, x, step: operation(number, x, width, step), stride)
    return ends[0] if len(ends) == 1 else layers.Concatenate()(ends)


@dataclass
class Cells(Network):
    """ENAS CNN: normal and reduction cells that a search found, stacked.

    Source: Ahmed, AlZoubi & Du, MIUA 2021 (paper B: 88.1 %) and arXiv 2005.13695, on breast-ultrasound lesions.
    known: normal and reduction cells searched with ENAS (Pham et al., ICML 2018). chosen: those cells are not printed
    in a form that can be copied, so the cells are the ones that ENAS' authors published, found on photographs
    (CIFAR-10); each separable convolution once, not twice; the stack and its widths; grey input; no augmentation.
    """

    name: ClassVar[str] = "enas"
    title: ClassVar[str] = "ENAS-style cells"
    image_size: int = 128
    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-3
    patience: int = 15
    width: int = 16  # of the first cells; each reduction doubles it
    stack: str = "NRNRN"  # N: normal cell, R: reduction cell
    dropout: float = 0.2

    def build(self):
        pixels = keras.Input((self.image_size, self.image_size, 3), dtype="uint8", name="pixels")
        x = layers.Conv2D(self.width, 3, strides=2, padding="same", use_bias=False)(grey(pixels))
        before = last = layers.BatchNormalization(momentum=0.9)(x)
        width = self.width
        for kind in self.stack:
            width *= 2 if kind == "R" else 1
            nodes, stride = (REDUCTION, 2) if kind == "R" else (NORMAL, 1)
            before, last = last, cell(before, last, nodes, width, stride)
        x = layers.Dropout(self.dropout)(layers.GlobalAveragePooling2D()(layers.ReLU()(last)))
        answer = layers.Dense(len(CLASSES), activation="softmax", name="probabilities")(x)
        return keras.Model(pixels, answer, name="enas"), answer
