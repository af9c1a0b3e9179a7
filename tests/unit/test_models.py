"""models: shapes, preprocessing, the seam between frozen and trained, and where weights come from."""

import functools
import http.server
import io
import pickle
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from busilib import recipes
from busilib.errors import WeightsError
from busilib.learning import keras, models
from busilib.learning.models import BACKBONES, Weights, find_weights

NONE = Weights("none", "")
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def recipe(backbone="Tiny", **changes):
    return recipes.get("A-frozen", backbone=backbone, image_size=32, dense=(8,), **changes)


@pytest.fixture(scope="module")
def mobile():
    """MobileNetV2 at 32 pixels, its random weights in a file as Keras' own download has them."""
    return models.backbone("MobileNetV2", 32, NONE, seed=1)


@pytest.fixture
def keras_home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras-home"))
    return tmp_path / "keras-home"


@pytest.fixture
def no_download(monkeypatch):
    """Whoever would download builds a network with weights="imagenet"."""
    for name in ("ResNet50", "MobileNetV2", "VGG16"):
        build = getattr(keras.applications, name)

        def guarded(*given, weights=None, build=build, **named):
            assert weights is None, "a download"
            return build(*given, weights=weights, **named)

        monkeypatch.setattr(keras.applications, name, guarded)


@pytest.mark.parametrize("name", ["ResNet50", "MobileNetV2"])
def test_pixels_in_probabilities_out(name):
    model = models.build(recipe(name), NONE)
    assert [layer.name for layer in model.layers] == ["pixels", "preprocessing", "base", "head"]
    assert model.input_shape == (None, 32, 32, 3) and model.inputs[0].dtype == "uint8"
    assert model.output_shape == (None, len(recipes.CLASSES))
    probabilities = np.asarray(model(PIXELS))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities >= 0).all()


@pytest.mark.parametrize("name", ["ResNet50", "InceptionResNetV2", "VGG16", "MobileNetV2"])
def test_own_preprocessing_is_keras_applications(name):
    modules = {"InceptionResNetV2": "inception_resnet_v2", "MobileNetV2": "mobilenet_v2", "ResNet50": "resnet"}
    module = modules.get(name, name.lower())
    expected = getattr(keras.applications, module).preprocess_input(PIXELS.astype("float32"))
    np.testing.assert_allclose(models.preprocessing(name, 32, "own", NONE)(PIXELS), expected, atol=1e-4)
    np.testing.assert_allclose(models.preprocessing(name, 32, "rescale", NONE)(PIXELS), PIXELS / 255, atol=1e-6)
    ours = models.preprocessing(name, 32, "own", Weights("phantom", ""))
    np.testing.assert_allclose(ours(PIXELS), PIXELS / 255, atol=1e-6)


def test_preprocessing_survives_saving(tmp_path):
    model = models.preprocessing("ResNet50", 32, "own", NONE)
    model.save(tmp_path / "a.keras")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "a.keras")(PIXELS), model(PIXELS))


def test_the_heads_are_the_papers():
    a = models.head(recipes.get("A-frozen", "full"), (4, 4, 2048))
    assert models.describe(a)["kind"].tolist() == ["Flatten", "BatchNormalization", "Dense", "Dropout", "Dense"]
    b = models.describe(models.head(recipes.get("B-frozen", "full"), (3, 3, 1536)))
    assert b["kind"].tolist() == ["Flatten", "Dense", "Dropout", "Dense"]
    assert b["parameters"].tolist() == [0, 13824 * 256 + 256, 0, 256 * 3 + 3]
    assert b["output"].tolist() == ["[13824]", "[256]", "[256]", "[3]"]
    tuned = models.describe(models.head(recipes.get("A-tuned", "full"), (4, 4, 2048)))
    assert (tuned["kind"] == "Dense").sum() == 4, "three Dense layers and the output"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"), [("ResNet50", 128), ("InceptionResNetV2", 150), ("VGG16", 64), ("MobileNetV2", 64)]
)
def test_the_last_stage_and_the_file_name_are_kerass(name, size, monkeypatch):
    network = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(size, size, 3))
    stage, block = (
        network.layers.index(network.get_layer(seam))
        for seam in (BACKBONES[name].last_stage, BACKBONES[name].last_block)
    )
    assert 0.1 < stage / len(network.layers) < block / len(network.layers) < 1


