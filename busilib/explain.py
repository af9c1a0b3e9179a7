"""What a trained network looks at: Grad-CAM, and how maps are judged. (Lesson 06 shows filters and feature maps.)

The models are those of this library: ``preprocessing`` → ``base`` → ``head``. A gradient is asked of the head's
unscaled output, so the model is split at a layer of the base: Keras cannot differentiate across a nested model.
"""

from functools import lru_cache

import numpy as np

BATCH = 32


def grad_cam(model, pixels, class_index=None, layer=None):
    """Return Grad-CAM's maps for uint8 pixels (N, size, size, 3): float32 (N, h, w) in [0, 1], the layer's h and w.

    map = ReLU(Σ_k α_k A_k), where A_k are the layer's feature maps and α_k is the mean over places of the gradient
    of the class's output, before the softmax, by A_k; each map is then divided by its maximum. A map without any
    positive value stays 0. Source: Selvaraju et al., ICCV 2017, doi 10.1109/ICCV.2017.74.

    ``class_index``: an index, or one per image; None takes the predicted class. ``layer``: a layer of the base
    through which everything passes (the end of a stage); None takes the base's output.
    Raises ValueError for a layer that does not exist, or beside which a path leads on.
    """
    lower, upper = _split(model, layer)
    if class_index is None:
        class_index = model.predict(pixels, batch_size=BATCH, verbose=0).argmax(axis=1)
    classes = np.broadcast_to(np.asarray(class_index), len(pixels))
    maps = []
    for start in range(0, len(pixels), BATCH):
        chosen = classes[start : start + BATCH]
        features = lower.predict(_prepare(model, pixels[start : start + BATCH]), batch_size=BATCH, verbose=0)
        slopes = _gradient(upper, features, chosen).mean(axis=(1, 2), keepdims=True)
        maps.append(np.maximum((features * slopes).sum(axis=-1), 0))
    maps = np.concatenate(maps)
    highest = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0).astype("float32")


def peaks(maps):
    """Return where each map (N, h, w) is highest, as fractions of the height and the width: float (N, 2) = y, x.

    It is the middle of the strongest cell: a coarse map says no more. A map of zeros has no peak: NaN.
    """
    maps = np.asarray(maps)
    rows, columns = np.unravel_index(maps.reshape(len(maps), -1).argmax(axis=1), maps.shape[1:])
    places = (np.stack([rows, columns], axis=1) + 0.5) / maps.shape[1:]
    places[maps.max(axis=(1, 2)) <= 0] = np.nan
    return places


def peak_inside(maps, masks):
    """Return for each map (N, h, w) whether its peak lies inside its mask (N, H, W, bool): bool (N,).

    A map of zeros has no peak, which counts as outside.
    """
    pairs = zip(peaks(maps), np.asarray(masks), strict=True)
    inside = [np.isfinite(y) and mask[int(y * len(mask)), int(x * len(mask[0]))] for (y, x), mask in pairs]
    return np.array(inside, dtype=bool)


def _prepare(model, pixels):
    return model.get_layer("preprocessing").predict(pixels, batch_size=BATCH, verbose=0)


@lru_cache(maxsize=2)  # a split of one model serves many pictures, and Keras traces it once
def _split(model, layer):
    """Return (lower, upper): from prepared pixels to a layer's output, and from there to the scores before softmax."""
    import keras

    base, head = model.get_layer("base"), model.get_layer("head")
    last = head.layers[-1]
    body = keras.Model(head.inputs, last.input)
    seam = base.get_layer(layer).output if layer else base.output
    values = keras.Input(seam.shape[1:])
    try:
        # A stage's end is the only way through: otherwise Keras finds that the upper part needs the pixels as well.
        after = keras.Model(seam, base.output)(values, training=False) if layer else values
    except ValueError as error:
        raise ValueError(f"a path leads past the layer {layer!r}: name the end of a stage") from error
    scores = body(after, training=False) @ last.kernel + last.bias  # the softmax is left out
    return keras.Model(base.input, seam), keras.Model(values, scores)


def _gradient(upper, features, classes):
    """Return the gradient of each image's score for its class by its features, as the features: float (N, h, w, C)."""
    import keras

    chosen = np.eye(upper.output_shape[-1], dtype="float32")[classes]

    def score(values):
        return keras.ops.sum(upper(values, training=False) * chosen)

    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(score)(features))
    import tensorflow

    values = tensorflow.convert_to_tensor(features)
    with tensorflow.GradientTape() as tape:
        tape.watch(values)
        total = score(values)
    return np.asarray(tape.gradient(total, values))
