"""splits: properties on made catalogues, refusals, and the counts of the real BUSI."""

from dataclasses import replace
from math import ceil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from busilib import recipes
from busilib.data import splits
from busilib.data.catalogue import Catalogue
from busilib.data.splits import Split, check_split
from busilib.errors import SplitError
from busilib.recipes import CLASSES

quick = settings(max_examples=12, deadline=None)
sizes = st.tuples(*[st.integers(15, 60)] * 3)
seeds = st.integers(0, 2**31)


def made(sizes=(40, 25, 20), pairs=0.2, masks=2, dropped=()):
    """Return a catalogue without files: a share of each class in groups of two; ``dropped`` maps image_id to a flag."""
    rows = []
    for label, size in zip(CLASSES, sizes, strict=True):
        for i in range(size):
            image_id = f"{label} ({i + 1})"
            names = tuple(f"{image_id}_mask{f'_{k}' if k else ''}" for k in range(1 + i % masks))
            rows.append(
                {
                    "image_id": image_id,
                    "label": label,
                    "path": Path(f"{image_id}.png"),
                    "mask_ids": names,
                    "mask_paths": tuple(Path(f"{name}.png") for name in names),
                    "group": f"{label} {i // 2 if i < pairs * size else size + i}",
                    "flags": (dropped[image_id],) if image_id in dict(dropped) else (),
                }
            )
    return Catalogue(pd.DataFrame(rows), "made")


def part(split, name):
    return set(split.table.loc[split.table["split"] == name, "file_id"])


def disjoint_and_complete(split, expected):
    parts = [part(split, name) for name in splits.PARTS]
    assert sum(map(len, parts)) == len(split.table) == len(set().union(*parts))
    assert set().union(*parts) == set(expected)


@quick
@given(sizes, seeds, st.booleans())
@example((15, 15, 22), 1, False)  # a draw without malignant
def test_paper_a(sizes, seed, stratified):
    scans = made(sizes)
    drawn = train_test_split(scans.table["label"], test_size=0.15, random_state=seed)[1]
    if not stratified and set(drawn) != set(CLASSES):
        with pytest.raises(SplitError, match=f"no {min(set(CLASSES) - set(drawn))} in the test set"):
            splits.paper_a(scans, seed, stratified)
        return
    split = splits.paper_a(scans, seed, stratified)
    disjoint_and_complete(split, scans.table["image_id"])
    assert len(part(split, "test")) == ceil(0.15 * sum(sizes)) and not part(split, "validation")
    assert split.part("validation").equals(split.part("test")), "paper A validates on its test set"
    assert split.overlaps["validation = test"] == ceil(0.15 * sum(sizes)) and split.overlaps["image"] == 0
    if stratified:
        test = split.part("test")["label"].value_counts()
        share = ceil(0.15 * sum(sizes)) / sum(sizes)  # 15 %, rounded up to a whole scan
        assert all(abs(test[label] - share * n) < 1 + 1e-9 for label, n in zip(CLASSES, sizes, strict=True))


@quick
@given(sizes, seeds)
def test_paper_b(sizes, seed):
    scans = made(sizes)
    split = splits.paper_b(scans, seed)
    table = split.table
    disjoint_and_complete(split, [*scans.table["image_id"], *scans.table["mask_ids"].explode()])
    for _, rows in table.groupby("label"):
        n = len(rows)
        counts = rows["split"].value_counts()
        assert counts["test"] == int(0.1 * n) and counts["validation"] == int(0.2 * (n - counts["test"]))
        # Keras' validation_split takes the first of the file names, sorted as text.
        rest = rows[rows["split"] != "test"]
        names = sorted(rest["file_id"] + ".png")
        first = names[: counts["validation"]]
        assert sorted(rest.loc[rest["split"] == "validation", "file_id"] + ".png") == first
    images = table.groupby("image_id")["split"].nunique()
    assert split.overlaps["image"] == (images > 1).sum()


@quick
@given(sizes, seeds, st.integers(0, 4))
def test_clean_keeps_groups_together(sizes, seed, fold):
    scans = made(sizes, pairs=0.6)
    split = splits.clean(scans, fold, 5, seed)
    disjoint_and_complete(split, scans.table["image_id"])
    assert (split.table.groupby("group")["split"].nunique() == 1).all()
    assert split.declared == () and split.overlaps == {"image": 0, "group": 0}
    assert set(split.table["kind"]) == {"scan"}
    counts = split.counts()
    assert (counts[list(splits.PARTS)] > 0).all(axis=None), "every class is in every part"