@pytest.mark.parametrize("unfreeze", ["none", "last", "all"])
def test_the_two_parts_together_are_the_model(unfreeze, tiny):
    settings = recipe(unfreeze=unfreeze)
    model = models.build(settings, NONE, seed=2)
    frozen, trained = models.parts(model, settings)
    values = PIXELS if frozen is None else frozen(PIXELS)
    np.testing.assert_allclose(trained(values), model(PIXELS), atol=1e-5)
    assert (frozen is None) == (unfreeze == "all")
    names = {variable.path for variable in trained.trainable_weights}
    base, head = model.get_layer("base"), model.get_layer("head")
    inside = {variable.path for variable in base.weights} & names
    # A stage has a kernel and a bias, and gamma and beta, which only "all" trains.
    stages = {"none": 0, "last": 2, "all": 8}[unfreeze]
    assert len(inside) == stages
    assert len(names) == stages + len(head.trainable_weights)


def test_the_parts_of_a_real_network(mobile):
    settings = recipe("MobileNetV2", unfreeze="last")
    model = models.build(settings, NONE)
    frozen, trained = models.parts(model, settings)
    np.testing.assert_allclose(trained(frozen(PIXELS)), model(PIXELS), atol=1e-5)
    layers = {layer.name for layer in trained.get_layer("last_stage").layers}
    assert "block_13_expand" in layers and "block_12_project" not in layers
    _, trained = models.parts(models.build(settings, NONE), recipe("MobileNetV2", unfreeze="block"))
    layers = {layer.name for layer in trained.get_layer("last_stage").layers}
    assert "block_16_expand" in layers and "block_15_project" not in layers


@pytest.mark.parametrize("unfreeze", ["last", "all"])
def test_batch_norm_of_the_base_is_frozen_unless_all_is_trained(unfreeze, tiny):
    settings = recipe(unfreeze=unfreeze)
    model = models.build(settings, NONE)
    frozen, trained = models.parts(model, settings)
    base = model.get_layer("base")
    norms = [layer for layer in base.layers if isinstance(layer, keras.layers.BatchNormalization)]
    statistics = [weights for layer in norms for weights in layer.get_weights()]
    kernel = base.layers[-3].get_weights()[0]
    trained.compile(optimizer=keras.optimizers.Adam(0.01), loss="categorical_crossentropy")
    values = PIXELS if frozen is None else np.asarray(frozen(PIXELS))
    trained.fit(values, np.eye(3)[[0, 1, 2, 0]], epochs=2, verbose=0)
    after = [weights for layer in norms for weights in layer.get_weights()]
    same = [(a == b).all() for a, b in zip(statistics, after, strict=True)]
    assert len(same) == 8 and (all(same) if unfreeze == "last" else not any(same))
    assert abs(base.layers[-3].get_weights()[0] - kernel).max() > 1e-4, "the last stage did not learn"


