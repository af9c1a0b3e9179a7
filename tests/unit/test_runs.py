"""runs: the folder and its contract, found again by its key, whole or not at all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from busilib import metrics, recipes, runs
from busilib.data import images, splits
from busilib.errors import RunError
from busilib.learning import keras, models, training
from busilib.recipes import PROBABILITIES

WEIGHTS = models.Weights("none", "Random features.")
FILES = {"run.json", "history.csv", "predictions.csv", "head.keras", "model_card.md"}


def small(name="A-frozen", **changes):
    return recipes.get(name, **{"backbone": "Tiny", "image_size": 32, "epochs": 2, "dense": (8,)} | changes)


@pytest.fixture(scope="module")
def split(phantoms):
    return splits.paper_a(phantoms)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(phantoms, split, home):
    """A real network from end to end: MobileNetV2, 32 pixels, two epochs."""
    return runs.find_or_train(small(backbone="MobileNetV2"), phantoms, split, weights=WEIGHTS, seed=0, runs=home)


@pytest.fixture(scope="module")
def tiny_run(phantoms, split, home, tiny):
    return runs.find_or_train(small(), phantoms, split, weights=WEIGHTS, runs=home)


@pytest.fixture
def training_is(monkeypatch):
    """Put another function in the place of training."""
    return lambda function: monkeypatch.setattr(training, "train", function)


def must_not_train(*given, **named):
    pytest.fail("it trained again")


def test_the_folder_is_complete(run, home):
    assert {path.name for path in run.folder.iterdir()} == FILES
    assert run.folder.parent == home and run.name.startswith("A-frozen-")
    assert not [path for path in home.iterdir() if path.is_dir() and path.name.startswith(".")]


def test_run_json_has_the_whole_contract_and_no_path(run, split, phantoms):
    info = run.info
    assert {
        *("key", "recipe", "seed", "start", "dataset", "split", "weights", "base", "backend", "device", "versions"),
        *("date", "seconds", "peak_memory_mb", "epochs_run", "epoch_kept", "steps_per_epoch", "parameters"),
        *("parameters_trained", "scores"),
    } <= set(info)
    assert (
        info["recipe"] == small(backbone="MobileNetV2").as_dict() and runs.recipe_of(info).as_dict() == info["recipe"]
    )
    assert info["dataset"] == phantoms.identity() and info["split"] == json.loads(json.dumps(split.identity()))
    assert info["split"]["files"] == {"test": 9, "train": 51} and info["split"]["overlaps"]["validation = test"] == 9
    assert info["weights"]["sentence"] == "Random features." and info["start"] is None
    assert info["seconds"] > 0 and info["versions"]["keras"] and info["versions"]["python"]
    for name in ("run.json", "model_card.md", "predictions.csv", "history.csv"):
        text = (run.folder / name).read_text(encoding="utf-8")
        for place in (run.folder.anchor + "tmp", str(Path.home()), str(Path(runs.__file__).parent), "\\\\", ".png"):
            assert place not in text, (name, place)
        assert not [word for word in text.replace('"', " ").split() if Path(word).is_absolute()]


def test_predictions_are_one_row_per_file_and_what_the_saved_model_says(run, split):
    table = run.predictions
    assert sorted(table["file_id"]) == sorted(split.table["file_id"])
    np.testing.assert_allclose(table[runs.PROBABILITIES].sum(axis=1), 1, atol=5e-6)
    probabilities = run.model().predict(images.load(split.table["path"], 32), verbose=0)
    np.testing.assert_allclose(probabilities, table[runs.PROBABILITIES], atol=1e-4)


def test_a_frozen_base_is_stored_once_and_a_copied_folder_opens_elsewhere(phantoms, split, home, tiny_run, tmp_path):
    other = runs.find_or_train(small(dropout=0.1), phantoms, split, weights=WEIGHTS, runs=home)
    assert other.info["base"] == tiny_run.info["base"]
    assert len(list((home / "bases").glob(f"{other.info['base']['sha256'][:32]}*"))) == 1
    shutil.copytree(home, tmp_path / "copied")
    moved = runs.open_run(tmp_path / "copied" / tiny_run.name)
    pixels = images.load(split.table["path"][:5], 32)
    assert (moved.model().predict(pixels, verbose=0) == tiny_run.model().predict(pixels, verbose=0)).all()
    shutil.rmtree(tmp_path / "copied" / "bases")
    again = moved.model().predict(pixels, verbose=0)
    assert (again == tiny_run.model().predict(pixels, verbose=0)).all(), "drawn again from its seed"
    moved.info["base"]["sha256"] = "0" * 64  # another version of Keras draws other numbers
    with pytest.raises(RunError, match=f"{tiny_run.name} was trained on other none weights .* copy bases/"):
        moved.model()


@pytest.fixture(scope="module")
def embedded(phantoms, split, tmp_path_factory):
    """A run on the embedded ResNet50."""
    recipe = small(backbone="ResNet50", preprocessing="own", epochs=1)
    weights, home = models.find_weights("phantom", "ResNet50"), tmp_path_factory.mktemp("embedded")
    return runs.find_or_train(recipe, phantoms, split, weights=weights, runs=home)


def test_an_embedded_base_is_not_stored_but_named(embedded, split, tmp_path):
    assert not (embedded.folder.parent / "bases").exists()
    assert sum(file.stat().st_size for file in embedded.folder.iterdir()) < 1e6
    probabilities = embedded.model().predict(images.load(split.table["path"][:4], 32), verbose=0)
    np.testing.assert_allclose(probabilities, embedded.predictions[runs.PROBABILITIES][:4], atol=1e-4)
    shutil.copytree(embedded.folder, tmp_path / "copy")
    info = json.loads((tmp_path / "copy" / "run.json").read_text())
    info["base"]["sha256"] = "0" * 64
    (tmp_path / "copy" / "run.json").write_text(json.dumps(info))
    with pytest.raises(RunError, match="was trained on other phantom weights than those here"):
        runs.open_run(tmp_path / "copy").model()


def test_scores_come_from_the_predictions(run):
    test = run.part("test")
    truth, predicted = test["label"], test[runs.PROBABILITIES].idxmax(axis=1).str.removeprefix("p_")
    assert test["predicted"].tolist() == predicted.tolist()
    assert run.summary()["accuracy"] == pytest.approx((truth == predicted).mean())
    assert run.confusion("train").sum() == 51 and run.info["scores"]["test"] == pytest.approx(run.summary())
    assert np.allclose(test["confidence"], test[runs.PROBABILITIES].max(axis=1))
    with pytest.raises(RunError, match="has no predictions for the validation set"):
        run.summary("validation")


def test_the_card_tells_the_scores_and_the_limits(run):
    assert "For teaching and research, not for diagnosis." in run.card
    assert metrics.text(run.summary()) in run.card and "validation = test: 9" in run.card
    row = metrics.per_class(run.confusion(), recipes.CLASSES).loc["benign"]
    assert f"| benign | 5 | {row.sensitivity:.2f} [{row.sensitivity_low:.2f}, {row.sensitivity_high:.2f}]" in run.card
    assert "Random features." in run.card and "backbone MobileNetV2, image_size 32" in run.card


def test_a_finished_run_is_found(phantoms, split, home, tiny_run, training_is):
    training_is(must_not_train)
    assert runs.find_or_train(small(), phantoms, split, weights=WEIGHTS, runs=home).folder == tiny_run.folder
    assert runs.find(small(), phantoms, split, weights=WEIGHTS, runs=home) == tiny_run
    assert runs.find(small(), phantoms, split, weights=WEIGHTS, seed=99, runs=home) is None


class Asked(Exception):
    pass


def test_whatever_changes_the_result_trains_anew(phantoms, split, home, tiny_run, monkeypatch, training_is):
    def asked(*given, **named):
        raise Asked

    training_is(asked)
    given = {"recipe": small(), "scans": phantoms, "split": split, "weights": WEIGHTS, "runs": home}
    for changed in (
        {"seed": 1},
        {"recipe": small(learning_rate=0.5)},
        {"scans": replace(phantoms, table=phantoms.table[1:])},
        {"split": splits.paper_a(phantoms, seed=1)},
        {"split": replace(split, declared=("group", "image", "validation = test"))},
        {"weights": models.Weights("file", "", "x.h5", "a" * 64)},
        {"start": tiny_run},
    ):
        with pytest.raises(Asked):
            runs.find_or_train(**given | changed)
    for name, value in (("CODE", {"recipe": "other code"}), ("version", lambda package: f"another {package}")):
        with monkeypatch.context() as patch:
            patch.setattr(runs, name, value)
            with pytest.raises(Asked):
                runs.find_or_train(**given)


def test_the_key_covers_what_the_code_does_not_its_words(monkeypatch, tmp_path):
    package = Path(runs.__file__).parent
    for part in ("learning", "data"):
        shutil.copytree(package / part, tmp_path / part)
    before = runs._code("learning/models.py", "data/images.py")
    monkeypatch.setattr(runs.busilib, "__file__", str(tmp_path / "__init__.py"))
    file = tmp_path / "learning" / "models.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"""Backbones, their weights', '"""Other words') + "\n# a comment\n", encoding="utf-8")
    assert runs._code("learning/models.py", "data/images.py") == before
    file.write_text(text + "\nX = 1\n", encoding="utf-8")
    assert runs._code("learning/models.py", "data/images.py") != before


def by_hand(split, home, phantoms, rate=1e-3, head=None, answers=lambda probabilities: probabilities, **changes):
    """Train a head as a lesson does, and save it."""
    recipe = small()
    frozen = training.frozen_base("Tiny", 32, recipe.preprocessing, WEIGHTS)
    features = frozen.predict(images.load(split.table["path"], 32), batch_size=64, verbose=0)
    keras.utils.set_random_seed(0)
    head = head or models.head(recipe, features.shape[1:])
    head.compile(keras.optimizers.Adam(rate), "categorical_crossentropy", metrics=["accuracy"])
    history = head.fit(
        training.batches(*training.part(split, "train", features), recipe.batch_size, 0),
        validation_data=training.batches(*training.part(split, "validation", features), 64),
        epochs=2, callbacks=[keras.callbacks.EarlyStopping("val_loss", patience=10, restore_best_weights=True)],
        verbose=0, shuffle=False,
    )  # fmt: skip
    base = frozen.get_layer("base")
    model = models.assemble(recipe, WEIGHTS, base, head)
    probabilities = answers(head.predict(features, verbose=0))
    return runs.save(model, history, probabilities, recipe, phantoms, split, weights=WEIGHTS, runs=home, **changes)


def test_a_run_trained_by_hand_is_the_librarys(phantoms, split, tiny_run, tmp_path, training_is):
    run = by_hand(split, tmp_path, phantoms)
    assert run.name == tiny_run.name and run.info["key"] == tiny_run.info["key"]
    np.testing.assert_allclose(run.predictions[PROBABILITIES], tiny_run.predictions[PROBABILITIES], atol=1e-5)
    np.testing.assert_allclose(run.history, tiny_run.history, atol=1e-5)
    pixels = images.load(split.table["path"][:5], 32)
    np.testing.assert_allclose(run.model().predict(pixels, verbose=0), run.predictions[PROBABILITIES][:5], atol=1e-5)
    training_is(must_not_train)
    assert runs.find_or_train(small(), phantoms, split, weights=WEIGHTS, runs=tmp_path) == run
    assert by_hand(split, tmp_path, phantoms) == run, "once more: the same run"
    assert set(run.info) == set(tiny_run.info) and run.info["parameters_trained"] == tiny_run.info["parameters_trained"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"rate": 0.01}, "learning rate"),
        ({"head": lambda: models.head(small(dense=(9,)), (2, 2, 16))}, "layers in the head"),
    ],
    ids=["rate", "head"],
)
def test_an_edited_training_is_not_taken_for_the_papers(changes, what, phantoms, split, tiny, tmp_path, capsys):
    if "head" in changes:
        changes = {"head": changes["head"]()}
    run = by_hand(split, tmp_path, phantoms, **changes)
    assert run.name.startswith("A-frozen-edited-") and what in run.info["edited"] and what in capsys.readouterr().out
    assert runs.collect(tmp_path)["name"].tolist() == ["A-frozen-edited"]
    pixels = images.load(split.table["path"][:5], 32)
    np.testing.assert_allclose(run.model().predict(pixels, verbose=0), run.predictions[PROBABILITIES][:5], atol=1e-5)


@pytest.mark.parametrize("kept", ["frozen", "moving"])
def test_a_base_that_moved_where_it_should_not_is_an_edited_training(kept, phantoms, split, tiny, tmp_path):
    """Lesson 03's trap: BatchNormalization of the base left trainable. What the recipe freezes is counted apart."""
    recipe, weights = small("A-tuned", epochs=1), WEIGHTS
    model = models.build(recipe, weights, 0)
    base = model.get_layer("base")
    base.trainable = True
    for layer in base.layers if kept == "frozen" else ():
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    seam = base.get_layer(models.BACKBONES["Tiny"].last_block).output
    fitted = keras.Sequential([keras.Input(seam.shape[1:]), keras.Model(seam, base.output), model.get_layer("head")])
    models.compile_for(recipe, fitted)
    features = keras.Model(base.input, seam).predict(
        model.get_layer("preprocessing").predict(images.load(split.table["path"], 32), verbose=0), verbose=0
    )
    sets = [training.part(split, name, features) for name in ("train", "validation")]
    history = fitted.fit(
        training.batches(*sets[0], recipe.batch_size, 0), validation_data=training.batches(*sets[1], 64), epochs=1,
        verbose=0, shuffle=False,
    )  # fmt: skip
    answers = training.predict(model, images.load(split.table["path"], 32))
    run = runs.save(model, history, answers, recipe, phantoms, split, weights=weights, runs=tmp_path)
    assert run.info.get("edited") == (None if kept == "frozen" else ["trained parameters"])