def test_clean_drops_objections_and_nothing_else():
    flags = {
        "benign (1)": "axilla",
        "benign (9)": "needle",
        "malignant (2)": "contradictory",
        "normal (3)": "objection",
    }
    scans = made(dropped=flags | {"benign (5)": "marks", "normal (6)": "colour"})
    ids = set(splits.clean(scans).table["file_id"])
    assert set(scans.table["image_id"]) - ids == set(flags)
    assert len(splits.paper_a(scans).table) == len(scans.table), "the papers drop nothing"


def test_folds_cover_everything_once():
    scans = made(pairs=0.5)
    tested = [image_id for fold in range(4) for image_id in part(splits.clean(scans, fold, 4), "test")]
    assert sorted(tested) == sorted(scans.table["image_id"])
    with pytest.raises(ValueError, match="fold 4 does not exist: with 4 folds choose 0 to 3"):
        splits.clean(scans, 4, 4)


@pytest.mark.parametrize("make", [splits.paper_a, splits.paper_b, lambda scans, seed: splits.clean(scans, seed=seed)])
def test_the_seed_fixes_the_split(make):
    scans = made()
    assert make(scans, seed=3).sha256 == make(scans, seed=3).sha256 != make(scans, seed=4).sha256


def test_paper_b_does_not_depend_on_the_order_of_the_catalogue():
    # The other two do; a catalogue is always sorted (test_catalogue.py), so a data set has one split a seed.
    scans = made()
    turned = Catalogue(scans.table.sample(frac=1, random_state=0).reset_index(drop=True), "made")
    assert splits.paper_b(turned, 5).sha256 == splits.paper_b(scans, 5).sha256


def test_hash_is_of_the_parts_and_not_of_the_order():
    split = splits.paper_b(made())
    assert replace(split, table=split.table.iloc[::-1]).sha256 == split.sha256
    other = split.table.copy()
    i = other.index[other["split"] == "test"][0]
    other.loc[i, "split"] = "train"
    assert replace(split, table=other).sha256 != split.sha256


def test_counts_have_totals_in_class_order():
    counts = splits.paper_b(made()).counts()
    assert counts.index.tolist() == [*CLASSES, "total"]
    assert counts.columns.tolist() == [*splits.PARTS, "total"]
    assert counts.loc["total", "total"] == counts.loc[list(CLASSES), list(splits.PARTS)].sum(axis=None)


def test_make_chooses_and_refuses():
    scans = made()
    assert splits.make("A", "paper", scans).name == "paper A" and splits.make("B", "paper", scans).name == "paper B"
    assert splits.make("B", "clean", scans, fold=2).name == "clean, fold 3 of 5"
    for arguments in (("C", "paper", scans), ("A", "dirty", scans)):
        with pytest.raises(ValueError, match="choose 'A' or 'B', and 'paper' or 'clean'"):
            splits.make(*arguments)
    with pytest.raises(ValueError, match="part 'dev' does not exist; choose one of: train, validation, test"):
        splits.make("A", "paper", scans).part("dev")


def handmade(*rows, declared=()):
    """Return a split of one's own from (file_id, image_id, group, split)."""
    table = pd.DataFrame(rows, columns=["file_id", "image_id", "group", "split"])
    return Split("", "mine", 0, 1, 0, table.assign(kind="scan", label="benign", path="x.png"), declared)


THREE = [("a", "a", "1", "train"), ("b", "b", "2", "validation"), ("c", "c", "3", "test")]


@pytest.mark.parametrize(
    ("rows", "declared", "message"),
    [
        ([*THREE, ("a", "a", "1", "test")], ("image", "group"), "1 files appear twice, the first is 'a'"),
        ([*THREE, ("a", "a", "1", "train")], (), "1 files appear twice"),
        (
            [*THREE, ("a_mask", "a", "1", "test")],
            (),
            "1 images lie in two sets, for instance a in train, a_mask in test",
        ),
        ([*THREE, ("a_mask", "a", "1", "test")], ("group",), "declare the overlap 'image'"),
        (
            [*THREE, ("d", "d", "1", "test")],
            ("image",),
            "1 groups lie in two sets, for instance a in train, d in test",
        ),
        ([*THREE, ("d", "d", "4", "dev")], (), r"Unknown sets \['dev'\]; a file is in one of: train"),
        (THREE[:2], (), "The test set is empty"),
        (THREE[1:], (), "The train set is empty"),
        ([THREE[0], THREE[2]], (), "The validation set is empty. Validating on the test set must be declared"),
        (THREE, ("validation = test",), "It declares 'validation = test' and has a validation set as well"),
        (THREE[:1], ("validation = test",), "The test set is empty"),
    ],
)
def test_refused(rows, declared, message):
    with pytest.raises(SplitError, match=message):
        check_split(handmade(*rows, declared=declared))


