"""Comparators: each does what its source says, on examples worked by hand; all keep one interface and one contract."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC

from busilib import published, recipes, runs
from busilib.data import splits
from busilib.errors import RunError, SplitError
from busilib.learning import comparators, models
from busilib.learning.comparators import base, baselines, capsule, cells, ensemble, forest, frozen
from busilib.learning.comparators.base import Images
from busilib.recipes import CLASSES

import keras  # isort: skip  (after busilib.learning, which loads it quietly)
from keras import ops  # isort: skip

# So small that each is fitted in seconds; the three with a frozen base stand on the tests' own.
SMALL = {
    "capsule": {"image_size": 32, "epochs": 2},
    "enas": {"image_size": 32, "epochs": 1, "stack": "NR", "width": 4},
    "lenet": {"image_size": 32, "epochs": 2, "widths": (4, 4, 4, 4)},
    "ensemble": {"image_size": 32, "epochs": 1, "folds": 2},
    "forest": {"image_size": 32, "trees": 20},
    "shape": {"image_size": 64, "trees": 20},
    "svm": {"image_size": 32, "backbone": "Tiny"},
    "bcdnet": {"image_size": 32, "backbone": "Tiny", "widths": (8, 16)},
    "inception": {"image_size": 32, "backbone": "Tiny", "epochs": 3},
}


def small(name):
    return comparators.get(name, **SMALL.get(name, {}))


@pytest.fixture(scope="module")
def split(phantoms):
    return comparators.folds(phantoms, 3)[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def made(phantoms, split, home, tiny):
    """Return a function name → the run of that system, each fitted once."""
    return lambda name: comparators.run(small(name), phantoms, split, runs=home)


def striped(n=30, size=32, seed=0):
    """Images of three classes that differ in their stripes, with their labels and groups of one."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    waves = 127 + 100 * np.sin(np.arange(size) * np.array([0.3, 0.9, 2.0])[labels][:, None])
    pixels = np.repeat(waves[:, None, :], size, axis=1) + rng.normal(0, 10, (n, size, size))
    pixels = np.repeat(pixels.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    return Images(pixels, labels, np.arange(n))


# --- each system, by hand


def test_squash_keeps_the_direction_and_bounds_the_length():
    found = np.asarray(capsule.squash(ops.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])))
    # lengths 5 and 0.5 become 25/26 and 0.25/1.25
    np.testing.assert_allclose(found, [[0.6 * 25 / 26, 0.8 * 25 / 26], [0.12, 0.16], [0, 0]], atol=1e-4)


def test_routing_by_hand():
    # Two capsules that agree on class 0, (3, 0) each, and say nothing of the others.
    votes = np.zeros((1, 2, 3, 2), "float32")
    votes[0, :, 0] = [3, 0]
    # Turn 1: c = 1/3 each, so s = (2, 0), of length 4/5 once squashed.
    np.testing.assert_allclose(np.asarray(capsule.route(votes, 1))[0, 0], [0.8, 0], atol=1e-4)
    # Turn 2: b = 3 · 0.8 = 2.4, c = e^2.4 / (e^2.4 + 2) = 0.8464, s = 2 · 3 · 0.8464 = 5.0786, s²/(1 + s²) = 0.9627.
    np.testing.assert_allclose(np.asarray(capsule.route(votes, 2))[0, 0], [0.9627, 0], atol=1e-3)
    np.testing.assert_allclose(np.asarray(capsule.route(votes, 3))[0, 1:], 0, atol=1e-4)


def test_routing_leaves_the_one_that_disagrees():
    votes = np.zeros((1, 3, 3, 2), "float32")
    votes[0, :2, 0], votes[0, 2, 0] = [2, 0], [-2, 0]  # two against one
    before, after = (np.asarray(capsule.route(votes, turns))[0, 0, 0] for turns in (1, 3))
    assert after > before > 0, "the lone vote counts less and less"


def test_margin_loss_by_hand():
    lengths = ops.array([[0.9, 0.1, 0.3], [0.9, 0.1, 0.3]])
    # class 0 true: only 0.3 is too long, 0.5 · 0.2². class 1 true: 0.8² + 0.5 · 0.8² + 0.5 · 0.2².
    np.testing.assert_allclose(np.asarray(capsule.margin_loss(ops.array([0, 1]), lengths)), [0.02, 0.98], atol=1e-6)


