"""Networks and their training.

Importing this loads Keras on the backend that KERAS_BACKEND names, without the noise that TensorFlow makes.
"""

import os
from contextlib import contextmanager, suppress


@contextmanager
def _quiet():
    """Send what C++ code prints on stderr to nowhere: TensorFlow logs there at import, whatever its log level."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _stop_tuning_input(tensorflow):
    """Let Keras feed its networks without tf.data's autotuning.

    That runs in a thread which may sleep through the end of its work, twice as long each time: on two cores four of ten
    fits, evaluations and predictions took up to twice their time. Keras' few steps need no tuning.
    """
    from keras.src.backend.tensorflow.trainer import TFEpochIterator

    own, options = TFEpochIterator._get_iterator, tensorflow.data.Options()
    options.autotune.enabled = False

    def untuned(self):
        dataset = own(self)
        return dataset.with_options(options) if isinstance(dataset, tensorflow.data.Dataset) else dataset

    TFEpochIterator._get_iterator = untuned


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# By default the first notebook takes most of a GPU's memory, and the next one that is open has none.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
with _quiet():
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow

        # Looking at the devices now makes TensorFlow say all it has to say here.
        tensorflow.config.list_logical_devices()
        # It warns of "retracing" when several models predict, which is what a lesson does.
        tensorflow.get_logger().setLevel("ERROR")
        # A GPU shortens float32 to 10 bits of mantissa unless it is told not to, and a laptop then disagrees.
        tensorflow.config.experimental.enable_tensor_float_32_execution(False)
        with suppress(ImportError, AttributeError):  # Keras' own insides: without them it is only slower
            _stop_tuning_input(tensorflow)
    elif keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")  # the same, for convolutions too
        # Where TensorFlow is installed beside JAX, Keras loads it (5 s, and log lines) when it saves its first model.
        with suppress(ImportError, AttributeError):
            from keras.src.utils.module_utils import tensorflow as lazy

            lazy._available = False
