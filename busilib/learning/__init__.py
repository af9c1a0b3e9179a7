"""Networks and their training.

Importing this loads Keras on the backend that KERAS_BACKEND names, without the noise that TensorFlow makes.
"""

import os
from contextlib import contextmanager


@contextmanager
def _quiet():
    """Send what C++ code prints on stderr to nowhere: TensorFlow logs there at import, whatever its log level."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


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
    elif keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")  # the same, for convolutions too