def test_the_seed_fixes_the_weights(tiny):
    first, same, other = (models.build(recipe(), NONE, seed).get_weights() for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, same, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_copy_weights_takes_what_fits(tiny):
    source = models.build(recipe(), NONE, seed=1)
    wider = recipes.get("A-tuned", backbone=tiny, image_size=32, dense=(8, 6, 5))
    target = models.build(wider, NONE, seed=2)
    assert models.copy_weights(source, target) == ["batch_norm", "dense_1"]
    for name in ("base",):
        for a, b in zip(source.get_layer(name).get_weights(), target.get_layer(name).get_weights(), strict=True):
            assert (a == b).all()
    dense = [model.get_layer("head").get_layer("dense_1").get_weights()[0] for model in (source, target)]
    assert (dense[0] == dense[1]).all()
    assert models.copy_weights(source, models.build(recipe(), NONE, seed=3)) == [
        "batch_norm",
        "dense_1",
        "probabilities",
    ]


def test_too_small_a_picture_is_refused():
    with pytest.raises(ValueError, match="must be at least 75x75"):
        models.backbone("InceptionResNetV2", 64, NONE)


def test_no_weights_are_named_as_random(keras_home, no_download):
    for name, kind in (("none", "busi"), ("auto", "phantom")):
        weights = find_weights(name, "VGG16", kind, "full")
        assert (weights.kind, weights.path, weights.sha256) == ("none", None, None)
        assert "these are random features" in weights.sentence
    with pytest.raises(ValueError, match="backbone 'VGG' does not exist; choose one of: ResNet50"):
        find_weights("none", "VGG")


def test_a_quick_run_never_downloads(keras_home, no_download):
    weights = find_weights("auto", "ResNet50", "busi", "quick")
    assert (
        weights.kind == "phantom" and "ImageNet weights are not here, so weights that were trained" in weights.sentence
    )
    assert find_weights("auto", "MobileNetV2", "busi", "quick").kind == "none"
    with pytest.raises(WeightsError, match="a quick run never downloads, PROFILE=.*. Put the file at .*notop.h5"):
        find_weights("imagenet", "ResNet50", "busi", "quick")


def test_without_network_auto_goes_on_and_imagenet_says_what_to_do(keras_home, monkeypatch):
    def fail(*given, **named):
        raise OSError("no route to host")

    for name in ("ResNet50", "MobileNetV2"):
        monkeypatch.setattr(keras.applications, name, fail)
    assert find_weights("auto", "ResNet50", "busi", "full").kind == "phantom"
    assert find_weights("auto", "MobileNetV2", "busi", "full").kind == "none"
    with pytest.raises(WeightsError, match=r"ResNet50 \(no route to host\). Put the file at .*notop.h5"):
        find_weights("imagenet", "ResNet50", "busi", "full")


def test_a_file_of_weights(tmp_path, mobile, monkeypatch, no_download):
    path = tmp_path / "mine.weights.h5"
    mobile.save_weights(path)
    weights = find_weights(str(path), "MobileNetV2", "busi")
    assert weights.kind == "file" and weights.path == str(path) and len(weights.sha256) == 64
    assert weights.sentence == "MobileNetV2: weights from the file mine.weights.h5."
    loaded = models.backbone("MobileNetV2", 32, weights, seed=9)
    assert all((a == b).all() for a, b in zip(loaded.get_weights(), mobile.get_weights(), strict=True))
    monkeypatch.setitem(BACKBONES, "Tiny", BACKBONES["MobileNetV2"])
    monkeypatch.setattr(keras.applications, "Tiny", other_network, raising=False)
    with pytest.raises(WeightsError, match=f"{path.name} holds no weights for Tiny "):
        models.backbone("Tiny", 32, find_weights(str(path), "Tiny"))
    with pytest.raises(
        WeightsError, match='"/no/such.h5": there is no such file. Choose "auto", "imagenet", "phantom", "none"'
    ):
        find_weights("/no/such.h5", "MobileNetV2")


class Bomb:
    """Pickled, it makes a file when somebody opens it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def zipped(name, text):
    """The bytes of a zip with one file: a .keras file and a PyTorch file are zips."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, text)
    return buffer.getvalue()


def not_weights(kind, whole, mark):
    """(ending of the file's name, its bytes)."""
    bomb = pickle.dumps(Bomb(mark))
    return {
        "truncated": (".h5", whole[: len(whole) // 2]),
        "header only": (".weights.h5", whole[:8]),
        "web page": (".h5", b"\n<!DOCTYPE html><html>404</html>"),
        "PyTorch": (".pth", zipped("archive/data.pkl", bomb)),
        "PyTorch as .keras": (".keras", zipped("archive/data.pkl", bomb)),
        "pickle": (".h5", bomb),
        "text": (".h5", b"no weights"),
        "empty": (".weights.h5", b""),
    }[kind]


KINDS = ["truncated", "header only", "web page", "PyTorch", "PyTorch as .keras", "pickle", "text", "empty"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_holds_no_weights_is_refused_before_it_is_announced(
    kind, mobile, tmp_path, keras_home, no_download
):
    mobile.save_weights(tmp_path / "whole.weights.h5")
    mark = tmp_path / "executed"
    ending, content = not_weights(kind, (tmp_path / "whole.weights.h5").read_bytes(), mark)
    path = tmp_path / f"mine{ending}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{path} is no whole file of Keras weights.* Name another file"):
        find_weights(str(path), "MobileNetV2")
    # In Keras' cache: "imagenet" names the file and the remedy, "auto" goes on with what there is.
    stored = keras_home / "models" / BACKBONES["ResNet50"].file
    stored.parent.mkdir(parents=True)
    stored.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{stored} is no whole .* Delete it: PROFILE=\"full\" downloads it anew"):
        find_weights("imagenet", "ResNet50", "busi", "full")
    weights = find_weights("auto", "ResNet50", "busi", "full")
    assert weights.kind == "phantom" and "in Keras' cache is damaged (delete it), so weights" in weights.sentence
    assert not mark.exists() and stored.read_bytes() == content, "it was opened, or touched"


@pytest.mark.parametrize("save", ["weights.h5", "h5"])
def test_a_file_with_the_top_is_refused(save, tmp_path):
    whole = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=5)
    path = tmp_path / f"top.{save}"
    whole.save_weights(path) if save == "weights.h5" else legacy_h5(whole, path)
    with pytest.raises(WeightsError, match="holds no weights for MobileNetV2 .*include_top=False"):
        models.backbone("MobileNetV2", 32, find_weights(str(path), "MobileNetV2"))


def other_network(include_top, weights, input_shape, name):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Conv2D(2, 3)], name=name)


