"""The embedded backbones: what is drawn, what is stored, that it fits, and that the script which makes them runs."""

import argparse

import numpy as np
import pytest

from busilib.data import catalogue, images, phantom
from busilib.errors import WeightsError
from busilib.learning import embedded, models
from busilib.learning.embedded import make

import keras  # isort: skip  (after busilib.learning, which loads it quietly)

SIZES = {"ResNet50": 64, "InceptionResNetV2": 75}
NONE = models.Weights("none", "")


@pytest.fixture(scope="module", params=sorted(SIZES))
def shipped(request):
    """(name, network) with the weights that come with the package."""
    name = request.param
    return name, models.backbone(name, SIZES[name], models.find_weights("phantom", name))


def test_drawn_kernels_are_the_same_everywhere():
    kernel = embedded.drawn((3, 3, 8, 16), 0, 5)
    limit = np.sqrt(6 / 72)
    assert kernel.dtype == np.float32 and np.abs(kernel).max() <= limit and np.abs(kernel).max() > 0.95 * limit
    # He initialisation: variance 2 / inputs.
    assert abs(kernel.var() * 72 / 2 - 1) < 0.15
    np.testing.assert_array_equal(kernel, embedded.drawn((3, 3, 8, 16), 0, 5))
    assert (kernel != embedded.drawn((3, 3, 8, 16), 0, 6)).mean() > 0.99
    assert (kernel != embedded.drawn((3, 3, 8, 16), 1, 5)).mean() > 0.99


def test_every_weight_is_set(shipped):
    """Nothing of Keras' own random weights is left: another seed gives the same network."""
    name, network = shipped
    other = models.backbone(name, SIZES[name], models.find_weights("phantom", name), seed=7)
    assert all(np.array_equal(a, b) for a, b in zip(network.get_weights(), other.get_weights(), strict=True))
    assert all(np.isfinite(weight).all() for weight in network.get_weights())


def test_idle_blocks_add_nothing(shipped):
    """The network without its idle blocks, which is what was trained, gives the same features."""
    name, network = shipped
    scan = np.random.default_rng(0).random((2, SIZES[name], SIZES[name], 3), dtype=np.float32)
    values = scan
    for ends in embedded.stretches(network, name):
        values = keras.Model(*ends)(values)
    np.testing.assert_allclose(network(scan), values, atol=1e-4 * float(np.abs(values).max()))
    assert len(embedded.idle(network, name)) == {"ResNet50": 15, "InceptionResNetV2": 172}[name]


def test_features_tell_unseen_phantoms_apart(shipped, tmp_path):
    """Leave one group out, nearest class mean: far above chance, and above random features."""
    name, network = shipped
    scans = catalogue.read(phantom.make(tmp_path / "phantoms", 60, seed=31)).table
    pixels = images.load(scans["path"], SIZES[name]) / np.float32(255)
    labels, groups = scans["label"].to_numpy(), scans["group"].to_numpy()

    def right(base):
        rows = base.predict(pixels, verbose=0).mean(axis=(1, 2))
        rows = (rows - rows.mean(axis=0)) / (rows.std(axis=0) + 1e-6)
        hits = []
        for row, label, group in zip(rows, labels, groups, strict=True):
            means = {one: rows[(labels == one) & (groups != group)].mean(axis=0) for one in set(labels)}
            hits.append(min(means, key=lambda one: np.linalg.norm(row - means[one])) == label)
        return np.mean(hits)

    assert right(network) >= 0.75
    assert right(network) > right(models.backbone(name, SIZES[name], NONE))


def test_weights_are_found_and_said():
    for name in SIZES:
        found = models.find_weights("phantom", name)
        assert found.kind == "phantom" and len(found.sha256) == 64 and "trained on phantoms" in found.sentence
        assert models.find_weights("auto", name, "phantom-n60-seed0-v2", "full") == found
    with pytest.raises(WeightsError, match="ResNet50 and InceptionResNetV2 were trained on phantoms, VGG16 was not"):
        models.find_weights("phantom", "VGG16")
    assert models.find_weights("auto", "VGG16").kind == "none"


def test_all_files_together_are_small():
    files = list(embedded.FOLDER.glob("*.npz"))
    assert len(files) == len(embedded.LEARNED) and sum(file.stat().st_size for file in files) < 25e6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """ResNet50 as the script builds it, at 32 px, its learned parts moved a little; the network as built, its file."""
    base, gains = make.network("ResNet50", 32, seed=3)
    rng = np.random.default_rng(0)
    for layer in gains.values():
        layer.gain.assign(rng.uniform(0.5, 1.5, layer.gain.shape))
    file = tmp_path_factory.mktemp("embedded") / "ResNet50.npz"
    learned = {number: keras.ops.convert_to_numpy(layer.gain) for number, layer in gains.items()}
    embedded.save(base, "ResNet50", file, seed=3, gains=learned)
    return base, file


def test_what_is_stored_comes_back(made):
    """Drawn kernels to the last bit, learned ones as near as rounding allows."""
    base, file = made
    plain = models.backbone("ResNet50", 32, NONE)
    embedded.load(plain, "ResNet50", file)
    pairs = zip(embedded.convolutions(base, "ResNet50"), embedded.convolutions(plain, "ResNet50"), strict=True)
    for (_, ours, learned), (_, theirs, _) in pairs:
        a, b = (keras.ops.convert_to_numpy(layer.kernel) for layer in (ours, theirs))
        if learned:
            step = np.abs(a).max(axis=(0, 1, 2)) / embedded.LEVELS
            assert (np.abs(a - b) <= 0.5001 * step + 1e-9).all()
        else:
            np.testing.assert_array_equal(a * keras.ops.convert_to_numpy(ours.gain)[:, None], b)


@pytest.mark.parametrize("name", SIZES)
def test_a_machine_that_draws_other_kernels_is_told(name, monkeypatch):
    monkeypatch.setattr(embedded, "drawn", lambda shape, seed, number: np.zeros(shape, np.float32))
    with pytest.raises(WeightsError, match="draws other kernels than those that it was trained with"):
        models.backbone(name, SIZES[name], models.find_weights("phantom", name))


def test_a_view_keeps_scan_and_outline_together():
    """A square that is both the grey level and the mask stays where the mask is, and its middle is found."""
    both = np.zeros((8, 64, 64, 2), np.uint8)
    both[:, 10:20, 40:50] = 200, 255
    options = argparse.Namespace(seed=0)
    known = {"pixels": both, "label": np.zeros(8, int), "kind": np.zeros(8, int), "behind": np.zeros(8, np.float32)}
    scans, answers = make.Views(known, 4, options)[0]
    assert scans.shape == (8, 64, 64, 3) and answers["outline"].shape == (8, 4, 4, 1)
    for scan, (row, column, _) in zip(scans[..., 0], answers["place"], strict=True):
        bright = np.argwhere(scan > scan.min() + 0.5 * np.ptp(scan))
        np.testing.assert_allclose(bright.mean(axis=0), (np.array([row, column]) + 1) * 31.5, atol=1.5)
    assert len({round(float(column), 2) for _, column, _ in answers["place"]}) > 4, "views differ"


def test_the_script_draws_what_it_says():
    scan, label, kind, behind = make._draw(5)
    assert scan.shape == (make.SIZE, make.SIZE, 2) and scan.dtype == np.uint8
    assert (label == 2) == (kind == len(make.KINDS)) == (scan[..., 1].max() == 0)
    assert np.array_equal(scan, make._draw(5)[0]) and (behind == 0 or label < 2)