def test_the_capsules_have_the_papers_sizes():
    network, lengths = small("capsule").build()
    votes = network.get_layer("votes")
    assert votes.output.shape[1:] == (8, 3, 16) and votes.kernel.shape == (8, 8, 3, 16)
    assert lengths.shape == (None, 3)
    assert "iterations=3" in str(__import__("inspect").signature(capsule.route))


def test_the_ridge_solution_by_hand():
    h, targets = np.array([[1, 0], [0, 1], [1, 1]]), np.array([1, 2, 3])
    # HᵀH + I = [[3, 1], [1, 3]], Hᵀt = (4, 5): B = (7/8, 11/8)
    np.testing.assert_allclose(frozen.solve(h, targets, 1), [7 / 8, 11 / 8])


def test_the_randomised_network_solves_only_its_output_layer():
    rng = np.random.default_rng(0)
    x, targets = rng.normal(size=(50, 7)), np.eye(3)[rng.integers(0, 3, 50)]
    network = frozen.RandomisedNetwork(20, 0.5, seed=3).fit(x, targets)
    oracle = Ridge(0.5, fit_intercept=False).fit(network.hidden(x), targets)
    np.testing.assert_allclose(network.predict(x), oracle.predict(network.hidden(x)), atol=1e-8)
    again = frozen.RandomisedNetwork(20, 5.0, seed=3).fit(x, targets)
    np.testing.assert_array_equal(network.weights, again.weights)
    # One input of 0 and a bias of 0 lie in the middle of the sigmoid.
    network.weights, network.bias = np.zeros((7, 2)), np.array([0, np.log(3)])
    np.testing.assert_allclose(network.hidden(x[:1]), [[0.5, 0.75]])


def test_a_cells_wiring_by_hand():
    # Operation k multiplies by k + 1. Node 2 = 1 · a + 2 · b; node 3 = 5 · node 2 + 5 · a. Nobody uses node 3.
    steps = []

    def apply(operation, x, stride):
        steps.append(stride)
        return x * (operation + 1)

    assert cells.wire([10, 1], ((0, 0, 1, 1), (2, 4, 0, 4)), apply, stride=2) == [5 * 12 + 5 * 10]
    assert steps == [2, 2, 1, 2], "only what comes from outside is halved"
    assert cells.wire([10, 1], ((0, 0, 0, 0),), apply) == [1, 20], "state 1 is a loose end too"


def test_a_cells_pooling_by_hand():
    x = ops.reshape(ops.arange(16, dtype="float32"), (1, 4, 4, 1))
    found = np.asarray(cells.operation(3, x, 1, stride=2))[0, ..., 0]
    assert found.tolist() == [[10, 11], [14, 15]]
    assert np.asarray(cells.operation(2, x, 1, stride=1))[0, 1, 1, 0] == 5, "the mean of 0 1 2 4 5 6 8 9 10"
    assert cells.operation(4, x, 1, stride=1) is x


def test_the_cells_are_enas_own():
    # The two lines of cifar10_micro_final.sh.
    flat = [sum(nodes, ()) for nodes in (cells.NORMAL, cells.REDUCTION)]
    assert " ".join(map(str, flat[0])) == "0 2 0 0 0 4 0 1 0 4 1 1 1 0 0 1 0 2 1 1"
    assert " ".join(map(str, flat[1])) == "1 0 1 0 0 3 0 2 1 1 3 1 1 0 0 4 0 3 1 1"
    x = keras.Input((8, 8, 6))
    assert cells.cell(x, x, cells.NORMAL, 4).shape == (None, 8, 8, 5 * 4), "no node of the normal cell is used again"
    half = cells.cell(x, x, cells.REDUCTION, 4, stride=2)
    assert half.shape == (None, 4, 4, 4 * 4), "node 3 is used by node 4"
    assert cells.cell(x, half, cells.NORMAL, 4).shape == (None, 4, 4, 20), "the older state is made to fit"


