"""The two papers' settings, and the profiles quick and full, in one place.

Every setting of a paper is marked: "says" (the paper prints it) or "chosen" (the paper is silent, and we had to
choose; the reason stands beside it). A = Ningsih & Alamsyah 2023 (ResNet50). B = Nikmah et al. 2024
(Inception-ResNet-v2).
"""

from dataclasses import asdict, dataclass, fields, replace

from busilib.errors import LessonError

CLASSES = ("benign", "malignant", "normal")
PROBABILITIES = [f"p_{name}" for name in CLASSES]  # the columns of predictions


@dataclass(frozen=True)
class Recipe:
    """All settings of one training run; `get` makes one."""

    name: str  # "A-frozen", "A-tuned", "B-frozen", "B-tuned"
    backbone: str  # a key of busilib.learning.models.BACKBONES
    image_size: int  # pixels a side
    preprocessing: str  # "rescale" (X/255) or "own" (what the backbone was trained with)
    batch_norm: bool  # BatchNormalization between Flatten and the first Dense layer
    dense: tuple[int, ...]  # widths of the hidden Dense layers
    dropout: float  # after the first Dense layer: both papers name one
    unfreeze: str  # "none", "block" (the backbone's last block), "last" (its last stage) or "all"
    learning_rate: float  # of Adam
    batch_size: int
    epochs: int
    monitor: str  # the epoch that is kept is the best by this: "val_loss" or "val_accuracy"
    patience: int | None  # early stopping in epochs without a better ``monitor``; None: no early stopping
    augment: bool  # paper B's Table 1 on the training images
    augment_validation: bool  # the same on the validation images
    views: int  # augmented views kept of each image when the base is frozen; epoch e sees view e % views

    def as_dict(self):
        """Return the settings as plain values, ready for JSON."""
        return asdict(self) | {"dense": list(self.dense)}


@dataclass(frozen=True)
class Setting:
    """One setting of a paper: its value, where it comes from ("says" or "chosen") and why."""

    value: object
    source: str
    why: str


# What both phases of paper A share.
_A = {
    "backbone": Setting("ResNet50", "says", "title"),
    "image_size": Setting(128, "says", "'img size format with a value of 128'"),
    "preprocessing": Setting("rescale", "chosen", "unsaid; X/255 is what scripts of this family do"),
    "batch_norm": Setting(True, "says", "Flatten, BatchNormalization, Dense and Dropout are named"),
    "dropout": Setting(0.5, "chosen", "unsaid; the usual rate"),
    "batch_size": Setting(16, "chosen", "unsaid; the usual size"),
    "patience": Setting(10, "says", "early stopping on val_loss, 'in this case 10 epochs'"),
    "monitor": Setting("val_loss", "says", "'val_loss which did not improve'"),
    "augment": Setting(False, "chosen", "no augmentation is mentioned"),
    "augment_validation": Setting(False, "chosen", "no augmentation is mentioned"),
    "views": Setting(1, "chosen", "without augmentation every epoch sees the same images"),
}
# What both readings of paper B share.
_B = {
    "backbone": Setting("InceptionResNetV2", "says", "Table 2"),
    "image_size": Setting(150, "says", "target_size in Table 1"),
    "preprocessing": Setting("rescale", "says", "rescale 1/255 in Table 1"),
    "batch_norm": Setting(False, "says", "Table 2 has none"),
    "dense": Setting((256,), "says", "Table 2"),
    "dropout": Setting(0.2, "says", "Table 2"),
    "batch_size": Setting(8, "chosen", "unsaid, but 143 steps an epoch and 1138 training files leave only 8"),
    "epochs": Setting(10, "says", "'10 epochs with 143 steps per epoch'"),
    "patience": Setting(None, "chosen", "no early stopping is mentioned, and Table 3 has all ten epochs"),
    "monitor": Setting("val_accuracy", "chosen", "the paper says 'the highest accuracy' and names the training one"),
    "augment": Setting(True, "says", "Table 1"),
    "augment_validation": Setting(True, "says", "Table 1: validation_split in the same generator"),
    "views": Setting(10, "chosen", "one view an epoch: the same as augmenting anew in every epoch"),
}
PAPERS = {
    "A-frozen": _A
    | {
        "dense": Setting((256,), "chosen", "unsaid; one hidden layer, since fine-tuning 'added 3 dense layers'"),
        "unfreeze": Setting("none", "chosen", "unsaid; the usual first phase of transfer learning"),
        "learning_rate": Setting(1e-3, "chosen", "unsaid; Adam's default"),
        "epochs": Setting(30, "says", "'epochs of 30'"),
    },
    "A-tuned": _A
    | {
        "dense": Setting((256, 128, 64), "chosen", "'added 3 dense layers': 128, 64 and a new output; widths unsaid"),
        "unfreeze": Setting("block", "chosen", "unsaid; the last block, which a laptop can still train"),
        "learning_rate": Setting(3e-4, "chosen", "unsaid; smaller, so as not to undo the first phase"),
        "epochs": Setting(10, "says", "'Early Stopping for 10 epochs'"),
    },
    "B-frozen": _B
    | {
        "unfreeze": Setting("none", "chosen", "unsaid; frozen is the plain reading of 'pre-training model'"),
        "learning_rate": Setting(1e-3, "says", "'learning_rate of 0.001'"),
    },
    "B-tuned": _B
    | {
        "unfreeze": Setting("block", "chosen", "the other reading: the swings of Table 3 suggest an unfrozen base"),
        "learning_rate": Setting(1e-4, "chosen", "a second phase of ours: smaller, so as not to undo the first"),
        "epochs": Setting(3, "chosen", "a second phase of ours, short"),
        "views": Setting(3, "chosen", "one view an epoch"),
    },
}
FIRST_PHASE = {"A-tuned": "A-frozen", "B-tuned": "B-frozen"}

