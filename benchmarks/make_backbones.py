"""Train an embedded backbone whole, on phantoms alone, and write its file into busilib/weights.

    python benchmarks/make_backbones.py ResNet50        # options: --help; times and scores: busilib/weights/README.md

What the phantoms' generator knows is the teacher: the class, the kind of the lesion, eight numbers (echo, shadow,
shape, gland, marks …), where it lies, how large it is, and its outline. Every view is new. No patient's scan is seen.
Two sizes take turns, so that every tap of a kernel meets an image.
"""

import argparse
import itertools
import re
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from busilib import cache
from busilib.data import phantom
from busilib.learning import backbones, keras
from busilib.learning.augmentation import RandomAffine
from busilib.recipes import CLASSES

from keras import layers, losses  # isort: skip  (after busilib.learning, which loads it quietly)

SIZE = 160  # pixels a side of a stored phantom
KINDS = ("cyst", "fibroadenoma", "lobulated", "spiculated", "angular", "oval")
NUMBERS = ("behind_db", "echo_db", "excess_db_per_mm", "shape", "gland_db", "range_db", "calipers", "text")
SCANS, HELD_OUT = 12000, 600
NETWORKS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def scans(n):
    """Return n phantoms and what is known of them, a dict of arrays.

    pixels: uint8 (n, 160, 160, 2), grey level and mask. label, kind: class numbers (kind 6: no lesion). numbers:
    float32 (n, 8), NaN where there is no lesion to measure.
    """
    with ProcessPoolExecutor() as pool:
        drawn = cache.bar(pool.map(_draw, range(n), chunksize=20), "drawing phantoms", total=n, unit="scan")
        columns = map(np.array, zip(*drawn, strict=True))
        return dict(zip(("pixels", "label", "kind", "numbers"), columns, strict=True))


def _draw(i):
    rng = np.random.default_rng([4242, i])
    label = CLASSES[int(rng.choice(3, p=(0.42, 0.36, 0.22)))]
    marks = str(rng.choice(("calipers", "text", "calipers;text"))) if rng.random() < 0.3 else ""
    # A seed of two numbers that no data set of phantoms uses: these scans are in none of them.
    scan = phantom.draw(label, [770001, i], marks=marks, lesions=2 if rng.random() < 0.05 else 1)
    both = (Image.fromarray(part).convert("L") for part in (scan.pixels, scan.mask))
    both = (image.resize((SIZE, SIZE), Image.BILINEAR) for image in both)
    facts = scan.truth | {"calipers": "calipers" in marks, "text": "text" in marks}
    facts["shape"] = np.log(facts["axial_mm"] / facts["lateral_mm"]) if scan.mask.any() else np.nan
    numbers = np.float32([facts.get(name, np.nan) for name in NUMBERS])  # normal tissue lacks those of a lesion
    kind = KINDS.index(facts["kind"]) if scan.mask.any() else len(KINDS)
    return np.stack(list(both), axis=-1), CLASSES.index(label), kind, numbers


def batches(facts, model, sizes, seed):
    """Yield endless batches of new views, scans float32 (N, size, size, 3) and a dict of answers; sizes take turns."""
    shapes = {size: model.compute_output_shape((1, size, size, 3)) for size in sizes}
    rng, affine = np.random.default_rng(seed), RandomAffine(rotation=8, shear=4, zoom=0.3, seed=seed)
    numbers = (facts["numbers"] - np.nanmean(facts["numbers"], axis=0)) / np.nanstd(facts["numbers"], axis=0)
    pixels = {size: resized(facts["pixels"], size) for size in sizes}
    for size in itertools.cycle(sizes):
        rows = rng.choice(len(numbers), sizes[size], replace=False)
        grey, mask = view(pixels[size][rows].astype(np.float32), affine, rng)
        answers = {"label": facts["label"][rows], "kind": facts["kind"][rows], "numbers": numbers[rows]}
        axis, area = np.linspace(-1, 1, size, dtype=np.float32), mask.mean(axis=(1, 2))
        middle = [(mask.mean(axis=3 - k) * axis).mean(axis=1) / (area + 1e-6) for k in (1, 2)]
        answers["place"] = np.stack([*middle, 3 * np.sqrt(area)], axis=1)
        for name in (name for name in model.output_names if name.endswith("_outline")):
            outline = keras.ops.image.resize(mask[..., None], shapes[size][name][1:3], antialias=True)
            answers[name] = keras.ops.convert_to_numpy(outline)
        yield np.repeat(grey[..., None], 3, axis=-1), answers