def test_a_training_that_came_out_otherwise_does_not_replace_the_run(phantoms, split, tiny, tmp_path):
    first = by_hand(split, tmp_path, phantoms)
    other = models.head(small(), (2, 2, 16))  # other first weights: nothing else tells it from the first
    second = by_hand(split, tmp_path, phantoms, head=other)
    assert first.folder.is_dir() and second.name.startswith("A-frozen-edited-") and first.name in str(second.info)


@pytest.mark.parametrize(
    ("answers", "words"),
    [(lambda p: p[::-1], "not what the model says of the first files"), (lambda p: p[:-1], "needs \\(60, 3\\)")],
)
def test_answers_that_are_not_the_models_are_refused(answers, words, phantoms, split, tiny, tmp_path):
    with pytest.raises(RunError, match=words):
        by_hand(split, tmp_path, phantoms, answers=answers)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_interrupted_training_leaves_no_folder(failure, phantoms, split, tmp_path, tiny_run, training_is):
    def stopped(*given, **named):
        raise failure

    class Unsaved:
        def save(self, path):
            Path(path).write_bytes(b"half")
            raise failure

    half = training.Trained(Unsaved(), tiny_run.history, tiny_run.predictions, {})
    for train in (stopped, lambda *given, **named: half):
        training_is(train)
        with pytest.raises(failure):
            runs.find_or_train(small(unfreeze="last"), phantoms, split, weights=WEIGHTS, runs=tmp_path)
        assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert runs.collect(tmp_path).empty