@pytest.fixture
def server(tmp_path):
    """A web server on this machine that serves tmp_path/served."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *given: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{served.server_port}/"
        served.shutdown()


def test_keras_downloads_imagenet_once(keras_home, server, mobile, monkeypatch):
    """Keras' own download, from this machine: only the address is another one. It fixes its folder when imported."""
    import keras.src.applications.mobilenet_v2 as module

    folder, address = server
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(keras_home))
    monkeypatch.setattr(module, "BASE_WEIGHT_PATH", address)
    name = BACKBONES["MobileNetV2"].file
    with pytest.raises(WeightsError, match="no ImageNet weights for MobileNetV2 .*404"):
        find_weights("imagenet", "MobileNetV2", "busi", "full")
    legacy_h5(mobile, folder / name)
    weights = find_weights("auto", "MobileNetV2", "busi", "full")
    assert (weights.kind, Path(weights.path)) == ("imagenet", keras_home / "models" / name)
    assert weights.sentence == "MobileNetV2: ImageNet weights."
    loaded = models.backbone("MobileNetV2", 32, weights, seed=9)
    assert all((a == b).all() for a, b in zip(loaded.get_weights(), mobile.get_weights(), strict=True))
    (folder / name).unlink()
    monkeypatch.setattr(module, "BASE_WEIGHT_PATH", "http://127.0.0.1:9/")
    assert find_weights("imagenet", "MobileNetV2", "busi", "full") == weights, "it is downloaded once"
    assert find_weights("imagenet", "MobileNetV2", "busi", "quick") == weights, "a quick run takes what is there"


def legacy_h5(model, path):
    """Write weights in the layout of Keras' own downloads."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
