"""Who trains and who is tested: the papers' splits and the clean one, each checked, each with its hash.

A split has one row per *file that the network sees*: a scan, or (paper B) a mask counted as an image.
"""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from busilib import recipes
from busilib.errors import SplitError
from busilib.recipes import CLASSES

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Which file is in which set, and how that was decided.

    Attributes:
        paper: "A", "B", or "" for a split that is neither's own.
        protocol: "paper", "clean", or a study's word.
        fold, folds: which of how many, counted from 0; (0, 1) where there is one split only.
        seed: what the parts were drawn with.
        table: one row per file, with the columns file_id, kind ("scan" or "mask"), image_id, label, group, path, split.
        declared: the overlaps that the protocol is known to have: "image" (a scan and its mask in two sets), "group"
            (near-identical scans in two sets), "validation = test".
        overlaps: their counts, which `check_split` fills in.
        variant: what sets it apart from other splits of the protocol.
    """

    paper: str
    protocol: str
    fold: int
    folds: int
    seed: int
    table: pd.DataFrame
    declared: tuple[str, ...] = ()
    overlaps: dict = field(default_factory=dict)
    variant: str = ""

    @property
    def name(self):
        """A label for people: "paper A", "clean, fold 2 of 5"."""
        label = f"paper {self.paper}" if self.protocol == "paper" else self.protocol
        fold = f"fold {self.fold + 1} of {self.folds}" if self.folds > 1 else ""
        return ", ".join(filter(None, (label, fold, self.variant)))

    def identity(self):
        """Return what run.json tells of the split: all but its rows, of which it has the hash and the counts."""
        words = {key: getattr(self, key) for key in ("name", "paper", "protocol", "fold", "folds", "seed", "variant")}
        counts = self.table["split"].value_counts().sort_index().to_dict()
        overlaps = {"declared": list(self.declared), "overlaps": self.overlaps}
        return words | {"sha256": self.sha256, "files": counts} | overlaps

    def part(self, name):
        """Return the rows of one set; "validation" is the test set when the protocol validates on it."""
        if name not in PARTS:
            raise ValueError(f"part {name!r} does not exist; choose one of: {', '.join(PARTS)}")
        if name == "validation" and "validation = test" in self.declared:
            name = "test"
        return self.table[self.table["split"] == name].reset_index(drop=True)

    def counts(self):
        """Return the number of files per class and set, as a table with totals."""
        table = pd.crosstab(self.table["label"], self.table["split"])
        table = table.reindex(index=[c for c in CLASSES if c in table.index], columns=[p for p in PARTS if p in table])
        table.loc["total"] = table.sum()
        return table.assign(total=table.sum(axis=1)).rename_axis(index=None, columns=None)

    @property
    def sha256(self):
        """SHA-256 over the sorted lines "file_id kind image_id split"."""
        lines = sorted(self.table[["file_id", "kind", "image_id", "split"]].agg(" ".join, axis=1))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def files(catalogue, masks=False):
    """Return one row per file: file_id, kind, image_id, label, group, path; with ``masks``, the mask files as well."""
    rows = []
    for scan in catalogue.table.itertuples():
        seen = [(scan.image_id, "scan", scan.path)]
        seen += [(name, "mask", path) for name, path in zip(scan.mask_ids, scan.mask_paths, strict=True) if masks]
        rows += [(file_id, kind, scan.image_id, scan.label, scan.group, str(path)) for file_id, kind, path in seen]
    return pd.DataFrame(rows, columns=["file_id", "kind", "image_id", "label", "group", "path"])


def without_objections(catalogue):
    """Return the catalogue without the scans of an axilla, with a needle, or with two labels for one picture."""
    objections = {"axilla", "needle", "contradictory", "objection"}
    keep = [not objections & set(flags) for flags in catalogue.table["flags"]]
    return replace(catalogue, table=catalogue.table[keep].reset_index(drop=True))


def paper_a(catalogue, seed=0, stratified=True):
    """Paper A: 15 % of the scans are the test set, and validation is that test set (BUSI: 663 / 117).

    Drawn by scikit-learn, stratified by class or not. Copies of a scan may lie on both sides: the paper did not look.
    """
    from sklearn.model_selection import train_test_split

    table = files(catalogue).assign(split="train")
    labels = table["label"] if stratified else None
    try:
        _, test = train_test_split(table.index, test_size=0.15, random_state=seed, stratify=labels)
    except ValueError as error:  # a class of one image, or fewer test images than classes
        raise SplitError(f"paper A: too few images of some class ({_counts(table)}): {error}") from error
    table.loc[test, "split"] = "test"
    return _with_classes(Split("A", "paper", 0, 1, seed, table, declared=("group", "validation = test")))


def paper_b(catalogue, seed=0):
    """Paper B: per class int(10 %) of all files are tested, then the first int(20 %) of the rest are validation.

    Masks are files like any other, so BUSI gives 1138 / 283 / 157. "The first" is what Keras' validation_split
    takes from the sorted file names. How the test set was drawn is unsaid; here at random from ``seed``.
    """
    table = files(catalogue, masks=True).assign(split="train")
    # Keras sorts file names as text: "benign (1).png", "benign (1)_mask.png", "benign (10).png", "benign (2).png"
    table = table.sort_values("file_id", key=lambda names: names + ".png")
    rng = np.random.default_rng(seed)
    for _, rows in table.groupby("label"):
        test = rng.choice(rows.index, size=int(0.1 * len(rows)), replace=False)
        rest = rows.index.drop(test)
        table.loc[test, "split"] = "test"
        table.loc[rest[: int(0.2 * len(rest))], "split"] = "validation"
    return _with_classes(Split("B", "paper", 0, 1, seed, table.reset_index(drop=True), declared=("image", "group")))


def clean(catalogue, fold=0, folds=5, seed=0):
    """The same work done properly: groups stay together, objections are dropped, the validation set is separate.

    Stratified by class, grouped by near-identical scans; fold ``fold`` of ``folds`` is the test set, and a
    ``folds``-th of the rest is validation. Only scans are inputs. Dropped: axilla, needle and contradictory scans.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if not 0 <= fold < folds:
        raise ValueError(f"fold {fold} does not exist: with {folds} folds choose 0 to {folds - 1}")
    table = files(without_objections(catalogue)).assign(split="train")
    for part in ("test", "validation"):
        rest = table[table["split"] == "train"]
        draw = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        try:
            drawn = list(draw.split(rest, rest["label"], rest["group"]))
        except ValueError as error:  # no class has as many images as there are folds
            raise SplitError(f"clean: too few images for {folds} folds ({_counts(table)}): {error}") from error
        table.loc[rest.index[drawn[fold][1]], "split"] = part
    return _with_classes(Split("", "clean", fold, folds, seed, table))


