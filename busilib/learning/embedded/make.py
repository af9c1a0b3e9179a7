"""Train an embedded backbone on phantoms alone and write its file.

    python -m busilib.learning.embedded.make ResNet50 [--scans 12000] [--steps 3600] [--size 64] [--seed 0]

What the phantoms' generator knows is the teacher: the class, the kind of the lesion and its margin, what is behind it
(shadow or enhancement), where it lies and how large it is, and its outline. Every view is new: mirrored, turned,
zoomed, and with another gain and contrast. No scan of a patient is looked at. README.md here has the times and scores.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from PIL import Image

from busilib import cache
from busilib.cache import bar
from busilib.data import phantom
from busilib.learning import embedded, keras
from busilib.learning.augmentation import RandomAffine
from busilib.recipes import CLASSES

SIZE = 160  # pixels a side of a kept phantom
KINDS = ("cyst", "fibroadenoma", "lobulated", "spiculated", "angular", "oval")
OUTLINE = {"ResNet50": "conv4_block3_out", "InceptionResNetV2": "block17_4_ac"}  # where the outline is read off
HELD_OUT = 600
BATCH = 32


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=embedded.LEARNED)
    for option, default in (("scans", 12000), ("steps", 3600), ("size", 64), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    known = scans(options.scans)
    known["pixels"] = np.stack([_resized(one, options.size) for one in known["pixels"]])
    train = {name: values[HELD_OUT:] for name, values in known.items()}
    base, gains = network(options.name, options.size, options.seed)
    model = with_tasks(base, options.name)
    fit(model, train, options)
    file = options.out or embedded.FOLDER / f"{options.name}.npz"
    learned = {number: keras.ops.convert_to_numpy(layer.gain) for number, layer in gains.items()}
    head = model.get_layer("label").get_weights()
    more = {"head": head[0], "head_bias": head[1]}
    embedded.save(base, options.name, file, seed=options.seed, gains=learned, **more)
    report(options.name, file, base, {name: values[:HELD_OUT] for name, values in known.items()}, head)


# --- the scans ------------------------------------------------------------------------------------------------------


def scans(n):
    """Return n phantoms and what is known of them, a dict of arrays; drawn once, then kept in the user's cache.

    pixels uint8 (n, 160, 160, 2): grey level, mask; label, kind: class numbers (kind 6 = no lesion); behind: dB.
    """
    file = cache.cache_dir("pretraining") / f"phantoms-n{n}-v{phantom.GENERATOR_VERSION}.npz"
    if not file.exists():
        with ProcessPoolExecutor() as pool:
            drawn = pool.map(_draw, range(n), chunksize=20)
            columns = zip(*bar(drawn, "drawing phantoms", total=n, unit="scan"), strict=True)
            arrays = dict(zip(("pixels", "label", "kind", "behind"), map(np.array, columns), strict=True))
        with cache.write_file(file) as temporary, open(temporary, "wb") as target:
            np.savez(target, **arrays)
    with np.load(file) as stored:
        return dict(stored)


def _draw(i):
    rng = np.random.default_rng([4242, i])
    label = phantom.CLASSES[int(rng.choice(3, p=(0.42, 0.36, 0.22)))]
    marks = str(rng.choice(("calipers", "text", "calipers;text"))) if rng.random() < 0.3 else ""
    # A seed of two numbers that no data set of phantoms uses: these scans are in none of them.
    scan = phantom.draw(label, [770001, i], marks=marks, lesions=2 if rng.random() < 0.05 else 1)
    both = [
        Image.fromarray(part).convert("L").resize((SIZE, SIZE), Image.BILINEAR) for part in (scan.pixels, scan.mask)
    ]
    kind, behind = scan.truth["kind"], scan.truth["behind_db"]
    return (
        np.stack(both, axis=-1),
        CLASSES.index(label),
        KINDS.index(kind) if kind else len(KINDS),
        np.float32(behind or 0),
    )


def _resized(scan, size):
    parts = [Image.fromarray(scan[..., k]).resize((size, size), Image.BILINEAR) for k in (0, 1)]
    return np.stack(parts, axis=-1)


# --- the network ----------------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("busilib")
class GainedConv2D(keras.layers.Conv2D):
    """A convolution whose kernel stays as it was drawn; a factor for each input channel is learned."""

    def build(self, shape):
        super().build(shape)
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")
        self._kernel.trainable = False

    def call(self, inputs):
        return super().call(inputs * keras.ops.cast(self.gain, inputs.dtype))


def network(name, size, seed):
    """Return the backbone with all kernels drawn, and {number: layer} of those that stay as they are but for a gain."""
    keras.utils.set_random_seed(seed)
    plain = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(size, size, 3))
    frozen = {layer.name for _, layer, learned in embedded.convolutions(plain, name) if not learned}

    def clone(layer):
        kind = GainedConv2D if layer.name in frozen else type(layer)
        return kind.from_config(layer.get_config())

    base = keras.models.clone_model(plain, clone_function=clone)
    gains = {}
    for number, layer, learned in embedded.convolutions(base, name):
        layer._kernel.assign(embedded.drawn(layer.kernel.shape, seed, number))
        if not learned:
            gains[number] = layer
    return base, gains


def with_tasks(base, name):
    """Return the live parts of the network with an output for each thing that the generator knows."""
    values, outline = base.input, None
    for first, last in embedded.stretches(base, name):
        values = keras.Model(first, last)(values)
        if last is base.get_layer(OUTLINE[name]).output:
            outline = values
    features = keras.layers.GlobalAveragePooling2D()(values)
    dense = keras.layers.Dense
    outputs = {
        "label": dense(len(CLASSES), name="label")(keras.layers.Dropout(0.3)(features)),
        "kind": dense(len(KINDS) + 1, name="kind")(features),
        "behind": dense(1, name="behind")(features),
        "place": dense(3, name="place")(features),
        "outline": keras.layers.Conv2D(1, 1, name="outline")(outline),
    }
    return keras.Model(base.input, outputs)


def fit(model, train, options):
    """Train for a number of steps; the learning rate warms up and then falls along a cosine to 0."""
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, options.steps - 100, warmup_target=options.rate, warmup_steps=100
    )
    classes = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = {"label": classes, "kind": classes, "behind": "mse", "place": "mse"}
    losses["outline"] = keras.losses.BinaryCrossentropy(from_logits=True)
    weights = {"label": 1.0, "kind": 0.5, "behind": 0.5, "place": 0.5, "outline": 1.0}
    model.compile(keras.optimizers.Adam(rate), losses, loss_weights=weights, metrics={"label": "accuracy"})
    places = model.get_layer("outline").output.shape[1]
    model.fit(Views(train, places, options), epochs=-(-options.steps // 100), verbose=2)


class Views(keras.utils.PyDataset):
    """Endless batches of new views of the phantoms, 100 to an epoch, with the answers to every task."""

    def __init__(self, known, places, options):
        super().__init__()
        self.known, self.places, self.rng = known, places, np.random.default_rng(options.seed)
        self.affine = RandomAffine(rotation=8, shear=4, zoom=0.3, seed=options.seed)
        self.rows = np.zeros(0, int)

    def __len__(self):
        return 100

    def __getitem__(self, step):
        if len(self.rows) < BATCH:
            self.rows = self.rng.permutation(len(self.known["label"]))
        rows, self.rows = self.rows[:BATCH], self.rows[BATCH:]
        grey, mask = self.view(self.known["pixels"][rows].astype(np.float32))
        known = {name: self.known[name][rows] for name in ("label", "kind")}
        known["behind"] = self.known["behind"][rows, None] / 8
        return np.repeat(grey[..., None], 3, axis=-1), known | geometry(mask, self.places)

    def view(self, both):
        """Return grey levels and masks (N, size, size), 0–1, of new views of ``both`` (N, size, size, 2), 0–255."""
        mirrored = self.rng.random(len(both)) < 0.5
        both[mirrored] = both[mirrored][:, :, ::-1]
        moved = keras.ops.convert_to_numpy(self.affine(both, training=True)) / 255
        power, gain, offset = (
            self.rng.uniform(low, high, (len(both), 1, 1)).astype(np.float32)
            for low, high in ((-0.4, 0.4), (0.75, 1.25), (-0.08, 0.08))
        )
        grey = np.clip(np.clip(moved[..., 0], 0, 1) ** np.exp(power) * gain + offset, 0, 1)
        return grey, moved[..., 1]


def geometry(mask, places):
    """Return "place" (N, 3): row and column of the middle in [-1, 1], √area; and "outline" (N, p, p, 1)."""
    size = mask.shape[1]
    axis, area = np.linspace(-1, 1, size, dtype=np.float32), mask.mean(axis=(1, 2))
    middle = [(mask.mean(axis=3 - k) * axis).mean(axis=1) / (area + 1e-6) for k in (1, 2)]
    cell = size // places
    cells = mask[:, : cell * places, : cell * places].reshape(len(mask), places, cell, places, cell)
    return {
        "place": np.stack([*middle, 3 * np.sqrt(area)], axis=1),
        "outline": cells.mean(axis=(2, 4))[..., None],
    }


def report(name, file, base, held_out, head):
    """Print what the file weighs, and how often the class of held-out phantoms is found before and after rounding."""
    pixels = np.repeat(held_out["pixels"][..., :1], 3, axis=-1) / np.float32(255)
    plain = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=pixels.shape[1:])
    embedded.load(plain, name, file)
    for what, one in (("as trained", base), ("as stored", plain)):
        answers = one.predict(pixels, verbose=0).mean(axis=(1, 2)) @ head[0] + head[1]
        print(f"{what}: {np.mean(answers.argmax(axis=1) == held_out['label']):.3f} of {len(pixels)} held-out phantoms")
    print(f"{os.path.getsize(file) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
