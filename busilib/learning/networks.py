"""The systems that learn from pixels alone: capsules, ENAS-style cells, LeNet and the stacked ensemble.

Each is a scikit-learn classifier on Keras: X are uint8 pixels (N, size, size, 3), y class numbers (N,). All but the
ensemble are one Keras network, kept in ``network_``; ``history_`` has one row per epoch; ``seed`` fixes all that is
drawn.
Source of squash, routing and loss: Sabour, Frosst & Hinton, "Dynamic routing between capsules", 2017, Eq. 1 to 4.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np
import pandas as pd
from keras import layers, ops
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from busilib.errors import SplitError
from busilib.learning import models, training
from busilib.recipes import CLASSES

# A dataclass for its constructor, which scikit-learn reads the parameters from; comparing and printing stay its own.
estimator = dataclass(eq=False, repr=False)


def check_classes(y, needed, what):
    """Raise SplitError, naming the class and ``what`` lacks it, when one of the classes ``needed`` is not in y (N,)."""
    if missing := [CLASSES[code] for code in sorted(set(needed) - set(y))]:
        images = f"{len(y)} images, but none of the class {' or '.join(missing)}"
        raise SplitError(f"{what} has {images}. Choose fewer folds, another seed, or add images of that class.")


def inner_folds(y, groups, folds, seed=0):
    """Return the (train, test) row numbers of stratified folds; groups stay whole, and None has none."""
    groups = np.arange(len(y)) if groups is None else groups
    return list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(y, y, groups))


def parts(X, y, validation, groups, seed):
    """Return ((X, y), (X, y)) to train on and to choose an epoch by: ``validation``, or a fifth of X where it is None.

    Raises SplitError when a class is missing from what is trained on.
    """
    train = X, y
    if validation is None:
        inside, outside = inner_folds(y, groups, 5, seed)[0]
        train, validation = (X[inside], y[inside]), (X[outside], y[outside])
    check_classes(train[1], np.append(y, validation[1]), "the training set")
    return train, validation


class Classifier(ClassifierMixin, BaseEstimator):
    """What our own classifiers share: the three classes, and the likeliest of them as the answer."""

    classes_ = np.arange(len(CLASSES))

    def predict(self, X):
        """Return the number of the likeliest class for each input: int (N,)."""
        return self.predict_proba(X).argmax(axis=1)


@estimator
class Network(Classifier, ABC):
    """A Keras network trained from random weights: a subclass says how it is built, and with which loss."""

    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-3  # of Adam
    patience: int = 15  # epochs without a better validation accuracy before it stops; the best epoch is kept
    seed: int = 0
    loss: ClassVar = "sparse_categorical_crossentropy"
    # Not val_loss: on few images it rises with every confident mistake while the decisions still get better.
    monitor: ClassVar = "val_accuracy"

    @abstractmethod
    def build(self, x):
        """Return the output tensor, which the loss looks at; x are grey values (N, size, size, 1), or features."""

    def probabilities(self, output):
        """Return the probabilities (N, 3) that an output stands for."""
        return output

    def fit(self, X, y, validation=None, groups=None):
        """Learn. ``validation`` (X, y) chooses the epoch; without it a fifth of X does: whole ``groups`` (N,)."""
        train, validation = parts(X, y, validation, groups, self.seed)
        self.network_, trained = self.built(X.shape[1:], X.dtype.name)
        models.compile_for(self, trained, self.loss)
        self.history_ = training.fit(trained, self, train, validation, self.seed)
        return self

    def built(self, shape, dtype="uint8"):
        """Return (network, trained): two models of the same layers, of which the second is to be compiled.

        What is compiled must not be what is saved, or the optimizer is saved with it.
        """
        keras.utils.set_random_seed(self.seed)
        inputs = keras.Input(shape, dtype=dtype)
        output = self.build(grey(inputs) if len(shape) == 3 else inputs)
        return keras.Model(inputs, self.probabilities(output)), keras.Model(inputs, output)

    def by_hand(self, network, history, shape, steps):
        """Return (edited, network, history) of one that was built, compiled and fitted outside: see `runs.save`.

        ``history`` is what ``fit`` returned, ``shape`` an image's, ``steps`` an epoch's number of batches.
        """
        own = self.built(shape)[0]
        said = {"layers": (training.layer_settings(network), training.layer_settings(own))}
        said |= {"loss": (_loss(history.model.loss), _loss(self.loss))}
        edited = training.differences(said, history, self, steps)
        if "layers" not in edited:
            own.set_weights(network.get_weights())
        return edited, network if "layers" in edited else own, training.epochs_of(history)

    def predict_proba(self, X):
        """Return the probabilities (N, 3) of the classes for inputs (N, …)."""
        return self.network_.predict(X, verbose=0)


def _loss(loss):
    """Return what tells two losses apart: the name of Keras' own, or what a function says of some examples."""
    if isinstance(loss, str):
        return loss
    lengths = np.random.default_rng(0).random((6, len(CLASSES)))
    values = loss(ops.array([0, 1, 2, 0, 1, 2]), ops.array(lengths, "float32"))
    return np.round(ops.convert_to_numpy(values), 5).tolist()


