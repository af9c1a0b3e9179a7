"""On a GPU, with Keras on JAX: both papers whole, and how near training and inference come to the chip's limit.

    make bench ONLY=gpu                  (BUSI_DIR names the real BUSI; without it, phantoms of the same number)

Without a GPU its rows say so. What is timed is trained in the precision that `busilib.learning.device` chooses.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
from rows import gpu, not_measured, row

NETWORKS = {"ResNet50": 128, "InceptionResNetV2": 150}  # pixels a side in the papers
BATCH, STEPS = 128, 40
PAPERS = "papers A and B, full protocol"
TARGETS = {"papers": "ours <= 180", "training": "ratio >= 0.95", "augmentation": "ours <= 10"}  # seconds, -, per cent
# Dense bfloat16 with float32 sums, TFLOP/s, from NVIDIA's data sheets (without sparsity). The first that fits counts.
LIMITS = {
    "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10G": 70.0,
    "RTX 4090": 165.0, "RTX 3090": 71.0,
}  # fmt: skip


def measure():
    """Return the rows; those with a target say that they were not measured where JAX sees no GPU."""
    if gpu() is None:
        return nothing("there is no GPU")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    from busilib.learning import device

    own = device.settings()
    if own.backend != "jax" or not own.accelerated:
        return nothing(f"it measures JAX on a GPU, but this is {own.backend} on {own.device}")
    rows = [papers_row(papers())]
    for name, size in NETWORKS.items():
        rows += rows_of(name, size, speeds(name, size, BATCH, STEPS, own.precision), limit(own.device), own.precision)
    return [one | {"device": own.device} for one in rows]


def nothing(reason):
    """Return the rows that have a target, each with the reason why it was not measured."""
    titles = [f"{name} {size} px" for name, size in NETWORKS.items()]
    parts = [(f"{title}, {what}", TARGETS[what]) for title in titles for what in ("training", "augmentation")]
    return [not_measured(name, reason, target) for name, target in [(PAPERS, TARGETS["papers"]), *parts]]


def papers(profile="full", **changes):
    """Train the recipes of both papers with an empty cache; return the seconds of each and what the data were.

    A dict of recipe name → seconds, and "data" → name. ``changes`` are settings of the recipes, as in `recipes.get`.
    """
    from busilib import data, recipes, runs
    from busilib.data import splits
    from busilib.learning import models, training

    scans = data.load(os.environ.get("BUSI_DIR") or "phantom", profile=profile)
    found, kept = {"data": scans.name}, os.environ.get("BUSILIB_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BUSILIB_CACHE"] = folder  # features and images that an earlier run left would flatter it
        try:
            for paper in "AB":
                split, start = splits.make(paper, "paper", scans, seed=0), None
                for name in (f"{paper}-frozen", f"{paper}-tuned"):
                    began = time.perf_counter()
                    recipe = recipes.get(name, profile, **changes)
                    weights = models.find_weights("auto", recipe.backbone, scans.name)  # never a download
                    start = runs.find_or_train(
                        recipe, scans, split, training.train, weights=weights, start=start, runs=Path(folder, "runs")
                    )
                    found[name] = time.perf_counter() - began
        finally:
            if kept is None:
                del os.environ["BUSILIB_CACHE"]
            else:
                os.environ["BUSILIB_CACHE"] = kept
    return found


def papers_row(found):
    """Return the row of what `papers` found."""
    times = {name: value for name, value in found.items() if name != "data"}
    note = f"{found['data']}: " + ", ".join(f"{name} {value:.0f} s" for name, value in times.items())
    note += "; compiling and saving included"
    return row(PAPERS, sum(times.values()), "s", target=TARGETS["papers"], note=note)


def speeds(name, size, batch, steps, precision):
    """Return images per second of a network that is trained as a whole, and what augmentation adds to its step.

    A dict: "fit" and "bare step" (training), "predict" and "bare answer" (inference), all with ``batch`` images;
    "augmentation", the share by which the bare step takes longer with it; "flops", operations an image forwards.
    """
    import jax

    from busilib import recipes
    from busilib.learning import device, keras, models, training
    from busilib.learning.augmentation import RandomAffine

    recipe = recipes.get("A-frozen", backbone=name, image_size=size, unfreeze="all")
    _, network = models.parts(models.build(recipe, models.Weights("none", "random")), recipe)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch * steps, size, size, 3), dtype=np.uint8)
    labels = rng.choice(recipes.CLASSES, len(pixels))
    batches = training.Batches(pixels, labels, batch, seed=0, shuffle=True)
    x, y = map(jax.device_put, batches[0])
    moving = models.augmented(network, RandomAffine(seed=0))
    found = {"flops": flops(network)}
    with device.computing(network, precision):
        plain, augmented = (step_seconds(one, x, y, steps) for one in (network, moving))
        network.compile(keras.optimizers.Adam(1e-4), "categorical_crossentropy", **device.compiling())
        found["bare step"], found["augmentation"] = batch / plain, augmented / plain - 1
        found["fit"] = len(pixels) / epoch_seconds(network, batches)
        found["bare answer"] = batch / answer_seconds(network, x, steps)
        network.predict(pixels[:batch], batch_size=batch, verbose=0)
        began = time.perf_counter()
        network.predict(pixels, batch_size=batch, verbose=0)
        found["predict"] = len(pixels) / (time.perf_counter() - began)
    return found


def step_seconds(network, x, y, steps):
    """Return the seconds of one compiled training step on one batch that lies on the device."""
    import jax
    from keras import losses, ops, optimizers

    optimizer = optimizers.Adam(1e-4)
    optimizer.build(network.trainable_variables)

    def loss(trained, rest, x, y):
        answers, rest = network.stateless_call(trained, rest, x, training=True)
        return ops.mean(losses.categorical_crossentropy(y, ops.cast(answers, "float32"))), rest

    def step(trained, rest, state, x, y):
        (_, rest), gradients = jax.value_and_grad(loss, has_aux=True)(trained, rest, x, y)
        trained, state = optimizer.stateless_apply(state, gradients, trained)
        return trained, rest, state

    # The batch is an argument: of constants the compiler would work out a part beforehand.
    # Copies, for each step gives its inputs' memory away.
    groups = network.trainable_variables, network.non_trainable_variables, optimizer.variables
    state = [[jax.numpy.array(variable.value, copy=True) for variable in group] for group in groups]
    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    state = jax.block_until_ready(compiled(*state, x, y))
    began = time.perf_counter()
    for _ in range(steps):
        state = compiled(*state, x, y)
    jax.block_until_ready(state)
    return (time.perf_counter() - began) / steps


def answer_seconds(network, x, steps):
    """Return the seconds that the compiled network takes to answer one batch that lies on the device."""
    import jax

    state = [[v.value for v in group] for group in (network.trainable_variables, network.non_trainable_variables)]
    compiled = jax.jit(lambda trained, rest, x: network.stateless_call(trained, rest, x, training=False)[0])
    jax.block_until_ready(compiled(*state, x))
    began = time.perf_counter()
    for _ in range(steps):
        answers = compiled(*state, x)
    jax.block_until_ready(answers)
    return (time.perf_counter() - began) / steps


def epoch_seconds(network, batches):
    """Return the seconds of ``fit``'s second epoch: the first compiles."""
    from busilib.learning import keras

    times = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: times.append(time.perf_counter()),
        on_epoch_end=lambda epoch, logs: times.append(time.perf_counter()),
    )
    network.fit(batches.epochs(2), steps_per_epoch=len(batches), epochs=2, shuffle=False, callbacks=[clock], verbose=0)
    return times[3] - times[2]