# The profiles: what is made smaller so that a lesson runs in a minute. "full" leaves the papers' values as they are.
PROFILES = {
    "quick": {
        "phantoms": 600,
        "folds": 5,
        "A-frozen": {"image_size": 64, "epochs": 15},
        "A-tuned": {"image_size": 64, "epochs": 4},
        "B-frozen": {"image_size": 75, "epochs": 10, "views": 2},
        "B-tuned": {"image_size": 75, "epochs": 2, "views": 1},
        # Paper A's head, trained dozens of times in lessons 07 and 08: `study`.
        "study": {"image_size": 32},
    },
    "full": {"phantoms": 780, "folds": 5, "study": {}},
}
PROTOCOLS = ("paper", "clean")
CHOICES = {
    "preprocessing": ("rescale", "own"),
    "unfreeze": ("none", "block", "last", "all"),
    "monitor": ("val_loss", "val_accuracy"),
}
# Every parameter that a lesson has: the type of its values, or the values that there are.
PARAMETERS = {
    **dict.fromkeys(("DATASET", "WEIGHTS", "RUNS", "WEIGHTS_B", "WEIGHTS_2"), str),
    **dict.fromkeys(("LAYER", "BACKBONE", "BACKBONE_2", "EXTERNAL", "BASE"), str),
    **dict.fromkeys(("SEED", "SEEDS", "FOLD", "FOLDS", "IMAGE_SIZE", "EPOCHS", "MISTAKES", "WORKERS"), int),
    **dict.fromkeys(("LEARNING_RATE", "DROPOUT", "ROTATION", "SHEAR", "ZOOM", "WATTS"), float),
    "PROTOCOL": PROTOCOLS,
    "PROFILE": tuple(PROFILES),
    "PREPROCESSING": ("auto", *CHOICES["preprocessing"]),
    "UNFREEZE": CHOICES["unfreeze"],
    "FILL_MODE": ("nearest", "reflect", "constant", "wrap"),
}
_NUMBERS = {int: "a whole number, 0 or more", float: "a number, 0 or more"}


def get(name, profile="quick", protocol="paper", **changes):
    """Return a paper's Recipe.

    ``name`` is a key of `PAPERS`. ``profile="quick"`` makes images smaller and epochs fewer. ``protocol="clean"``
    takes the backbone's own preprocessing and leaves the validation images as they are. ``changes`` replace single
    settings; ``None`` leaves a setting as it is.
    Raises ValueError for a name, profile, protocol, setting or value that does not exist.
    """
    one_of("recipe", name, PAPERS)
    one_of("PROTOCOL", protocol, PROTOCOLS)
    values = {key: setting.value for key, setting in PAPERS[name].items()} | profile_values(profile).get(name, {})
    if protocol == "clean":
        values |= {"preprocessing": "own", "augment_validation": False}
    changes = {key: value for key, value in changes.items() if value is not None}
    for key in changes:
        one_of("setting", key, [field.name for field in fields(Recipe)])
    recipe = replace(Recipe(name=name, **values), **changes)
    for key, allowed in CHOICES.items():
        one_of(key, getattr(recipe, key), allowed)
    if min(recipe.batch_size, recipe.views, *recipe.dense) < 1 or (recipe.patience is not None and recipe.patience < 1):
        raise ValueError("batch_size, views, patience and the widths of the dense layers must be 1 or more")
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
            if wanted is str:  # papermill's -p makes a number, True or None of a text that looks like one
                words = f"a text (papermill keeps it as you typed it with -r {name} TEXT)"
            else:
                words = _NUMBERS.get(wanted) or f"one of: {', '.join(wanted)}"
            raise LessonError(f"{name} is {values[name]!r}; it must be {words}")


def _fits(value, wanted):
    if wanted in _NUMBERS:
        numbers = int if wanted is int else int | float
        return isinstance(value, numbers) and not isinstance(value, bool) and value >= 0
    return isinstance(value, str) and (wanted is str or value in wanted)


def profile_values(profile):
    """Return one row of `PROFILES`; raise ValueError for an unknown profile."""
    one_of("PROFILE", profile, PROFILES)
    return PROFILES[profile]


def settings(name):
    """Return a paper's settings as rows (setting, value, source, why), ready for a pandas table."""
    return [
        {"setting": key, "value": item.value, "source": item.source, "why": item.why}
        for key, item in PAPERS[name].items()
    ]


def one_of(what, value, allowed):
    if value not in allowed:
        raise ValueError(f"{what} {value!r} does not exist; choose one of: {', '.join(map(str, allowed))}")
