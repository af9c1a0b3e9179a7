"""The two papers' settings, and the profiles quick and full, in one place.

The papers' settings stand in tables/recipes.json: what all phases of a paper share under "A" and "B", the rest under
the phase. Each is marked "says" (the paper prints it) or "chosen" (the paper is silent, and we had to choose; the
reason stands beside it). A = Ningsih & Alamsyah 2023 (ResNet50). B = Nikmah et al. 2024 (Inception-ResNet-v2).
"A-new-head" and "A-careful" are ours: paper A's network fine-tuned with care, the new layers first.
"""

import json
from collections import namedtuple
from dataclasses import asdict, dataclass, replace
from importlib.resources import files

from busilib.errors import LessonError

CLASSES = ("benign", "malignant", "normal")
PROBABILITIES = [f"p_{name}" for name in CLASSES]  # the columns of predictions


@dataclass(frozen=True)
class Recipe:
    """All settings of one training run; `get` makes one."""

    name: str  # a key of `PAPERS`
    backbone: str  # a key of busilib.learning.models.BACKBONES
    image_size: int  # pixels per side
    preprocessing: str  # "rescale" (X/255) or "own" (what the backbone was trained with)
    batch_norm: bool  # BatchNormalization between Flatten and the first Dense layer
    dense: tuple[int, ...]  # widths of the hidden Dense layers
    dropout: float  # after the first Dense layer: both papers name one
    unfreeze: str  # "none", "block" (the backbone's last block), "last" (its last stage) or "all"
    learning_rate: float  # of Adam
    batch_size: int
    epochs: int
    monitor: str  # the weights are those of the best epoch by this: "val_loss" or "val_accuracy"
    patience: int | None  # early stopping in epochs without a better ``monitor``; None: no early stopping
    augment: bool  # paper B's Table 1 on the training images
    augment_validation: bool  # the same on the validation images
    views: int  # augmented views of each image when the base is frozen; epoch e sees view e % views

    def as_dict(self):
        """Return the settings as plain values, ready for JSON."""
        return asdict(self) | {"dense": list(self.dense)}


# One setting of a paper: its value, where it comes from ("says" or "chosen") and why.
Setting = namedtuple("Setting", "value source why")
_TABLE = json.loads((files("busilib") / "tables" / "recipes.json").read_text(encoding="utf-8"))


def _paper(name):
    """Return the settings of one phase of a paper: a dict key → `Setting`."""
    rows = (_TABLE[name[0]] | _TABLE[name]).items()
    return {key: Setting(tuple(value) if isinstance(value, list) else value, *why) for key, (value, *why) in rows}


PAPERS = {name: _paper(name) for name in "A-frozen A-tuned A-new-head A-careful B-frozen B-tuned".split()}

# The profiles: what is made smaller so that a lesson runs in a minute; "full" leaves the papers' values as they are.
# "study" is paper A's head, trained dozens of times in lessons 07 and 08.
PROFILES = _TABLE["profiles"]
SYSTEMS = _TABLE["systems"]  # the comparators' titles and settings
CHOICES = {"preprocessing": ("rescale", "own"), "unfreeze": ("none", "block", "last", "all")}
CHOICES |= {"monitor": ("val_loss", "val_accuracy")}
# Every parameter that a lesson has: "text"; from, to and perhaps a third value, for the usual one; or its choices.
PARAMETERS = _TABLE["parameters"]


def get(name, profile="quick", protocol="paper", **changes):
    """Return a paper's Recipe.

    ``name`` is a key of `PAPERS`. ``profile="quick"`` makes images smaller and epochs fewer. ``protocol="clean"``
    takes the backbone's own preprocessing and leaves the validation images as they are. ``changes`` replace single
    settings; ``None`` leaves a setting as it is.
    Raises ValueError for a name, profile, protocol, preprocessing or unfreeze that does not exist, TypeError for a
    setting that a Recipe does not have.
    """
    one_of("recipe", name, PAPERS)
    one_of("PROTOCOL", protocol, PARAMETERS["PROTOCOL"])
    values = {key: setting.value for key, setting in PAPERS[name].items()} | profile_values(profile).get(name, {})
    if protocol == "clean":
        values |= {"preprocessing": "own", "augment_validation": False}
    changes = {key: value for key, value in changes.items() if value is not None}
    recipe = replace(Recipe(name=name, **values), **changes)
    for key, allowed in CHOICES.items():
        one_of(key, getattr(recipe, key), allowed)
    if recipe.image_size < 32 or recipe.epochs < 1 or not 0 <= recipe.dropout < 1 or recipe.learning_rate <= 0:
        raise ValueError("image_size must be 32 or more, epochs 1 or more, dropout in [0, 1), learning_rate above 0")
    return recipe


def study(profile="quick", protocol="paper", **changes):
    """Return paper A's first phase as lessons 07 and 08 train it, dozens of times: `get` with the profile's savings."""
    return get("A-frozen", profile, protocol, **profile_values(profile)["study"] | changes)


def check_parameters(values):
    """Return nothing, or raise LessonError for a lesson's parameter of the wrong type or an unknown choice.

    Args:
        values: names and values, ``globals()`` in a lesson. Names that are in no lesson may have any value.
    """
    for name, wanted in PARAMETERS.items():
        if name in values and not _fits(values[name], wanted):
            if wanted == "text":  # papermill's -p makes a number, True or None of a text that looks like one
                words = f"a text (papermill keeps it as you typed it with -r {name} TEXT)"
            else:
                words = f"one of: {', '.join(wanted)}" if isinstance(wanted[0], str) else _range(*wanted)
            raise LessonError(f"{name} is {values[name]!r}; it must be {words}")


def _fits(value, wanted):
    if isinstance(wanted[0], str):
        return isinstance(value, str) and (wanted == "text" or value in wanted)
    if isinstance(value, bool) or not isinstance(value, int if isinstance(wanted[0], int) else int | float):
        return False
    return wanted[0] <= value <= wanted[1] or value in wanted[2:]


def _range(low, high, *default):
    what = "a whole number" if isinstance(low, int) else "a number"
    return f"{what} from {low} to {high}" + "".join(f", or {value} for the usual one" for value in default)


def profile_values(profile):
    """Return one row of `PROFILES`; raise ValueError for an unknown profile."""
    one_of("PROFILE", profile, PROFILES)
    return PROFILES[profile]


def settings(name):
    """Return a paper's settings as rows (setting, value, source, why), ready for a pandas table."""
    return [{"setting": key} | item._asdict() for key, item in PAPERS[name].items()]


def one_of(what, value, allowed):
    """Raise ValueError, with the names to choose from, when a value is none of those allowed."""
    if value not in allowed:
        raise ValueError(f"{what} {value!r} does not exist; choose one of: {', '.join(map(str, allowed))}")