def view(both, affine, rng):
    """Return grey levels and masks (N, size, size), 0–1, of new views of ``both`` (N, size, size, 2), 0–255."""
    mirrored = rng.random(len(both)) < 0.5
    both[mirrored] = both[mirrored][:, :, ::-1]
    grey, mask = np.moveaxis(keras.ops.convert_to_numpy(affine(both, training=True)) / 255, -1, 0)
    ranges = ((-0.4, 0.4), (0.75, 1.25), (-0.08, 0.08), (-0.4, 0.9), (0.0, 0.05))
    power, gain, offset, blur, noise = (np.float32(rng.uniform(*ends, (len(both), 1, 1))) for ends in ranges)
    around = sum(np.roll(grey, shift, axis) for axis in (1, 2) for shift in (-1, 1)) / 4
    grey = np.clip(grey + blur * (around - grey), 0, 1)  # where blur is below 0 it sharpens
    grey = np.clip(grey ** np.exp(power) * gain + offset, 0, 1)
    return grey + noise * rng.standard_normal(grey.shape, dtype=np.float32), mask


def resized(pixels, size):
    """Return uint8 scans (N, height, width, 2) at another size."""
    planes = ([Image.fromarray(one[..., k]).resize((size, size), Image.BILINEAR) for k in (0, 1)] for one in pixels)
    return np.array([np.stack(both, axis=-1) for both in planes])


def shared(plain, twins):
    """Return a copy of a network whose twins share convolutions, and {name of a convolution: that of the copy}."""
    blocks, names = {}, []
    for layer in plain.layers:  # keras.applications lists one residual block's layers after another's
        if isinstance(layer, layers.Conv2D):
            names.append(layer.name)
        elif re.match("mixed_|.*(_out|_ac)$", layer.name):
            blocks[layer.name.rsplit("_", 1)[0]], names = names, []
    used = {layer.name: layer.name for layer in backbones.layers(plain, layers.Conv2D)}
    for block, twin in twins.items():
        used |= dict(zip(blocks[block], blocks[twin], strict=False))
    copies = {}

    def copied(layer):
        settings = layer.get_config() | {"name": used.get(layer.name, layer.name)}
        if isinstance(layer, layers.BatchNormalization):
            settings["momentum"] = 0.97  # a short training: the averages must follow it
        return copies.setdefault(settings["name"], type(layer).from_config(settings))

    base = keras.models.clone_model(plain, clone_function=copied)
    for layer in backbones.layers(base, (layers.Conv2D, layers.BatchNormalization)):
        layer.set_weights(plain.get_layer(layer.name).get_weights())
    return base, used


def with_tasks(base, name):
    """Return the network with an output for each thing that the generator knows."""
    features = layers.GlobalAveragePooling2D(dtype="float32")(base.output)
    widths = {"kind": len(KINDS) + 1, "numbers": len(NUMBERS), "place": 3}
    outputs = {task: layers.Dense(width, name=task, dtype="float32")(features) for task, width in widths.items()}
    dropped = layers.Dropout(0.3, dtype="float32")(features)
    outputs["label"] = layers.Dense(len(CLASSES), name="label", dtype="float32")(dropped)
    for layer in NETWORKS[name]["outlines"]:
        convolution = layers.Conv2D(1, 1, name=f"{layer}_outline", dtype="float32")
        outputs[convolution.name] = convolution(base.get_layer(layer).output)
    return keras.Model(base.input, outputs)