def _counts(table):
    return ", ".join(f"{label} {n}" for label, n in table["label"].value_counts().items()) or "no images"


def _with_classes(split):
    """Return the split, checked; raise SplitError when a set that is there lacks a class of the others."""
    has = check_split(split).counts().drop(index="total", columns="total")
    if lacks := [f"no {label} in the {part} set" for part in has for label in has.index if not has.loc[label, part]]:
        what = f"{split.name}: {', '.join(lacks)}; files per class: {_counts(split.table)}."
        raise SplitError(f"{what} Add images of that class, leave it out, or draw with another seed.")
    return check_split(split)


def make(paper, protocol, catalogue, fold=0, folds=5, seed=0):
    """Return the split of a paper ("A" or "B") under a protocol ("paper" or "clean").

    The papers have one split each, so ``fold`` is for the clean protocol only.
    """
    if protocol == "clean":
        return clean(catalogue, fold, folds, seed)
    if protocol != "paper" or paper not in ("A", "B"):
        raise ValueError(f"paper {paper!r} with protocol {protocol!r}: choose 'A' or 'B', and 'paper' or 'clean'")
    if fold != 0:
        raise ValueError("FOLD is for PROTOCOL='clean': the papers have one split only, FOLD=0")
    return paper_a(catalogue, seed) if paper == "A" else paper_b(catalogue, seed)


def plan(recipe_name, scans, profile="quick", protocol="paper", fold=0, seed=0, **changes):
    """Return the Recipe and the Split that belong together, in one call.

    Args:
        recipe_name: a key of `recipes.PAPERS`.
        scans: the catalogue.
        profile: "quick" or "full".
        protocol: "paper" (as the paper did it) or "clean".
        fold: which fold of the clean protocol is tested.
        seed: what the split is drawn with.
        changes: settings of the recipe to replace, as in `recipes.get`.
    """
    recipe = recipes.get(recipe_name, profile, protocol, **changes)
    return recipe, make(recipe_name[0], protocol, scans, fold, recipes.profile_values(profile)["folds"], seed)


def check_split(split):
    """Return the split with its overlaps counted; raise SplitError for any that the protocol did not declare.

    One file in two sets is always refused, and so is an empty set.
    """
    table, overlaps, wrong = split.table, {}, []
    twice = table.loc[table["file_id"].duplicated(), "file_id"]
    wrong += [f"{len(twice)} files appear twice, the first is {twice.iloc[0]!r}."] if len(twice) else []
    unknown = sorted(set(table["split"]) - set(PARTS))
    wrong += [f"Unknown sets {unknown}; a file is in one of: {', '.join(PARTS)}."] if unknown else []
    for kind, column in (("image", "image_id"), ("group", "group")):
        rows = table[table.groupby(column)["split"].transform("nunique") > 1]
        overlaps[kind] = rows[column].nunique()
        if overlaps[kind] and kind not in split.declared:
            rows = rows[rows[column] == rows[column].iloc[0]]
            example = ", ".join(rows["file_id"] + " in " + rows["split"])
            hint = f"Keep each on one side, or declare the overlap {kind!r} if the protocol is known to have it."
            wrong.append(f"{overlaps[kind]} {kind}s lie in two sets, for instance {example}. {hint}")
    counts = {part: int((table["split"] == part).sum()) for part in PARTS}
    if "validation = test" in split.declared:
        overlaps["validation = test"] = counts["test"]
        if counts.pop("validation"):
            wrong.append("It declares 'validation = test' and has a validation set as well.")
    hint = "Validating on the test set must be declared ('validation = test'); otherwise give every set files."
    wrong += [f"The {part} set is empty. {hint}" for part, n in counts.items() if n == 0]
    if wrong:
        raise SplitError(f"{split.name}: {' '.join(wrong)}")
    return replace(split, overlaps=overlaps)