def test_the_second_phase_goes_on_from_the_first_and_says_so(phantoms, split, home, tiny_run):
    recipe = small("A-tuned", dense=(8, 6, 5), epochs=1, learning_rate=1e-9)
    run = runs.find_or_train(recipe, phantoms, split, start=tiny_run, runs=home)
    assert run.info["start"] == tiny_run.name and (run.folder / "model.keras").is_file()
    assert run.info["weights"]["sentence"] == f"Random features. Trained further from {tiny_run.name}."
    first, second = (one.model().get_layer("base").get_weights() for one in (tiny_run, run))
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(first, second, strict=True))


def test_the_second_phase_has_the_weights_and_the_preprocessing_of_the_first(embedded, phantoms, split, tmp_path):
    """Phantoms' weights want X/255; with "own" and random weights the same recipe would feed other numbers."""
    again = small("A-tuned", backbone="ResNet50", preprocessing="own", epochs=1, unfreeze="none")
    with pytest.raises(RunError, match="began with other weights .* Leave weights out"):
        runs.find_or_train(again, phantoms, split, weights=WEIGHTS, start=embedded, runs=tmp_path)
    second = runs.find_or_train(again, phantoms, split, start=embedded, runs=tmp_path)
    assert second.info["weights"]["kind"] == "phantom" and second.info["base"] == embedded.info["base"]
    pixels = images.load(split.table["path"][:4], 32)
    assert second.model().get_layer("preprocessing").predict(pixels, verbose=0).max() <= 1


