"""The embedded backbones: they fit, no block of theirs is idle, and all that a lesson unfreezes learns."""

import re
import shutil

import numpy as np
import pytest

from busilib.data import catalogue, images, phantom
from busilib.errors import WeightsError
from busilib.learning import backbones, keras, models

SIZE = 75


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """60 phantoms that no backbone has seen: their table, and their pixels X/255."""
    table = catalogue.read(phantom.make(tmp_path_factory.mktemp("phantoms") / "phantoms", 60, seed=31)).table
    return table, images.load(table["path"], SIZE) / np.float32(255)


@pytest.fixture(scope="module", params=backbones.NAMES)
def embedded(request):
    """(name, network) with the weights that come with the package."""
    name = request.param
    return name, models.backbone(name, SIZE, models.find_weights("phantom", name))


def test_every_weight_is_set(embedded):
    """Nothing of Keras' own random weights is left: another seed gives the same network."""
    name, network = embedded
    other = models.backbone(name, SIZE, models.find_weights("phantom", name), seed=7)
    assert all(np.array_equal(a, b) for a, b in zip(network.get_weights(), other.get_weights(), strict=True))
    assert all(np.isfinite(weight).all() for weight in network.get_weights())


def test_no_residual_block_is_idle(embedded, scans):
    """Each one's branch in turn set to zero: the averaged features change by more than 1 %."""
    name, network = embedded
    closing = r"conv\d_block\d_3_bn" if name == "ResNet50" else r"block\d+_\d+_conv"
    closing = [layer for layer in network.layers if re.fullmatch(closing, layer.name)]
    assert len(closing) == {"ResNet50": 16, "InceptionResNetV2": 40}[name]
    averaged = keras.Model(network.input, keras.layers.GlobalAveragePooling2D()(network.output))
    answer = lambda: averaged.predict(scans[1][:8], verbose=0)  # noqa: E731
    whole, changes = answer(), {}
    for layer in closing:
        weights = layer.get_weights()
        layer.set_weights([np.zeros_like(weight) for weight in weights])
        changes[layer.name] = np.linalg.norm(answer() - whole) / np.linalg.norm(whole)
        layer.set_weights(weights)
    assert np.array_equal(answer(), whole), "all is as it was"
    assert min(changes.values()) > 0.01, changes


def test_every_kernel_of_the_last_stage_learns(embedded, scans):
    """A few steps move most numbers of each, as they could not behind a layer that gives nothing."""
    name, network = embedded
    table, pixels = scans
    seam = network.get_layer(models.BACKBONES[name].last_stage).output
    values = keras.Model(network.input, seam).predict(pixels[:16], verbose=0)
    stage = keras.models.clone_model(keras.Model(seam, network.output))
    stage.set_weights(keras.Model(seam, network.output).get_weights())
    learner = keras.Sequential([stage, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, "softmax")])
    for layer in stage.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    learner.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    before = {layer.name: layer.get_weights()[0] for layer in backbones.layers(stage, keras.layers.Conv2D)}
    learner.fit(values, codes(table)[:16], batch_size=8, epochs=2, verbose=0)
    moved = {layer: (stage.get_layer(layer).get_weights()[0] != kernel).mean() for layer, kernel in before.items()}
    assert len(moved) == {"ResNet50": 10, "InceptionResNetV2": 51}[name] and min(moved.values()) > 0.2, moved


def test_its_class_output_knows_unseen_phantoms(embedded, scans):
    """The output that was trained with it stands in its file."""
    name, network = embedded
    with np.load(backbones.path(name)) as stored:
        answers = network.predict(scans[1], verbose=0).mean(axis=(1, 2)) @ stored["head"] + stored["head_bias"]
    assert np.mean(answers.argmax(axis=1) == codes(scans[0])) >= 0.8


def codes(table):
    """Return the class numbers of scans: the classes' order is the alphabet's."""
    return table["label"].astype("category").cat.codes.to_numpy()


def test_weights_are_found_and_said():
    for name in backbones.NAMES:
        weights = models.find_weights("phantom", name)
        assert weights.kind == "phantom" and len(weights.sha256) == 64 and "trained on phantoms" in weights.sentence
    with pytest.raises(WeightsError, match="ResNet50 and InceptionResNetV2 were trained on phantoms, VGG16 was not"):
        models.find_weights("phantom", "VGG16")
    assert backbones.path("VGG16") is None and models.find_weights("auto", "VGG16").kind == "none"


def test_another_file_is_refused(tmp_path):
    network = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(32, 32, 3))
    np.savez(tmp_path / "other.npz", numbers=np.zeros(3))
    shutil.copy(backbones.path("ResNet50"), tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:100_000])
    for file in (backbones.path("InceptionResNetV2"), tmp_path / "other.npz", tmp_path / "cut.npz"):
        with pytest.raises(WeightsError, match=f"{file.name} holds no embedded weights of ResNet50"):
            backbones.load(network, "ResNet50", file)


def test_both_files_together_are_small():
    assert sum(backbones.path(name).stat().st_size for name in backbones.NAMES) < 30e6
