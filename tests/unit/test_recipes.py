"""recipes: every setting of both papers is there with its source, and nothing unknown is taken."""

from dataclasses import fields

import pytest

from busilib import recipes
from busilib.errors import LessonError
from busilib.recipes import PAPERS, PROFILES, Recipe
from busitools import notebooks

SETTINGS = {field.name for field in fields(Recipe)} - {"name"}


@pytest.mark.parametrize("name", PAPERS)
def test_every_setting_has_a_source_and_a_reason(name):
    assert set(PAPERS[name]) == SETTINGS
    for row in recipes.settings(name):
        assert row["source"] in ("says", "chosen"), row
        assert len(row["why"]) > 4, row


@pytest.mark.parametrize("name", PAPERS)
def test_full_is_the_paper_itself(name):
    recipe = recipes.get(name, "full")
    assert recipe == Recipe(name=name, **{key: item.value for key, item in PAPERS[name].items()})
    assert set(recipe.as_dict()) == SETTINGS | {"name"} and isinstance(recipe.as_dict()["dense"], list)


def test_what_the_papers_print():
    a, b = recipes.get("A-frozen", "full"), recipes.get("B-frozen", "full")
    assert (a.backbone, a.image_size, a.epochs, a.patience, a.monitor) == ("ResNet50", 128, 30, 10, "val_loss")
    assert recipes.get("A-tuned", "full").epochs == 10 and len(recipes.get("A-tuned", "full").dense) == 3
    assert (b.backbone, b.image_size, b.epochs, b.batch_size) == ("InceptionResNetV2", 150, 10, 8)
    assert (b.dense, b.dropout, b.learning_rate, b.preprocessing) == ((256,), 0.2, 1e-3, "rescale")


def test_profiles_change_settings_that_exist_and_only_make_smaller():
    for profile, rows in PROFILES.items():
        for name in set(rows) - {"phantoms", "folds"}:
            assert set(rows[name]) <= SETTINGS, (profile, name)
            for key, value in rows[name].items():
                paper = PAPERS["A-frozen" if name == "study" else name]
                assert value <= paper[key].value, (profile, name, key)


def test_later_phases_fit_on_the_first():
    for first, second in (("A-frozen", "A-tuned"), ("B-frozen", "B-tuned")):
        for profile in PROFILES:
            before, after = recipes.get(first, profile), recipes.get(second, profile)
            same = ("backbone", "image_size", "preprocessing", "batch_norm")
            assert [getattr(before, key) for key in same] == [getattr(after, key) for key in same]


@pytest.mark.parametrize("name", PAPERS)
def test_clean_takes_the_networks_own_preprocessing_and_leaves_validation_alone(name):
    paper, clean = recipes.get(name).as_dict(), recipes.get(name, protocol="clean").as_dict()
    assert clean.pop("preprocessing") == "own" and paper.pop("preprocessing") == "rescale"
    assert clean.pop("augment_validation") is False and paper.pop("augment_validation") == name.startswith("B")
    assert clean == paper
    assert recipes.get(name, protocol="clean", preprocessing="rescale").preprocessing == "rescale"


def test_changes_replace_and_none_leaves():
    recipe = recipes.get("A-frozen", learning_rate=0.5, dropout=None)
    assert recipe.learning_rate == 0.5 and recipe.dropout == PAPERS["A-frozen"]["dropout"].value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "C"}, "recipe 'C' does not exist; choose one of: A-frozen, A-tuned, A-new-head, A-careful, B-frozen"),
        ({"profile": "slow"}, "PROFILE 'slow' does not exist; choose one of: quick, full"),
        ({"protocol": "dirty"}, "PROTOCOL 'dirty' does not exist; choose one of: paper, clean"),
        ({"preprocessing": "none"}, "preprocessing 'none' does not exist; choose one of: rescale, own"),
        ({"unfreeze": "first"}, "unfreeze 'first' does not exist; choose one of: none, block, last, all"),
        ({"monitor": "loss"}, "monitor 'loss' does not exist; choose one of: val_loss, val_accuracy"),
        ({"image_size": 31}, "image_size must be 32 or more"),
        ({"epochs": 0}, "epochs 1 or more"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\)"),
        ({"learning_rate": 0.0}, "learning_rate above 0"),
    ],
)
def test_what_does_not_exist_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        recipes.get(**{"name": "A-frozen"} | arguments)


RIGHT = {"DATASET": "2024", "PROTOCOL": "clean", "SEED": 3, "DROPOUT": 0, "UNFREEZE": "last", "MINE": None, "x": 1}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "DATASET",
            2024,
            r"DATASET is 2024; it must be a text \(papermill keeps it as you typed it with -r DATASET TEXT",
        ),
        ("WEIGHTS", None, "WEIGHTS is None; it must be a text .* -r WEIGHTS TEXT"),
        ("SEED", "seven", "SEED is 'seven'; it must be a whole number from 0 to 1000000000"),
        ("SEED", -1, "SEED is -1; it must be a whole number from 0"),
        ("SEED", 2**32, "from 0 to 1000000000"),
        ("IMAGE_SIZE", 10**6, "from 32 to 1024, or 0 for the usual one"),
        ("LEARNING_RATE", float("nan"), "a number from 1e-09 to 0.5"),
        ("LEARNING_RATE", 1, "a number from 1e-09 to 0.5"),  # which Keras would refuse much later
        ("ROTATION", float("inf"), "a number from 0.0 to 360.0"),
        ("FOLD", 1.0, "a whole number"),
        ("EPOCHS", True, "EPOCHS is True; it must be a whole number"),
        ("DROPOUT", "0,5", "DROPOUT is '0,5'; it must be a number from 0.0 to 0.99"),
        ("PROTOCOL", "dirty", "PROTOCOL is 'dirty'; it must be one of: paper, clean"),
        ("PROFILE", None, "one of: quick, full"),
        ("UNFREEZE", "first", "one of: none, block, last"),
    ],
)
def test_a_lessons_parameter_of_the_wrong_kind_is_refused_in_a_sentence(name, value, message):
    recipes.check_parameters(RIGHT)
    with pytest.raises(LessonError, match=message):
        recipes.check_parameters(RIGHT | {name: value})


@pytest.mark.parametrize("path", notebooks.lessons(), ids=lambda path: path.stem)
def test_every_parameter_of_a_lesson_is_checked_and_its_default_accepted(path):
    defaults = notebooks.parameters(path)
    assert set(defaults) <= set(recipes.PARAMETERS)
    recipes.check_parameters(defaults)