def test_the_same_seed_gives_the_same(phantoms, split, tiny_run, tmp_path):
    again = runs.find_or_train(small(), phantoms, split, weights=WEIGHTS, runs=tmp_path)
    np.testing.assert_allclose(*(one.predictions[runs.PROBABILITIES] for one in (tiny_run, again)), atol=1e-5)
    assert again.name == tiny_run.name and again.folder != tiny_run.folder


def test_paper_b_with_its_views(phantoms, home, tiny):
    split = splits.paper_b(phantoms)
    run = runs.find_or_train(small("B-frozen", views=2, epochs=3), phantoms, split, weights=WEIGHTS, runs=home)
    assert run.info["steps_per_epoch"] == -(-run.info["split"]["files"]["train"] // 8)
    assert run.info["split"]["overlaps"]["image"] > 0 and set(run.predictions["kind"]) == {"scan", "mask"}
    assert run.info["epoch_kept"] == run.history.loc[run.history["val_accuracy"].idxmax(), "epoch"]
    assert run.summary("validation")["n"] == len(split.part("validation"))


def test_collect_has_one_row_per_run(run, tiny_run, home):
    half = home / ".A-frozen-half-written"
    half.mkdir()
    (half / "run.json").write_text("{", encoding="utf-8")
    try:
        table = runs.collect(home)
    finally:
        shutil.rmtree(half)
    assert sorted(table["run"]) == sorted(path.parent.name for path in home.glob("[AB]-*/run.json"))
    row = table.set_index("run").loc[run.name]
    assert row["test_accuracy"] == pytest.approx(run.summary()["accuracy"])
    assert row["test_accuracy_low"] <= row["test_accuracy"] <= row["test_accuracy_high"]
    assert (row["backbone"], row["split"], row["seed"], row["train"], row["test"]) == (
        "MobileNetV2",
        "paper A",
        0,
        51,
        9,
    )
    assert runs.collect(home.parent / "none").empty


def spoil(table, how):
    """Return predictions with one fault, in the row of line 4."""
    if how == "missing":
        return table.drop(index=2)
    if how == "doubled":
        return pd.concat([table.iloc[:2], table.iloc[[0]], table.iloc[3:]])
    values = {"NaN": float("nan"), "text": "high", "sum": 0.9999, "outside": 1.5}[how]
    table = table.astype({"p_benign": object})
    table.loc[2, ["p_benign", "p_malignant", "p_normal"]] = [values, 0.01, 0.0] if how == "sum" else [values, 0.0, 0.0]
    return table


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("NaN", "predictions.csv, line 4: not three probabilities whose sum is 1"),
        ("text", "predictions.csv, line 4: not three probabilities"),
        ("outside", "predictions.csv, line 4: not three probabilities"),
        ("sum", "predictions.csv, line 4: not three probabilities"),
        ("doubled", "predictions.csv, line 4: not a file that no other line has"),
        ("missing", r"predictions.csv has \d+ rows for \d+ files"),
    ],
)
def test_damaged_predictions_are_refused_with_their_line(how, words, tiny_run, tmp_path):
    shutil.copytree(tiny_run.folder, tmp_path / "copy")
    spoil(tiny_run.predictions, how).to_csv(tmp_path / "copy" / "predictions.csv", index=False)
    with pytest.raises(RunError, match=words):
        runs.open_run(tmp_path / "copy").part("test")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{\n", "is damaged: .* line 2"),
        ("[]", "is damaged"),
        ('{"recipe": {"name": "A-frozen"}, "seed": 0, "split": null}', "it lacks backend, .*image_size.*split.name"),
        ('{"format": 99}', "by a newer version of this library"),
        ('{"classes": ["normal", "benign", "malignant"]}', "its model cannot be used"),
    ],
)
def test_a_run_json_that_cannot_be_read_is_refused(text, words, tiny_run, tmp_path):
    shutil.copytree(tiny_run.folder, tmp_path / "copy")
    (tmp_path / "copy" / "run.json").write_text(text, encoding="utf-8")
    for read in (lambda: runs.open_run(tmp_path / "copy").info, lambda: runs.collect(tmp_path)):
        with pytest.raises(RunError, match=words):
            read()