def fit(model, views, steps, minutes, rate):
    """Train for a number of steps, or of minutes where these are over sooner; the rate falls along a cosine to 0."""
    loss = dict.fromkeys(model.output_names, losses.BinaryCrossentropy(from_logits=True))
    loss |= dict.fromkeys(("label", "kind"), losses.SparseCategoricalCrossentropy(from_logits=True))
    loss |= {"numbers": squares, "place": "mse"}
    weights = dict.fromkeys(model.output_names, 0.5) | {"label": 1.0}
    model.compile(keras.optimizers.Adam(), loss, loss_weights=weights, metrics={"label": "accuracy"})
    started, counter = time.time(), itertools.count()

    def falling(batch, logs=None):
        step = next(counter)
        progress = min(1, max(step / steps, (time.time() - started) / 60 / minutes))
        model.optimizer.learning_rate = rate * min(1, (step + 1) / 50) * (0.5 + 0.5 * np.cos(np.pi * progress**2))
        model.stop_training = progress == 1

    callback = keras.callbacks.LambdaCallback(on_train_batch_begin=falling)
    model.fit(views, steps_per_epoch=50, epochs=-(-steps // 50), verbose=2, callbacks=[callback])
    print(f"{next(counter)} steps in {(time.time() - started) / 60:.1f} minutes")


def squares(truth, answer):
    """Return the mean squared error where the truth is a number."""
    error = keras.ops.where(keras.ops.isnan(truth), 0.0, keras.ops.nan_to_num(truth) - answer)
    return keras.ops.mean(error**2, axis=-1)


def save(model, base, used, plain, file):
    """Write the file that `busilib.learning.backbones.load` reads, with the class output beside it."""
    numbers = {convolution: number for number, convolution in enumerate(dict.fromkeys(used.values()))}
    stored = {"network": file.stem, "use": np.array([numbers[one] for one in used.values()], np.int16)}
    for convolution, number in numbers.items():
        kernel, *bias = base.get_layer(convolution).get_weights()
        stored[f"kernel_{number}"], stored[f"scale_{number}"] = rounded(kernel)
        stored |= {f"bias_{number}": value for value in bias}
    norms = [base.get_layer(layer.name) for layer in backbones.layers(plain, layers.BatchNormalization)]
    stored["norms"] = np.concatenate([weight for layer in norms for weight in layer.get_weights()])
    stored["head"], stored["head_bias"] = model.get_layer("label").get_weights()
    with cache.write_file(file) as temporary, open(temporary, "wb") as target:
        np.savez_compressed(target, **stored)


def rounded(kernel):
    """Return a kernel as whole numbers, and its scale per output channel."""
    scale = np.maximum(np.abs(kernel).max(axis=(0, 1, 2)), 1e-12) / backbones.LEVELS
    return np.rint(kernel / scale).astype(np.int8), scale.astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=backbones.NAMES)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--minutes", type=int, default=1000, help="stop there, if the steps are not over by then")
    parser.add_argument("--start", type=Path, help="weights to start from: one of our .npz")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16")
    plain = getattr(keras.applications, options.name)(include_top=False, weights=None, input_shape=(None, None, 3))
    if options.start:
        backbones.load(plain, options.name, options.start)
    base, used = shared(plain, NETWORKS[options.name]["twins"])
    model = with_tasks(base, options.name)
    facts = {key: values[HELD_OUT:] for key, values in scans(SCANS).items()}
    views = batches(facts, model, NETWORKS[options.name]["batches"], seed=0)
    fit(model, views, options.steps, options.minutes, 1e-3)
    for layer in backbones.layers(base, layers.Conv2D):  # what is left to train settles on the rounded kernels
        kernel, scale = rounded(layer.get_weights()[0])
        layer.set_weights([kernel * scale, *layer.get_weights()[1:]])
        layer.trainable = False
    fit(model, views, 100, options.minutes, 2e-4)
    save(model, base, used, plain, backbones.FOLDER / f"{options.name}.npz")


if __name__ == "__main__":
    main()
