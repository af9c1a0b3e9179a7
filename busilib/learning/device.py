"""Precision, jit, batch size and steps per execution, set by the device that this process computes on, in one place.

What is kept is float32 everywhere: features, predictions, saved models. So a model that was trained on a GPU gives the
same probabilities on a laptop. Only the training of convolutions runs in a shorter type, where the chip has it.
"""

import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache

import keras

from busilib.learning.augmentation import RandomAffine


@dataclass(frozen=True)
class Settings:
    """How this process computes.

    ``precision``: the Keras dtype policy of training where convolutions are trained ("float32" or "mixed_bfloat16").
    ``jit_compile`` and ``steps_per_execution``: as in ``Model.compile``. ``predict_batch``: images a batch when
    nothing is learned: features, predictions, validation of kept features. (The batch of training is the recipe's.)
    """

    backend: str  # "tensorflow" or "jax"
    device: str  # "CPU, 2 cores" or the accelerator's name
    accelerated: bool
    precision: str
    jit_compile: bool | str
    predict_batch: int
    steps_per_execution: int

    @property
    def sentence(self):
        """All of it in plain words."""
        jit = {True: "on", False: "off", "auto": "on where every layer has a kernel for it"}[self.jit_compile]
        kept = "" if self.precision == "float32" else " (what is kept is float32)"
        return (
            f"{self.backend} on {self.device}: convolutions are trained in {self.precision}{kept}, jit is {jit}, "
            f"{self.predict_batch} images a batch in prediction, {self.steps_per_execution} step(s) an execution."
        )

    def as_dict(self):
        """Return what changes numbers or speed, as plain values for run.json."""
        return {name: value for name, value in asdict(self).items() if name not in ("backend", "device")}


@cache
def settings():
    """Return the `Settings` of this process: looked up once, from the devices of Keras' backend."""
    return choose(keras.backend.backend(), *_accelerator())


def choose(backend, name=None, capability=None):
    """Return the `Settings` for a backend and an accelerator: its name and compute capability, None for a CPU.

    On a CPU mixed_float16 is 30 times slower than float32, and TensorFlow's XLA is slower than its own kernels. On a
    GPU bfloat16 needs no loss scaling; chips before compute capability 8 have none, and stay with float32.
    TensorFlow's jit stays "auto" there: XLA has no kernel for its projective transform (see `augmentation`).
    """
    cpu = name is None
    return Settings(
        backend=backend,
        device=f"CPU, {os.cpu_count()} cores" if cpu else name,
        accelerated=not cpu,
        precision="mixed_bfloat16" if not cpu and (capability or 0) >= 8 else "float32",
        jit_compile=backend == "jax" or (False if cpu else "auto"),
        predict_batch=64 if cpu else 256,
        # The batches of all epochs come from one generator: a second step could take the next epoch's first batch.
        # It would gain nothing on JAX, which runs the steps of an execution one by one in Python.
        steps_per_execution=1,
    )


def compiling(**changes):
    """Return the keywords for ``Model.compile`` that the device sets: jit_compile and steps_per_execution."""
    own = settings()
    return {"jit_compile": own.jit_compile, "steps_per_execution": own.steps_per_execution} | changes


def precision(recipe):
    """Return the dtype policy in which a recipe is trained: a head alone is too small for a shorter type to pay."""
    return "float32" if recipe.unfreeze == "none" else settings().precision


@contextmanager
def computing(model, precision):
    """Within the block, what ``model`` traces computes by the dtype policy ``precision``; its weights stay float32.

    The layers that give probabilities (softmax) and those that move or rescale pixels stay float32. Afterwards the
    layers are as before, and what was traced is forgotten, so that predictions and saved models are float32.
    """
    changed = [] if precision == "float32" else [layer for layer in layers(model) if not _stays(layer)]
    kept = [layer.dtype_policy for layer in changed]
    try:
        for layer in changed:
            layer.dtype_policy = precision
        yield
    finally:
        for layer, policy in zip(changed, kept, strict=True):
            layer.dtype_policy = policy
        if changed:
            model.train_function = model.test_function = model.predict_function = None


def layers(model):
    """Yield the layers that compute, those of nested models one by one."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from layers(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


def _stays(layer):
    softmax = getattr(layer, "activation", None) is keras.activations.softmax
    return softmax or isinstance(layer, (keras.layers.Rescaling, RandomAffine))


def _accelerator():
    """Return (name, compute capability as a float) of the first accelerator; an empty tuple on a CPU."""
    if keras.backend.backend() == "jax":
        import jax

        first = jax.devices()[0]
        found = None if first.platform == "cpu" else (first.device_kind, getattr(first, "compute_capability", None))
    else:
        import tensorflow

        devices = tensorflow.config.list_physical_devices("GPU")
        details = tensorflow.config.experimental.get_device_details(devices[0]) if devices else {}
        capability = ".".join(map(str, details.get("compute_capability", ()))) or None
        found = (details.get("device_name", "GPU"), capability) if devices else None
    return (found[0], float(found[1] or 0)) if found else ()