def test_lenets_layers_and_counts_by_hand():
    network, _ = comparators.get("lenet", "full", image_size=32).build()
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds.count("Conv2D") == 4 and kinds.count("MaxPooling2D") == 4
    assert kinds[-4:] == ["Flatten", "Dense", "Dropout", "Dense"]
    convolutions = (25 * 1 + 1) * 16 - 16 + 16 + (25 * 16 + 1) * 32 + (25 * 32 + 1) * 64 + (25 * 64 + 1) * 64
    assert network.count_params() == convolutions + (2 * 2 * 64 + 1) * 128 + (128 + 1) * 3
    assert network.layers[-1].kernel.shape == (128, 3)


def test_the_ensembles_members_alternate_their_pooling():
    for kernel, pools, rate in ensemble.MEMBERS:
        layers = ensemble.member(32, kernel, pools, rate).layers
        found = [type(layer).__name__ for layer in layers if "Pooling" in type(layer).__name__][:3]
        assert found == [{"max": "MaxPooling2D", "average": "AveragePooling2D"}[pool] for pool in pools]
        assert {layer.rate for layer in layers if isinstance(layer, keras.layers.GaussianDropout)} == {rate}
        assert len(set(pools)) == 2


def test_the_ensembles_judge_learns_from_out_of_fold_answers(monkeypatch):
    """Members that know by heart what they learned, and nothing else, must give the judge nothing to go by."""

    class ByHeart:
        input = output = None

        def predict(self, pixels, verbose=0):
            codes = [self.known.get(image.tobytes()) for image in pixels]
            return np.array([np.full(3, 1 / 3) if code is None else np.eye(3)[code] for code in codes])

    made = []

    def fit(network, part, validation, settings, loss):
        made[-1].known = {image.tobytes(): code for image, code in zip(*part, strict=True)}
        return base.NO_EPOCHS

    monkeypatch.setattr(ensemble, "member", lambda *given: made.append(ByHeart()) or made[-1])
    monkeypatch.setattr(ensemble, "fit_network", fit)
    monkeypatch.setattr(ensemble.keras, "Model", lambda *given: None)
    images, system = striped(), small("ensemble")
    system.fit(images, images)
    assert len(made) == 6 and np.allclose(system.judge.coef_, 0, atol=1e-6)


