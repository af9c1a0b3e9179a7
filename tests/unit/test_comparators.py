"""Comparators: each does what its source says, on examples worked by hand; all are scikit-learn classifiers."""

import json
from dataclasses import replace

import joblib
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from busilib import published, runs
from busilib.data import splits
from busilib.errors import RunError, SplitError, WeightsError
from busilib.learning import comparators, keras, models, networks, training
from busilib.recipes import CLASSES

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


@pytest.fixture(scope="module")
def split(phantoms):
    return splits.clean(phantoms, 0, 3)


@pytest.fixture(scope="module")
def made(phantoms, split, tmp_path_factory, tiny):
    """Return a function name → the run of that system, each fitted once."""
    home = tmp_path_factory.mktemp("runs")
    return lambda name: run_of(name, phantoms, split, home)


def run_of(name, scans, split, home):
    """Return the run of a small system on a split."""
    system = comparators.get(name, **SMALL.get(name, {}))
    weights = comparators.find_weights(system, "auto", scans.kind)
    return runs.find_or_train(system, scans, split, weights=weights, runs=home)


def estimator(name, **changes):
    return comparators.get(name, **SMALL.get(name, {}) | changes).estimator(weights="none")


def striped(n=30, size=32, seed=0):
    """Return (X, y): images of three classes that differ in their stripes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    waves = 127 + 100 * np.sin(np.arange(size) * np.array([0.3, 0.9, 2.0])[y][:, None])
    pixels = np.repeat(waves[:, None, :], size, axis=1) + rng.normal(0, 10, (n, size, size))
    return np.repeat(pixels.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1), y


# --- each system, by hand


def test_squash_keeps_the_direction_and_bounds_the_length():
    squashed = np.asarray(networks.squash(keras.ops.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])))
    # lengths 5 and 0.5 become 25/26 and 0.25/1.25
    np.testing.assert_allclose(squashed, [[0.6 * 25 / 26, 0.8 * 25 / 26], [0.12, 0.16], [0, 0]], atol=1e-4)


def test_routing_by_hand():
    # Two capsules that agree on class 0, (3, 0) each, and say nothing of the others.
    votes = np.zeros((1, 2, 3, 2), "float32")
    votes[0, :, 0] = [3, 0]
    # Turn 1: c = 1/3 each, so s = (2, 0), of length 4/5 once squashed.
    np.testing.assert_allclose(np.asarray(networks.route(votes, 1))[0, 0], [0.8, 0], atol=1e-4)
    # Turn 2: b = 3 · 0.8 = 2.4, c = e^2.4 / (e^2.4 + 2) = 0.8464, s = 2 · 3 · 0.8464 = 5.0786, s²/(1 + s²) = 0.9627.
    np.testing.assert_allclose(np.asarray(networks.route(votes, 2))[0, 0], [0.9627, 0], atol=1e-3)
    np.testing.assert_allclose(np.asarray(networks.route(votes, 3))[0, 1:], 0, atol=1e-4)


def test_margin_loss_by_hand():
    lengths = keras.ops.array([[0.9, 0.1, 0.3], [0.9, 0.1, 0.3]])
    # class 0 true: only 0.3 is too long, 0.5 · 0.2². class 1 true: 0.8² + 0.5 · 0.8² + 0.5 · 0.2².
    np.testing.assert_allclose(
        np.asarray(networks.margin_loss(keras.ops.array([0, 1]), lengths)), [0.02, 0.98], atol=1e-6
    )


def test_the_randomised_network_solves_only_its_output_layer():
    h, targets = np.array([[1, 0], [0, 1], [1, 1]]), np.array([1, 2, 3])
    # HᵀH + I = [[3, 1], [1, 3]], Hᵀt = (4, 5): B = (7/8, 11/8)
    np.testing.assert_allclose(comparators.solve(h, targets, 1), [7 / 8, 11 / 8])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 7)), rng.integers(0, 3, 50)
    network = comparators.RandomisedNetwork(20, 0.5, seed=3).fit(x, y)
    oracle = Ridge(0.5, fit_intercept=False).fit(network.hidden(x), np.eye(3)[y])
    np.testing.assert_allclose(network.output_, oracle.coef_.T, atol=1e-8)
    np.testing.assert_array_equal(network.weights_, clone(network).set_params(ridge=5.0).fit(x, y).weights_)
    # One input of 0 and a bias of 0 lie in the middle of the sigmoid.
    network.weights_, network.bias_ = np.zeros((7, 2)), np.array([0, np.log(3)])
    np.testing.assert_allclose(network.hidden(x[:1]), [[0.5, 0.75]])


def test_bcdnet_takes_the_width_that_validation_likes_best(tiny):
    (x, y), validation = striped(60), striped(seed=1)
    features, best = estimator("bcdnet")[:-1].fit(x), estimator("bcdnet")[-1]
    x, validation = features.transform(x), (features.transform(validation[0]), validation[1])
    scores = [one.fit(x, y).score(*validation) for one in best.candidates]
    assert best.fit(x, y, validation).best_.get_params() == best.candidates[int(np.argmax(scores))].get_params()
    assert len(best.candidates) == 2 * 3


def test_a_cells_wiring_and_pooling_by_hand():
    # Operation k multiplies by k + 1. Node 2 = 1 · a + 2 · b; node 3 = 5 · node 2 + 5 · a. Nobody uses node 3.
    steps = []

    def apply(operation, x, stride):
        steps.append(stride)
        return x * (operation + 1)

    assert networks.wire([10, 1], ((0, 0, 1, 1), (2, 4, 0, 4)), apply, stride=2) == [5 * 12 + 5 * 10]
    assert steps == [2, 2, 1, 2], "only what comes from outside is halved"
    assert networks.wire([10, 1], ((0, 0, 0, 0),), apply) == [1, 20], "state 1 is a loose end too"
    x = keras.ops.reshape(keras.ops.arange(16, dtype="float32"), (1, 4, 4, 1))
    assert np.asarray(networks.operation(3, x, 1, stride=2))[0, ..., 0].tolist() == [[10, 11], [14, 15]]
    assert np.asarray(networks.operation(2, x, 1, stride=1))[0, 1, 1, 0] == 5, "the mean of 0 1 2 4 5 6 8 9 10"
    assert networks.operation(4, x, 1, stride=1) is x


def test_a_cells_loose_ends_lie_side_by_side():
    x = keras.Input((8, 8, 6))
    assert networks.cell(x, x, networks.NORMAL, 4).shape == (None, 8, 8, 5 * 4), "no node of the normal cell is reused"
    half = networks.cell(x, x, networks.REDUCTION, 4, stride=2)
    assert half.shape == (None, 4, 4, 4 * 4), "node 3 is used by node 4"
    assert networks.cell(x, half, networks.NORMAL, 4).shape == (None, 4, 4, 20), "the older state is made to fit"


def test_the_ensembles_judge_learns_from_out_of_fold_answers(monkeypatch):
    """Members that know by heart what they learned, and nothing else, must give the judge nothing to go by."""

    class ByHeart(networks.Member):
        def fit(self, X, y, validation=None, groups=None):
            self.answers, self.history_ = dict(zip(map(bytes, X), y, strict=True)), comparators.NO_EPOCHS
            return self

        def predict_proba(self, X):
            codes = [self.answers.get(bytes(image)) for image in X]
            return np.array([np.full(3, 1 / 3) if code is None else np.eye(3)[code] for code in codes])

    monkeypatch.setattr(networks, "Member", ByHeart)
    fitted = estimator("ensemble").fit(*striped())
    assert [len(group) for group in fitted.members_] == [2, 2, 2]
    assert np.allclose(fitted.judge_.coef_, 0, atol=1e-6)


def test_texture_sees_texture_and_not_where_it_lies():
    flat = comparators.texture(np.full((64, 64), 100, np.uint8))
    edges, pairs, rings = 3 * 3 * 4 * 8, 5 * 3 * 4, 10 + 18 + 26
    assert flat.shape == (edges + pairs + rings,) and np.isfinite(flat).all()
    contrast = slice(edges, edges + 12)
    assert (flat[contrast] == 0).all(), "no two neighbours differ"
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    measured = comparators.texture(stripes)[contrast].reshape(3, 4)  # distance, angle 0° 45° 90° 135°
    np.testing.assert_allclose(measured[0], [31**2, 31**2, 0, 31**2], err_msg="columns differ by 31 of 32 levels")
    np.testing.assert_allclose(measured[1, ::2], 0, err_msg="two apart is the same again")


def test_the_svm_is_a_linear_svm_on_the_bases_averages(tiny):
    (x, y), (fresh, _) = striped(), striped(seed=1)
    fitted = estimator("svm").fit(x, y)
    base = models.backbone("Tiny", 32, models.Weights("none", ""), seed=0)
    maps = base(x.astype("float32") / 127.5 - 1, training=False)
    np.testing.assert_allclose(fitted[0].transform(x), np.mean(maps, axis=(1, 2)), atol=1e-5)
    oracle = LinearSVC(C=1.0, max_iter=100_000, random_state=0).fit(fitted[:-1].transform(x), y)
    expected = oracle.predict(fitted[:-1].transform(fresh))
    np.testing.assert_array_equal(fitted.predict_proba(fresh).argmax(axis=1), expected)


def test_baselines_by_hand():
    x, y = striped()
    rows = np.r_[np.arange(0, 30, 3), np.arange(1, 13, 3), 2]  # ten of class 0, four of class 1, one of class 2
    shares = estimator("majority").fit(x[rows], y[rows]).predict_proba(x[:2])
    np.testing.assert_allclose(shares, [[10 / 15, 4 / 15, 1 / 15]] * 2)
    copy = x[[7]] + np.uint8(1)
    assert estimator("nearest").fit(x, y).predict_proba(copy).tolist() == [[0, 1, 0]], "a copy of image 7, of class 1"
    np.testing.assert_allclose(comparators.thumbnails(np.full((1, 2, 2, 3), 51, np.uint8)), [[0.2] * 4])


# --- scikit-learn's interface


@pytest.mark.parametrize("name", ["logistic", "forest", "svm", "bcdnet", "lenet"])
def test_what_is_plain_to_see_is_learned_in_cross_validation(name, tiny):
    changes = {"epochs": 15, "batch_size": 8, "widths": (8, 8, 8, 8)} if name == "lenet" else {}
    x, y = striped(75)
    answers = cross_val_predict(estimator(name, **changes), x, y, cv=2, method="predict_proba")
    assert answers.shape == (75, 3) and np.mean(answers.argmax(axis=1) == y) > 0.9


@pytest.mark.parametrize("name", comparators.SYSTEMS)
def test_a_clone_has_the_same_settings(name):
    system = comparators.get(name, **SMALL.get(name, {}))
    first, second = (make(system.estimator("none")) for make in (lambda one: one, clone))
    assert str(first.get_params()) == str(second.get_params())
    for key in first.get_params().keys() & system.settings.keys():
        assert first.get_params()[key] == system.settings[key]


def test_without_a_validation_set_a_fifth_of_whole_groups_is_held_out():
    y, groups = np.arange(60) % 3, np.arange(60) // 2
    (inside, _), (outside, labels) = networks.parts(groups, y, None, groups, seed=0)
    assert not set(inside) & set(outside) and len(inside) + len(outside) == 60
    assert 9 <= len(outside) <= 15 and set(labels) == {0, 1, 2}


# --- runs


@pytest.mark.parametrize("name", comparators.SYSTEMS)
def test_every_system_leaves_a_run_that_says_the_same(name, made, split, phantoms):
    run = made(name)
    assert sorted(run.predictions["file_id"]) == sorted(split.table["file_id"])
    assert len(run.history) == run.info["epochs_run"]
    assert f"# Model card: {run.info['recipe']['title']}" in run.card
    system = comparators.get(**run.info["recipe"])  # as `busi repeat` does
    assert json.loads(json.dumps(system.as_dict())) == run.info["recipe"]
    training.frozen_base.cache_clear()
    model, pixels = run.model(), comparators.read(system, split, phantoms)
    said = model.predict_proba(pixels) if hasattr(model, "predict_proba") else model.predict(pixels, verbose=0)
    np.testing.assert_allclose(said, run.predictions[runs.PROBABILITIES], atol=1e-4)


@pytest.mark.parametrize("name", ["lenet", "bcdnet"])
def test_the_same_seed_gives_the_same(name, made, phantoms, split, tmp_path):
    again = run_of(name, phantoms, split, tmp_path)
    tables = [one.predictions[runs.PROBABILITIES] for one in (made(name), again)]
    np.testing.assert_allclose(*tables, atol=1e-5)


def test_a_saved_system_refuses_another_base(tiny, tmp_path):
    fitted = estimator("svm").fit(*striped())
    joblib.dump(fitted.set_params(frozenfeatures__seed=1), tmp_path / "model.joblib")
    assert (tmp_path / "model.joblib").stat().st_size < 20_000, "the base is not in it"
    with pytest.raises(WeightsError, match="Tiny: this is not the base that the system was trained on"):
        joblib.load(tmp_path / "model.joblib").predict_proba(striped()[0])


def test_every_published_system_has_its_printed_number():
    titles = set(published.COMPARISON["system"])
    systems = [system for system in comparators.SYSTEMS.values() if system.title in titles]
    assert len(systems) == len(titles) == 8
    for system in systems:
        assert all(word in system.make.__doc__ for word in ("Source: ", "known: ", "chosen: ")), system.name


# --- fitted by hand, as lesson 09 does it


@pytest.fixture
def by_hand(phantoms, split, tiny, tmp_path):
    """Return a function (name, model, history, probabilities) → the run that `runs.save` makes of them."""

    def save(name, model, history, probabilities):
        system = comparators.get(name, **SMALL[name])
        weights = comparators.find_weights(system, "auto", phantoms.kind)
        return runs.save(model, history, probabilities, system, phantoms, split, weights=weights, runs=tmp_path)

    save.home = tmp_path
    return save


def inputs(name, split, scans):
    """Return (what a system sees of all files, class numbers, rows of the training set, of the validation set)."""
    system, y = comparators.get(name, **SMALL[name]), split.table["label"].map(CLASSES.index).to_numpy()
    x, rows = comparators.read(system, split, scans), [split.table["split"] == part for part in ("train", "validation")]
    if "backbone" in system.settings:
        weights = comparators.find_weights(system, "auto", scans.kind)
        base, prepare = models.backbone("Tiny", 32, weights), models.preprocessing("Tiny", 32, "own", weights)
        maps = base(prepare(x), training=False)
        x = np.mean(maps, axis=(1, 2))
    return x, y, *rows


def linear_svm(x, y, train, c=1.0):
    """Return (classifier, probabilities) of a linear SVM in plain scikit-learn."""
    classifier = make_pipeline(StandardScaler(), LinearSVC(C=c, dual=False, max_iter=100_000, random_state=0)).fit(
        x[train], y[train]
    )
    return classifier, softmax(classifier.decision_function(x), axis=1)


def capsules(x, y, train, validation, margin=0.9, epochs=2):
    """Return (network, history, probabilities) of a capsule network that is built, compiled and fitted here."""

    def loss(labels, lengths):
        true = keras.ops.one_hot(keras.ops.cast(keras.ops.reshape(labels, (-1,)), "int32"), 3)
        short, long = keras.ops.relu(margin - lengths), keras.ops.relu(lengths - 0.1)
        return keras.ops.sum(true * short**2 + 0.5 * (1 - true) * long**2, axis=-1)

    keras.utils.set_random_seed(0)
    pixels = keras.Input((32, 32, 3), dtype="uint8")
    lengths = networks.Capsules().build(networks.grey(pixels))
    fitted = keras.Model(pixels, lengths)
    fitted.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping("val_accuracy", patience=15, restore_best_weights=True)
    history = fitted.fit(
        training.batches(x[train], y[train], 32, 0),
        validation_data=training.batches(x[validation], y[validation], 64),
        epochs=epochs, callbacks=[stop], verbose=0,
    )  # fmt: skip
    network = keras.Model(pixels, lengths / keras.ops.sum(lengths, axis=-1, keepdims=True))
    return network, history, network.predict(x, verbose=0)


def randomised(x, y, train, validation):
    """Return (classifier, probabilities) of the randomised network that does best on the validation set."""
    tried = [
        make_pipeline(StandardScaler(), comparators.RandomisedNetwork(width, ridge)).fit(x[train], y[train])
        for width in (8, 16)
        for ridge in (0.1, 1, 10)
    ]
    best = max(tried, key=lambda classifier: classifier.score(x[validation], y[validation]))
    return best, best.predict_proba(x)


@pytest.mark.parametrize("name", ["svm", "bcdnet", "capsule"])
def test_what_is_fitted_by_hand_is_the_run_that_is_found(name, made, by_hand, phantoms, split):
    x, y, train, validation = inputs(name, split, phantoms)
    if name == "capsule":
        run = by_hand(name, *capsules(x, y, train, validation))
    else:
        model, answers = linear_svm(x, y, train) if name == "svm" else randomised(x, y, train, validation)
        run = by_hand(name, model, None, answers)
    library = made(name)
    assert run.name == library.name and "edited" not in run.info
    np.testing.assert_allclose(run.predictions[runs.PROBABILITIES], library.predictions[runs.PROBABILITIES], atol=1e-4)
    np.testing.assert_allclose(run.history.astype(float), library.history.astype(float), atol=1e-4)
    assert run_of(name, phantoms, split, by_hand.home).folder == run.folder, "it is found, not trained again"
    assert run.info["seconds"] is None
    model, pixels = run.model(), comparators.read(comparators.get(name, **SMALL[name]), split, phantoms)
    said = model.predict(pixels, verbose=0) if name == "capsule" else model.predict_proba(pixels)
    np.testing.assert_allclose(said, run.predictions[runs.PROBABILITIES], atol=1e-4)


def test_an_svm_with_another_setting_is_an_edited_one(by_hand, phantoms, split, capsys):
    x, y, train, _ = inputs("svm", split, phantoms)
    model, answers = linear_svm(x, y, train, c=0.01)
    run = by_hand("svm", model, None, answers)
    assert run.name.startswith("svm-edited-") and run.info["edited"] == ["settings of LinearSvm"]
    assert "other settings of LinearSvm" in capsys.readouterr().out
    assert run.model().get_params()["linearsvm__C"] == 0.01
    with pytest.raises(RunError, match="a fitted FrozenFeatures → LinearSvm is no FrozenFeatures → StandardScaler → "):
        by_hand("svm", model[1], None, answers)


def test_a_class_that_was_rewritten_is_kept_as_answers(by_hand, phantoms, split):
    class RandomisedNetwork(comparators.RandomisedNetwork):
        def hidden(self, x):
            return np.maximum(x @ self.weights_ + self.bias_, 0)

    x, y, train, _ = inputs("bcdnet", split, phantoms)
    model = make_pipeline(StandardScaler(), RandomisedNetwork(16)).fit(x[train], y[train])
    run = by_hand("bcdnet", model, None, model.predict_proba(x))
    assert run.info["edited"] == ["answers than BCDNet on Tiny, in place of VGG16 gives with what was learned"]
    with pytest.raises(RunError, match="its model was not kept"):
        run.model()


@pytest.mark.parametrize("change, what", [({"margin": 0.8}, "loss"), ({"epochs": 1}, "epochs")])
def test_a_network_with_another_training_is_an_edited_one(change, what, by_hand, phantoms, split):
    run = by_hand("capsule", *capsules(*inputs("capsule", split, phantoms), **change))
    assert run.info["edited"] == [what] and run.model().output_shape == (None, 3)


def test_a_stand_in_carries_its_own_name():
    assert comparators.get("inception", backbone="MobileNetV2").title == (
        "plain head on MobileNetV2, in place of Inception-ResNet-v2"
    )
    assert comparators.get("bcdnet", backbone="VGG16").title == "BCDNet"
    assert "MobileNetV2, in place of VGG16" in comparators.get("bcdnet", backbone="MobileNetV2").title


# --- bad input


def test_a_class_is_missing():
    x, y = striped()
    with pytest.raises(SplitError, match=r"the training set has \d+ images, but none of the class malignant"):
        estimator("lenet").fit(x[y != 1], y[y != 1], (x, y))


def test_two_classes_are_enough(phantoms, tmp_path, tiny):
    """A system gives three probabilities per image, and 0 for a class that no scan has."""
    two = replace(phantoms, table=phantoms.table[phantoms.table.label != "normal"].reset_index(drop=True))
    split = splits.clean(two, 0, 3)
    for name in ("majority", "svm", "forest", "ensemble"):
        run = run_of(name, two, split, tmp_path)
        assert set(run.predictions["label"]) == {"benign", "malignant"} and (run.predictions["p_normal"] == 0).all()
        assert "| malignant |" in run.card and "| normal |" not in run.card, name


def test_fewer_images_than_folds(phantoms):
    for count in (1, 50):
        with pytest.raises((ValueError, SplitError), match=f"n_splits={count}"):
            splits.clean(phantoms, 0, count)
    x, y = striped(30)
    with pytest.raises(SplitError, match="the training set has .* images, but none of the class normal"):
        estimator("ensemble").fit(x, y, groups=np.where(y == 2, 0, np.arange(30) + 1))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5, -0.5])
def test_what_is_no_probability_is_refused(value, split):
    answers = np.tile([0.0, 0.0, 1.0], (len(split.table), 1))
    assert len(training.predictions(split, answers)) == len(answers)
    answers[0, 0] = value
    with pytest.raises(RunError, match=f"gave no probabilities for 1 of {len(answers)} images of {split.name}"):
        training.predictions(split, answers)


def test_nan_leaves_no_run(phantoms, split, tmp_path, monkeypatch):
    monkeypatch.setattr(networks.LeNet, "predict_proba", lambda self, pixels: np.full((len(pixels), 3), np.nan))
    with pytest.raises(RunError, match="gave no probabilities for 58 of 58 images of clean, fold 1 of 3"):
        run_of("lenet", phantoms, split, tmp_path)
    assert runs.collect(tmp_path).empty


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="system 'vgg' does not exist; choose one of: majority, nearest"):
        comparators.get("vgg")
    with pytest.raises(ValueError, match="setting of lenet 'depth' does not exist; choose one of: epochs, batch_size"):
        comparators.get("lenet", depth=3)
    with pytest.raises(ValueError, match="PROFILE 'slow' does not exist"):
        comparators.get("lenet", "slow")
