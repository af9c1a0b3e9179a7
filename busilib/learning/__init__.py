"""Networks and their training.

Importing this loads Keras on the backend that KERAS_BACKEND names, without the noise that TensorFlow makes.
"""

import os
from contextlib import contextmanager


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


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with _quiet():
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow

        # Looking at the devices now makes TensorFlow say all it has to say here.
        tensorflow.config.list_logical_devices()
        # It warns of "retracing" when several models predict, which is what a lesson does.
        tensorflow.get_logger().setLevel("ERROR")