def test_inner_folds_keep_groups_together():
    images = striped(40)._replace(groups=np.arange(40) // 6)
    for inside, outside in base.inner_folds(images, 2):
        assert not set(images.groups[inside]) & set(images.groups[outside])


def test_texture_sees_texture_and_not_where_it_lies():
    flat = forest.texture(np.full((64, 64), 100, np.uint8))
    edges, pairs, rings = 3 * 3 * 4 * 8, 5 * 3 * 4, 10 + 18 + 26
    assert flat.shape == (edges + pairs + rings,) and np.isfinite(flat).all()
    contrast = slice(edges, edges + 12)
    assert (flat[contrast] == 0).all(), "no two neighbours differ"
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    found = forest.texture(stripes)[contrast].reshape(3, 4)  # distance, angle 0° 45° 90° 135°
    np.testing.assert_allclose(found[0], [31**2, 31**2, 0, 31**2], err_msg="columns differ by 31 of 32 levels")
    np.testing.assert_allclose(found[1, ::2], 0, err_msg="two apart is the same again")


def test_the_svm_decides_as_a_linear_svm(tiny):
    system, images = small("svm"), striped()
    system.fit(images, weights=models.Weights("none", ""))
    scaled = system.classifier[0].transform(system.features(images.pixels))
    oracle = LinearSVC(C=1.0, max_iter=10_000, random_state=0).fit(scaled, images.labels)
    fresh = striped(seed=1).pixels
    expected = oracle.predict(system.classifier[0].transform(system.features(fresh)))
    np.testing.assert_array_equal(system.predict(fresh).argmax(axis=1), expected)


def test_frozen_features_are_the_bases_averages(tiny):
    system, images = small("svm"), striped(3)
    system.extract(models.Weights("none", ""), seed=5)
    network = models.backbone("Tiny", 32, models.Weights("none", ""), seed=5)
    maps = network(images.pixels.astype("float32") / 127.5 - 1, training=False)
    np.testing.assert_allclose(system.features(images.pixels), np.mean(maps, axis=(1, 2)), atol=1e-5)


def test_bcdnet_takes_the_width_that_validation_likes_best(tiny, monkeypatch):
    class Fixed(frozen.RandomisedNetwork):
        def predict(self, x):  # right on validation only with width 16 and ridge 1
            right = np.eye(3)[np.arange(len(x)) % 3]
            return right if (self.width, self.ridge) == (16, 1.0) else right[:, [1, 2, 0]]

    monkeypatch.setattr(frozen, "RandomisedNetwork", Fixed)
    system, images = small("bcdnet"), striped()
    system.fit(images, images, weights=models.Weights("none", ""))
    assert (system.classifier.width, system.classifier.ridge) == (16, 1.0)


def test_baselines_by_hand():
    images = striped(30)
    keep = np.r_[0:30:3, 1:30:3][:14]  # ten of class 0, four of class 1
    some = Images(*(np.concatenate([one[keep], one[2:3]]) for one in images))
    majority = comparators.get("majority", image_size=32)
    majority.fit(some)
    np.testing.assert_allclose(majority.predict(images.pixels[:2]), [[10 / 15, 4 / 15, 1 / 15]] * 2)
    nearest = comparators.get("nearest")
    nearest.fit(images)
    copy = images.pixels[[7]] + np.uint8(1)
    assert nearest.predict(copy).tolist() == [[0, 1, 0]], "a copy of image 7, of class 1"
    np.testing.assert_allclose(baselines.thumbnails(np.full((1, 2, 2, 3), 51, np.uint8)), [[0.2] * 4])


@pytest.mark.parametrize("name", ["logistic", "forest", "svm", "lenet"])
def test_what_is_plain_to_see_is_learned(name, tiny):
    changes = {"epochs": 15, "batch_size": 8, "widths": (8, 8, 8, 8)} if name == "lenet" else {}
    system = comparators.get(name, **SMALL.get(name, {}) | changes)
    system.fit(striped(60), striped(30, seed=1), weights=models.Weights("none", ""))
    fresh = striped(30, seed=2)
    assert np.mean(system.predict(fresh.pixels).argmax(axis=1) == fresh.labels) > 0.9


# --- the interface and the contract


@pytest.mark.parametrize("name", comparators.SYSTEMS)
def test_every_system_leaves_a_run_that_says_the_same(name, made, split, phantoms):
    run = made(name)
    assert sorted(run.predictions["file_id"]) == sorted(split.table["file_id"])
    info = run.info
    assert info["recipe"]["name"] == name and info["split"]["sha256"] == split.sha256
    assert info["parameters"] >= info["parameters_trained"] > 0
    assert info["fit_seconds"] >= 0 and info["fit_cpu_seconds"] >= 0 and info["fit_memory_mb"] >= 0
    assert len(run.history) == info["epochs_run"]
    card = (run.folder / "model_card.md").read_text(encoding="utf-8")
    assert f"**System**: {info['recipe']['title']}: image_size" in card
    system = small(name)
    pixels = comparators._pixels(system, split, phantoms)
    found = run.model().predict(pixels)
    np.testing.assert_allclose(found, run.predictions[runs.PROBABILITIES], atol=1e-4)


@pytest.mark.parametrize("name", ["lenet", "bcdnet"])
def test_the_same_seed_gives_the_same(name, made, phantoms, split, tmp_path):
    again = comparators.run(small(name), phantoms, split, runs=tmp_path)
    tables = [one.predictions[runs.PROBABILITIES] for one in (made(name), again)]
    np.testing.assert_allclose(*tables, atol=1e-5)


def test_fitting_leaves_the_settings_as_they_were(made):
    made("majority")
    system = small("majority")
    assert vars(system) == {"image_size": 32}


def test_collect_lists_comparators_and_recipes_together(made, home, phantoms, split):
    made("majority"), made("lenet")
    from busilib.learning import training

    recipe = recipes.get("A-frozen", backbone="Tiny", image_size=32, epochs=1, dense=(4,))
    runs.find_or_train(recipe, phantoms, split, training.train, weights=models.Weights("none", ""), runs=home)
    table = runs.collect(home).set_index("name")
    assert {"A-frozen", "majority", "lenet"} <= set(table.index)
    assert table.loc["majority", "test_accuracy"] == table.loc["majority", "test_majority"]


def test_a_run_without_its_model_says_so(made, home):
    run = made("majority")
    kept = (run.folder / "model.joblib").rename(home / "kept")
    try:
        with pytest.raises(RunError, match="neither model.keras nor model.joblib"):
            run.model()
    finally:
        kept.rename(run.folder / "model.joblib")


def test_every_published_system_has_its_printed_number():
    assert {kind.title for kind in comparators.PUBLISHED} == set(published.COMPARISON["system"])
    for kind in comparators.PUBLISHED:
        for word in ("Source: ", "known: ", "chosen: "):
            assert word in kind.__doc__, (kind.name, word)


@pytest.mark.parametrize("name", comparators.SYSTEMS)
def test_quick_is_smaller_than_full(name):
    quick, full = (comparators.get(name, profile).as_dict() for profile in ("quick", "full"))
    for key, value in quick.items():
        if isinstance(value, int) and key != "patience":
            assert value <= full[key]


# --- bad input


def test_a_fold_without_one_of_the_classes(phantoms, split):
    from dataclasses import replace

    rows = split.table
    without = replace(split, table=rows[~((rows["split"] == "test") & (rows["label"] == "normal"))])
    with pytest.raises(SplitError, match=r"clean, fold 1 of 3: the test part has \d+ images, but none of .* normal"):
        comparators.run(small("majority"), phantoms, without)


def test_fewer_images_than_folds(phantoms):
    with pytest.raises(SplitError, match=r"50 folds, but only \d+ benign images .* Choose \d+ folds or fewer"):
        comparators.folds(phantoms, 50)
    with pytest.raises(SplitError, match="1 fold: cross-validation needs two or more"):
        comparators.folds(phantoms, 1)
    images = striped(9)
    with pytest.raises(SplitError, match="4 folds, but only 3 benign images"):
        base.inner_folds(images, 4)
    alone = images._replace(groups=np.where(images.labels == 2, 0, images.groups + 1))
    with pytest.raises(SplitError, match="only 1 normal images .* nothing to train on and test"):
        base.inner_folds(alone, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[np.nan, 0, 1], [0, 0, 1]], r"gave NaN or infinite probabilities for 1 of 2 images"),
        ([[np.inf, 0, 1], [0, 0, 1]], r"gave NaN or infinite"),
        ([[0.5, 0.2, 0.1], [0, 0, 1]], "numbers that are no probabilities"),
        ([[1.5, -0.5, 0], [0, 0, 1]], "numbers that are no probabilities"),
        ([[0.5, 0.5]], r"an array of \(1, 2\) for 2 images"),
    ],
)
def test_what_is_no_probability_is_refused(values, message):
    with pytest.raises(RunError, match=f"LeNet.*{message}"):
        base.check_probabilities(values, 2, "LeNet")


