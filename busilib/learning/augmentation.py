"""Paper B's augmentation as one affine map: the image is resampled once, on TensorFlow and JAX alike.

Keras' three random layers resample three times and reflect at the border by default. ImageDataGenerator, which the
paper used, composes rotation, shear and zoom into one matrix, and so does this.
"""

import keras
import numpy as np
from keras import ops

DRAWN, MOVED = 64, 256  # images whose parameters are drawn, and that are moved, in one call


@keras.saving.register_keras_serializable("busilib")
class RandomAffine(keras.layers.Layer):
    """Rotate, shear and zoom each image of a batch at random; the defaults are paper B's Table 1.

    ``rotation`` and ``shear`` are in degrees, drawn from [-value, value]; ``zoom`` draws the two factors
    independently from [1 - zoom, 1 + zoom]. Input (N, height, width, channels), any number type; output float32 of
    the same shape and value range. Active only with ``training=True``. ``seed`` fixes the draws.
    """

    def __init__(self, rotation=20.0, shear=0.2, zoom=0.2, fill_mode="nearest", seed=None, **options):
        super().__init__(**options)
        self.rotation, self.shear, self.zoom, self.fill_mode, self.seed = rotation, shear, zoom, fill_mode, seed
        self.random = keras.random.SeedGenerator(seed)
        # XLA has no kernel for TensorFlow's projective transform: with jit_compile="auto" Keras then leaves it out.
        self.supports_jit = keras.backend.backend() != "tensorflow"

    def call(self, images, training=False):
        images = ops.cast(images, "float32")
        return self.transform(images, self.draw(ops.shape(images)[0])) if training else images

    def draw(self, n):
        """Draw the parameters of n images: float32 (n, 4) = rotation (°), shear (°), x zoom, y zoom."""
        low = ops.array([-self.rotation, -self.shear, 1 - self.zoom, 1 - self.zoom], "float32")
        high = ops.array([self.rotation, self.shear, 1 + self.zoom, 1 + self.zoom], "float32")
        return low + (high - low) * keras.random.uniform((n, 4), seed=self.random)

    def transform(self, images, parameters):
        """Apply given parameters (N, 4), as `draw` gives them, to float images (N, height, width, channels)."""
        _, height, width, _ = ops.shape(images)
        maps = matrices(parameters, height, width)
        return ops.image.affine_transform(images, maps, interpolation="bilinear", fill_mode=self.fill_mode)

    def moved(self, pixels):
        """Return uint8 pixels (N, height, width, 3), each image moved at random; a batch at a time.

        Grey scans are moved in one channel: the same values, for a third of the work.
        """
        result = np.empty_like(pixels)
        drawn = [self.draw(len(pixels[start : start + DRAWN])) for start in range(0, len(pixels), DRAWN)]
        grey = np.array([all((image[..., 0] == image[..., k]).all() for k in (1, 2)) for image in pixels])
        for is_grey, channels in ((True, 1), (False, 3)):
            rows = np.flatnonzero(grey == is_grey)
            for start in range(0, len(rows), MOVED):
                batch = rows[start : start + MOVED]
                images = ops.cast(pixels[batch, ..., :channels], "float32")
                values = self.transform(images, np.concatenate(drawn)[batch])
                moved = ops.convert_to_numpy(ops.cast(ops.round(values), "uint8"))
                for k in range(3):  # numpy is five times slower when it spreads one channel over three by itself
                    result[batch, ..., k] = moved[..., k % channels]
        return result

    def get_config(self):
        settings = ("rotation", "shear", "zoom", "fill_mode", "seed")
        return super().get_config() | {name: getattr(self, name) for name in settings}


def matrices(parameters, height, width):
    """Return the maps (N, 8) from output to input pixels, as ``keras.ops.image.affine_transform`` takes them.

    Rotation · shear · zoom about the image's centre (width/2 - 1/2, height/2 - 1/2). In (x, y) = (column, row)
    coordinates the product is [[cos θ · zx, -sin(θ + s) · zy], [sin θ · zx, cos(θ + s) · zy]], the convention of
    Keras' ``apply_affine_transform``. (That function mixes up height and width in the centre of an image that is not
    square; this does not.)
    """
    parameters = ops.cast(parameters, "float32")
    angle, shear = (parameters[:, i] * (3.141592653589793 / 180) for i in (0, 1))
    zoom_x, zoom_y = parameters[:, 2], parameters[:, 3]
    a, b = ops.cos(angle) * zoom_x, -ops.sin(angle + shear) * zoom_y
    c, d = ops.sin(angle) * zoom_x, ops.cos(angle + shear) * zoom_y
    x, y = width / 2 - 0.5, height / 2 - 0.5
    zero = ops.zeros_like(a)
    return ops.stack([a, b, x - a * x - b * y, c, d, y - c * x - d * y, zero, zero], axis=1)