@pytest.mark.parametrize("key", runs.KEYS.split())
def test_a_run_json_that_lacks_a_key_is_refused(key, tiny_run, tmp_path):
    shutil.copytree(tiny_run.folder, tmp_path / "copy")
    info = json.loads((tmp_path / "copy" / "run.json").read_text(encoding="utf-8"))
    part, _, name = key.rpartition(".")
    del (info[part] if part else info)[name]
    (tmp_path / "copy" / "run.json").write_text(json.dumps(info), encoding="utf-8")
    for read in (runs.open_run(tmp_path / "copy").summary, lambda: runs.collect(tmp_path)):
        with pytest.raises(RunError, match=f"it lacks {key}"):
            read()


def test_code_in_a_model_is_not_run(tiny_run, tmp_path):
    mark = tmp_path / "executed"
    code = keras.layers.Lambda(lambda x, mark=str(mark): (open(mark, "w").close(), x)[1], output_shape=(3,))
    keras.Sequential([keras.Input((3,)), code]).save(tmp_path / "lambda.keras")
    mark.unlink(missing_ok=True)
    (tmp_path / "truncated.keras").write_bytes((tiny_run.folder / "head.keras").read_bytes()[:900])
    for name in ("lambda", "truncated"):
        copy = shutil.copytree(tiny_run.folder, tmp_path / name)
        shutil.copy(tmp_path / f"{name}.keras", copy / "head.keras")
        with pytest.raises(RunError, match=rf"{copy}/head.keras cannot be loaded: .*Delete the folder and train anew"):
            runs.open_run(copy).model()
    assert not mark.exists()