def test_nan_leaves_no_run(phantoms, split, tmp_path, monkeypatch):
    monkeypatch.setattr(comparators.Majority, "predict", lambda self, pixels: np.full((len(pixels), 3), np.nan))
    with pytest.raises(RunError, match=r"majority class \(clean, fold 1 of 3\) gave NaN .* for 58 of 58 images"):
        comparators.run(small("majority"), phantoms, split, runs=tmp_path)
    assert runs.collect(tmp_path).empty


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="system 'vgg' does not exist; choose one of: majority, nearest"):
        comparators.get("vgg")
    with pytest.raises(ValueError, match="lenet has no setting 'depth'; choose one of: image_size, epochs"):
        comparators.get("lenet", depth=3)
    with pytest.raises(ValueError, match="PROFILE 'slow' does not exist"):
        comparators.get("lenet", "slow")


def test_folds_test_each_scan_once(phantoms):
    made = comparators.folds(phantoms, 3)
    tested = [name for split in made for name in split.part("test")["image_id"]]
    assert len(tested) == len(set(tested)) == len(made[0].table)
    assert isinstance(made[0], splits.Split) and set(made[0].table["label"]) == set(CLASSES)


def test_measure_sees_time_and_memory():
    with base.measure() as cost:
        block = np.ones(20_000_000)  # 160 MB
        for _ in range(20):
            block += 1
    assert cost["memory_mb"] > 100 and cost["seconds"] > 0 and cost["cpu_seconds"] > 0


def test_a_system_that_lacks_a_method_cannot_be_made():
    class Half(base.Comparator):
        name, title = "half", "half a system"

        def fit(self, train, validation, *, weights=None, seed=0):
            return base.NO_EPOCHS

    with pytest.raises(TypeError, match="abstract"):
        Half(image_size=32)