def grey(pixels):
    """Return the grey values (N, size, size, 1), in [0, 1], of uint8 pixels.

    Ultrasound is grey: two more equal channels would make the first layer three times as dear.
    """
    return ops.mean(layers.Rescaling(1 / 255)(pixels), axis=-1, keepdims=True)


def softmax(x):
    """Return the last layer's output: a probability for each class."""
    return layers.Dense(len(CLASSES), activation="softmax", name="probabilities")(x)


def norm():
    """Return BatchNormalization; Keras' own momentum of 0.99 needs hundreds of steps before its averages are right."""
    return layers.BatchNormalization(momentum=0.9)


def squash(vectors):
    """Shrink vectors (…, D) to a length below 1 and keep their direction: |s|² / (1 + |s|²) · s / |s|."""
    square = ops.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors * ops.sqrt(square + 1e-9) / (1 + square)


def route(votes, iterations=3):
    """Route by agreement: votes (N, I, J, D) of I capsules for J classes become class capsules (N, J, D).

    Each capsule shares its vote out over the classes (c, a softmax of b, equal at first). A class capsule is the
    squashed sum of what it is given. A capsule whose vote agrees with the outcome gives that class more next time.
    """
    b = ops.zeros_like(votes[..., 0])
    for turn in range(iterations):
        c = ops.softmax(b, axis=2)
        outcome = squash(ops.einsum("nij,nijd->njd", c, votes))
        if turn < iterations - 1:
            b = b + ops.einsum("nijd,njd->nij", votes, outcome)
    return outcome


def margin_loss(labels, lengths):
    """Return the loss (N,): a capsule of the true class should be longer than 0.9, of another shorter than 0.1.

    ``labels`` (N,) or (N, 1) class numbers, ``lengths`` (N, 3); T = 1 for the true class, else 0:
    Σ T max(0, 0.9 − |v|)² + 0.5 (1 − T) max(0, |v| − 0.1)².
    """
    true = ops.one_hot(ops.reshape(ops.cast(labels, "int32"), (-1,)), len(CLASSES))
    short, long = ops.relu(0.9 - lengths), ops.relu(lengths - 0.1)
    return ops.sum(true * short**2 + 0.5 * (1 - true) * long**2, axis=-1)


@estimator
class Capsules(Network):
    """Convolutional capsule network.

    Source: Iesmantas & Alzbutas, ICIAR 2018, arXiv 1804.08376, 87 % on histology images of four classes.
    known: convolutions, primary capsules of 8 numbers, class capsules of 16, 3 routing iterations, margin loss with
    0.9, 0.1 and 0.5. chosen: three convolutions of stride 2, 8 kinds of primary capsules, no reconstruction; a
    probability is a capsule's length divided by the sum of the lengths; grey input; no augmentation.
    """

    widths: tuple[int, ...] = (32, 64)  # of the convolutions before the primary capsules
    kinds: int = 8  # kinds of primary capsules, 8 numbers each, at every place
    loss: ClassVar = staticmethod(margin_loss)

    def build(self, x):
        """Return the lengths of the class capsules (N, 3) as a tensor, for grey values (N, size, size, 1)."""
        for width in self.widths:
            x = norm()(layers.Conv2D(width, 5, strides=2, activation="relu")(x))
        x = layers.Conv2D(self.kinds * 8, 5, strides=2, name="primary")(x)
        capsules = squash(layers.Reshape((-1, 8))(x))
        # One matrix of 16 × 8 for each primary capsule i and class j: vote = matrix · capsule.
        vote = layers.EinsumDense("nik,ikjd->nijd", output_shape=(capsules.shape[1], len(CLASSES), 16), name="votes")
        answer = route(vote(capsules))
        return ops.sqrt(ops.sum(answer * answer, axis=-1) + 1e-9)

    def probabilities(self, output):
        """Return lengths (N, 3) divided by their sum."""
        return output / ops.sum(output, axis=-1, keepdims=True)