def flops(model):
    """Return the operations of one image forwards, two for each multiply-add: convolutions and Dense layers only.

    A training step counts three times as many: forwards, and backwards by the inputs and by the weights.
    """
    from busilib.learning import keras

    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            total += flops(layer)
        elif isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)):
            places = int(np.prod(layer.output.shape[1:-1]))  # a Dense layer has one
            total += 2 * places * int(np.prod(layer.kernel.shape))
    return total


def limit(name):
    """Return the chip's TFLOP/s in bfloat16 by its name; None when it is not known."""
    return next((value for part, value in LIMITS.items() if part in name), None)


def rows_of(name, size, found, most, precision):
    """Return the rows of one network from what `speeds` found and the chip's limit in TFLOP/s (None: unknown)."""
    title, where = f"{name} {size} px", f"batches of {BATCH}, {precision}"
    rows = []
    for what, ours, other, times in (("training", "fit", "bare step", 3), ("inference", "predict", "bare answer", 1)):
        target = TARGETS.get(what)
        note = f"other: the {other}, compiled, on one batch on the device; {where}"
        rows.append(row(f"{title}, {what}", found[ours], "images/s", found[other], target=target, note=note))
        reached = found[other] * found["flops"] * times / 1e12
        known = most if precision == "mixed_bfloat16" else None
        note = f"the {other}; {found['flops'] * times / 1e9:.1f} GFLOP an image, counted; other: " + (
            "the chip's limit in bfloat16" if known else "unknown"
        )
        rows.append(row(f"{title}, {what}: operations", reached, "TFLOP/s", known, note=note))
    share = 100 * found["augmentation"]
    note = f"how much longer the bare step takes with it inside; {where}"
    return [*rows, row(f"{title}, augmentation", share, "% of the step", target=TARGETS["augmentation"], note=note)]