def test_an_incomplete_folder_is_refused(tiny_run, phantoms, split, tmp_path, training_is):
    training_is(must_not_train)
    (tmp_path / tiny_run.name).mkdir()
    (tmp_path / tiny_run.name / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match=r"is no finished run: history.csv, predictions.csv missing. Name another"):
        runs.open_run(tmp_path / tiny_run.name)
    with pytest.raises(RunError, match="is no finished run"):  # and nothing is trained to be thrown away
        runs.find_or_train(small(), phantoms, split, weights=WEIGHTS, runs=tmp_path)


def test_stored_results_say_on_what_they_were_measured():
    assert {"A-frozen-paper", "B-frozen-paper"} <= set(runs.stored_names())
    for name in runs.stored_names():
        result = runs.stored(name)
        assert result["dataset"]["name"] == "busi" and result["date"] in runs.sentence(result)
        summary = result["parts"]["test"]["summary"]
        assert summary["right"] == np.trace(result["parts"]["test"]["confusion"])
        assert len(pd.DataFrame(result["history"])) == result["epochs_run"]
    table = runs.stored_table("leaks-ResNet50")
    assert len(table) and table.attrs["weights"]["sentence"]
    with pytest.raises(RunError, match="There is no stored result 'none'; there are: A-frozen-paper"):
        runs.stored("none")


def test_no_model_no_prediction(tiny_run, tmp_path):
    shutil.copytree(tiny_run.folder, tmp_path / "copy")
    (tmp_path / "copy" / "head.keras").unlink()
    with pytest.raises(RunError, match="its model was not kept"):
        runs.open_run(tmp_path / "copy").model()
    assert keras.backend.backend() == tiny_run.info["backend"]