# A cell has states. State 0 is what the cell before the last one gave, state 1 what the last one gave. Each node takes
# two states, applies an operation to each, adds the results, and is a state of its own.
# The operations by number: separable convolution 3×3 and 5×5, average and max pooling 3×3, identity.
# The cells that ENAS found on CIFAR-10, as its authors' script cifar10_micro_final.sh gives them: for each node
# (state, operation, state, operation).
NORMAL = ((0, 2, 0, 0), (0, 4, 0, 1), (0, 4, 1, 1), (1, 0, 0, 1), (0, 2, 1, 1))
REDUCTION = ((1, 0, 1, 0), (0, 3, 0, 2), (1, 1, 3, 1), (1, 0, 0, 4), (0, 3, 1, 1))


def wire(states, nodes, apply, stride=1):
    """Return the states that no node uses, after adding one state per node: the wiring of a cell.

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
    """Apply an operation by its ``number`` to a tensor (N, H, W, width); stride 2 halves H and W."""
    if number in (0, 1):
        convolve = layers.SeparableConv2D(width, (3, 5)[number], strides=stride, padding="same", use_bias=False)
        return norm()(convolve(layers.ReLU()(x)))
    if number in (2, 3):
        return (layers.AveragePooling2D, layers.MaxPooling2D)[number - 2](3, strides=stride, padding="same")(x)
    return x if stride == 1 else fitting(x, width, stride)


def fitting(x, width, stride=1):
    """Make a tensor ``width`` channels wide, and smaller by ``stride``: ReLU, 1 × 1 convolution, BatchNormalization."""
    x = layers.ReLU()(x)
    if stride > 1:
        # Not a strided 1 × 1 convolution: its gradient crashes TensorFlow 2.21 on a CPU.
        x = layers.AveragePooling2D(stride)(x)
    return norm()(layers.Conv2D(width, 1, use_bias=False)(x))


def cell(before, last, nodes, width, stride=1):
    """Return a cell's output, its loose ends side by side: (N, H / stride, W / stride, width · loose ends)."""
    shrink = before.shape[1] // last.shape[1]  # 2 when the last cell was a reduction
    states = [fitting(before, width, shrink), fitting(last, width)]
    ends = wire(states, nodes, lambda number, x, step: operation(number, x, width, step), stride)
    return ends[0] if len(ends) == 1 else layers.Concatenate()(ends)


@estimator
class Cells(Network):
    """ENAS CNN: normal and reduction cells that a search found, stacked.

    Source: Ahmed, AlZoubi & Du, MIUA 2021 (paper B: 88.1 %) and arXiv 2005.13695, on breast-ultrasound lesions.
    known: normal and reduction cells searched with ENAS (Pham et al., ICML 2018). chosen: those cells are not printed
    in a form that can be copied, so the cells are the ones that ENAS' authors published, found on photographs
    (CIFAR-10); each separable convolution once, not twice; the stack and its widths; grey input; no augmentation.
    """

    width: int = 16  # of the first cells; each reduction doubles it
    stack: str = "NRNRN"  # N: normal cell, R: reduction cell
    dropout: float = 0.2

    def build(self, x):
        """Return the probabilities (N, 3) as a tensor, for grey values (N, size, size, 1)."""
        before = last = norm()(layers.Conv2D(self.width, 3, strides=2, padding="same", use_bias=False)(x))
        width = self.width
        for kind in self.stack:
            width *= 2 if kind == "R" else 1
            nodes, stride = (REDUCTION, 2) if kind == "R" else (NORMAL, 1)
            before, last = last, cell(before, last, nodes, width, stride)
        return softmax(layers.Dropout(self.dropout)(layers.GlobalAveragePooling2D()(layers.ReLU()(last))))