def test_declared_overlaps_are_counted():
    rows = [*THREE, ("a_mask", "a", "1", "test"), ("d", "d", "2", "train")]
    assert check_split(handmade(*rows, declared=("image", "group"))).overlaps == {"image": 1, "group": 2}
    assert check_split(handmade(*THREE)).overlaps == {"image": 0, "group": 0}


def test_a_split_says_what_it_is():
    split = splits.clean(made(), 1, 4, seed=7)
    said = split.identity()
    assert said["name"] == split.name == "clean, fold 2 of 4"
    assert [said[key] for key in ("paper", "protocol", "fold", "folds", "seed")] == ["", "clean", 1, 4, 7]
    assert sum(said["files"].values()) == len(split.table) and said["sha256"] == split.sha256
    half = replace(splits.paper_a(made()), variant="50 % of the training")
    assert half.name == "paper A, 50 % of the training" and half.identity()["variant"] == "50 % of the training"
    assert half.identity()["declared"] == ["group", "validation = test"] and half.identity()["overlaps"]


@pytest.mark.parametrize("sizes", [(20, 12, 1), (20, 12, 4), (1, 20, 12)])
def test_a_set_without_a_class_is_refused_in_a_sentence(sizes):
    refusals = []
    for draw in (splits.paper_a, splits.paper_b, lambda scans, seed: splits.clean(scans, seed % 5, seed=seed)):
        for seed in range(4):
            try:
                split = draw(made(sizes, masks=1), seed)
                assert (split.counts() > 0).all(axis=None)
            except SplitError as error:
                refusals.append(str(error))
    assert len(refusals) >= 4
    assert all("set; files per class: " in one or "too few images of some class (" in one for one in refusals)


def test_two_classes_are_enough():
    for split in (
        splits.paper_a(made((30, 20, 0))),
        splits.paper_b(made((30, 20, 0))),
        splits.clean(made((30, 20, 0))),
    ):
        assert split.counts().index.tolist() == ["benign", "malignant", "total"]


def test_plan_turns_the_protocol_into_recipe_and_split():
    scans = made()
    recipe, split = splits.plan("B-tuned", scans, seed=3, epochs=7)
    assert recipe == recipes.get("B-tuned", "quick", "paper", epochs=7)
    assert split.sha256 == splits.paper_b(scans, 3).sha256 and split.paper == "B"
    recipe, split = splits.plan("A-frozen", scans, "full", "clean", fold=2)
    assert recipe == recipes.get("A-frozen", "full", "clean")
    assert split.sha256 == splits.clean(scans, 2, recipes.profile_values("full")["folds"]).sha256
    with pytest.raises(ValueError, match="FOLD is for PROTOCOL='clean'"):
        splits.plan("A-frozen", scans, fold=2)


def test_busi_paper_a(busi):
    counts = splits.paper_a(busi).counts()
    assert counts.loc["total", ["train", "test"]].tolist() == [663, 117]
    assert counts.loc[list(CLASSES), "test"].tolist() == [66, 31, 20]
    loose = splits.paper_a(busi, stratified=False).counts()
    assert loose.loc["total", ["train", "test"]].tolist() == [663, 117]


def test_busi_paper_b(busi):
    counts = splits.paper_b(busi).counts()
    assert counts["total"].tolist() == [891, 421, 266, 1578]
    assert counts["train"].tolist() == [642, 304, 192, 1138]
    assert counts["validation"].tolist() == [160, 75, 48, 283]
    assert counts["test"].tolist() == [89, 42, 26, 157]


def test_busi_clean(busi):
    tested = []
    for fold in range(5):
        split = splits.clean(busi, fold)
        assert (split.table.groupby("group")["split"].nunique() == 1).all()
        tested += part(split, "test")
    flags = busi.table.set_index("image_id")["flags"]
    fine = [i for i, row in flags.items() if not {"axilla", "needle", "contradictory"} & set(row)]
    assert sorted(tested) == sorted(fine) and len(fine) < 780
