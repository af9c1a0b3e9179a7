"""How hard are the phantoms? A random forest on 32 × 32 pixels against ResNet50 trained on them from scratch.

    python benchmarks/phantom_difficulty.py [--train 3000] [--epochs 8] [--size 64] [--seeds 3]

Both learn from the same phantoms and are asked about 200 that they have never seen (another generator seed, so
other made-up patients). Prints one line a seed and the means. About 6 minutes a
seed on 2 cores. Last: 2026-11-24, phantoms of version 2: forest 0.760, 0.785, 0.775; ResNet50 0.885, 0.895, 0.890.
"""

import argparse

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from busilib.data import catalogue, images, phantom
from busilib.learning import keras
from busilib.recipes import CLASSES


def main():
    parser = argparse.ArgumentParser()
    for name, default in (("train", 3000), ("epochs", 8), ("size", 64), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    train, test = (catalogue.read(phantom.cached(n, s)).table for n, s in ((options.train, 11), (200, 12)))
    truth = [np.array([CLASSES.index(label) for label in table["label"]]) for table in (train, test)]
    pixels = [images.load(table["path"], options.size) for table in (train, test)]
    small = [images.load(table["path"], 32)[..., 0].reshape(len(table), -1) for table in (train, test)]
    scores = []
    for seed in range(options.seeds):
        forest = RandomForestClassifier(500, random_state=seed, n_jobs=-1).fit(small[0], truth[0])
        network = from_scratch(pixels[0], truth[0], options.epochs, seed)
        answers = network.predict(pixels[1], verbose=0).argmax(axis=1)
        scores.append((forest.score(small[1], truth[1]), np.mean(answers == truth[1])))
        print(f"seed {seed}: forest {scores[-1][0]:.3f}, ResNet50 {scores[-1][1]:.3f}", flush=True)
    forest, network = np.mean(scores, axis=0)
    print(f"mean of {len(scores)}: forest {forest:.3f}, ResNet50 {network:.3f}, {100 * (network - forest):.1f} points")


def from_scratch(pixels, truth, epochs, seed):
    """Train a whole ResNet50 with random horizontal flips and a falling learning rate."""
    keras.utils.set_random_seed(seed)
    base = keras.applications.ResNet50(include_top=False, weights=None, input_shape=pixels.shape[1:], pooling="avg")
    inputs = keras.Input(pixels.shape[1:], dtype="uint8")
    values = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    values = base(keras.layers.RandomFlip("horizontal", seed=seed)(values))
    network = keras.Model(inputs, keras.layers.Dense(len(CLASSES), activation="softmax")(values))
    steps = epochs * -(-len(pixels) // 32)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    network.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    network.fit(pixels, truth, epochs=epochs, batch_size=32, verbose=2)
    return network


if __name__ == "__main__":
    main()