@estimator
class LeNet(Network):
    """LeNet-like CNN: four times convolution, ReLU and max pooling, then a dense layer.

    Source: Zeimarani et al., IEEE Access 8 (2020) 133349, 87.07 % on 641 breast lesions (benign, malignant), 5-fold
    cross-validation at 224 × 224. known: few layers, dropout, regularisation, 224 px. chosen: kernels of 5 × 5, the
    widths, dense 128, dropout 0.5, L2 of 1e-4, Adam; grey input; no augmentation.
    """

    widths: tuple[int, ...] = (16, 32, 64, 64)
    dropout: float = 0.5
    l2: float = 1e-4

    def build(self, x):
        """Return the probabilities (N, 3) as a tensor, for grey values (N, size, size, 1)."""
        style = {"activation": "relu", "kernel_regularizer": keras.regularizers.L2(self.l2)}
        for width in self.widths:
            x = layers.MaxPooling2D()(layers.Conv2D(width, 5, padding="same", **style)(x))
        x = layers.Dense(128, **style)(layers.Flatten()(x))
        return softmax(layers.Dropout(self.dropout)(x))


@estimator
class Member(Network):
    """One network of the stacked ensemble.

    GaussianDropout multiplies by noise with mean 1 and variance rate / (1 − rate) instead of setting values to 0.
    """

    kernel: int = 3  # side of the kernels
    pools: tuple[str, ...] = ("max", "average", "max")  # after each convolution
    rate: float = 0.2

    def build(self, x):
        """Return the probabilities (N, 3) as a tensor, for grey values (N, size, size, 1)."""
        for width, pool in zip((16, 32, 64), self.pools, strict=True):
            x = norm()(layers.Conv2D(width, self.kernel, padding="same", activation="relu")(x))
            x = (layers.MaxPooling2D if pool == "max" else layers.AveragePooling2D)(2)(x)
            x = layers.GaussianDropout(self.rate)(x)
        x = layers.Dense(64, activation="relu")(layers.Flatten()(layers.AveragePooling2D(2)(x)))
        return softmax(layers.GaussianDropout(self.rate)(x))


# The three networks: kernel, pools and rate of `Member`.
MEMBERS = [(3, ("max", "average", "max"), 0.2), (5, ("average", "max", "average"), 0.3)]
MEMBERS += [(3, ("average", "average", "max"), 0.4)]


@estimator
class Ensemble(Classifier):
    """Gaussian-dropout stacked ensemble.

    Source: Karthik et al., IRBM 43 (2022) 715, 92.15 % on breast ultrasound of three classes. known: a stack of
    custom CNNs, GaussianDropout, alternating pooling. chosen: three networks, widths 16, 32, 64, rates 0.2 to 0.4;
    the meta-learner is a logistic regression on out-of-fold probabilities (a network's answers on what it learned
    from would be too good to learn from); the networks of the inner folds are kept and averaged; grey input.
    """

    epochs: int = 60
    batch_size: int = 16
    learning_rate: float = 1e-3
    patience: int = 10
    folds: int = 3  # inner folds: each of the three networks is trained this many times
    seed: int = 0

    def fit(self, X, y, validation=None, groups=None):
        """Learn. ``validation`` (X, y) chooses the networks' epochs; whole ``groups`` are held out of an inner fold."""
        answers, histories = np.zeros((len(y), len(MEMBERS), len(CLASSES))), []
        self.members_ = [[] for _ in MEMBERS]
        for fold, (inside, outside) in enumerate(inner_folds(y, groups, self.folds, self.seed)):
            check_classes(y[inside], y, "the training set")
            for number, settings in enumerate(MEMBERS):
                seed = self.seed + 100 * number + fold
                network = Member(self.epochs, self.batch_size, self.learning_rate, self.patience, seed, *settings)
                network.fit(X[inside], y[inside], validation, None if groups is None else groups[inside])
                answers[outside, number] = network.predict_proba(X[outside])
                self.members_[number].append(network)
                histories.append(network.history_.assign(network=number + 1, fold=fold + 1))
        self.judge_ = LogisticRegression(max_iter=1000).fit(answers.reshape(len(y), -1), y)
        self.history_ = pd.concat(histories, ignore_index=True)
        return self

    def predict_proba(self, X):
        """Return what the judge makes of the three networks, each the mean of its inner folds."""
        answers = [np.mean([member.predict_proba(X) for member in group], axis=0) for group in self.members_]
        return training.probabilities(self.judge_, np.hstack(answers))
