"""shapes: known figures have known numbers; and on BUSI the forest gives the printed matrix."""

import numpy as np
import pytest
from PIL import Image

from busilib import masks_alone, published, stored
from busilib.data import shapes


def measure(mask, **options):
    return dict(zip(shapes.FEATURES, shapes.features(mask, **options), strict=True))


def test_a_rectangle():
    mask = np.zeros((40, 40), bool)
    mask[10:20, 5:25] = True
    found = measure(mask)
    assert (found["area"], found["extent"], found["solidity"], found["parts"]) == (200, 1, 1, 1)
    assert found["height_to_width"] == 0.5 and (found["row"], found["column"]) == (14.5, 14.5)


def test_a_disc_is_rounder_than_a_star():
    rows, columns = np.mgrid[:81, :81] - 40
    disc = rows**2 + columns**2 < 30**2
    star = np.hypot(rows, columns) < 20 + 10 * np.sin(6 * np.arctan2(rows, columns))
    assert measure(disc)["circularity"] > measure(star)["circularity"] + 0.2
    assert measure(disc)["solidity"] > measure(star)["solidity"] + 0.1


def test_two_parts_as_one_region_or_the_largest():
    mask = np.zeros((40, 40), bool)
    mask[2:12, 2:12] = mask[30:34, 30:34] = True
    union, largest = measure(mask), measure(mask, region="largest")
    assert union["parts"] == largest["parts"] == 2
    assert (union["area"], largest["area"]) == (116, 100)
    assert union["solidity"] < largest["solidity"] == 1
    with pytest.raises(ValueError, match="'union' or 'largest'"):
        shapes.features(mask, region="both")


def test_a_black_mask_is_all_zeros_and_masks_are_joined(tmp_path):
    assert shapes.features(np.zeros((8, 8), bool)) == (0.0,) * 12
    for k, box in enumerate(((0, 0, 16, 16), (48, 48, 64, 64))):
        image = Image.new("L", (64, 64))
        image.paste(255, box)
        image.save(tmp_path / f"{k}.png")
    mask = shapes.small_mask([tmp_path / "0.png", tmp_path / "1.png"], size=16)
    assert mask[0, 0] and mask[15, 15] and not mask[8, 8]


def test_table_has_a_row_an_image(phantoms):
    table = shapes.table(phantoms)
    assert table.shape == (len(phantoms.table), 12) and list(table.index) == phantoms.table["image_id"].tolist()
    normal = (phantoms.table["label"] == "normal").to_numpy()
    assert (table[normal] == 0).all(axis=None) and (table[~normal]["area"] > 0).all()


def test_the_scripts_split_is_what_it_says(phantoms):
    train, test = masks_alone.script_split(phantoms)
    assert sorted([*train, *test]) == list(range(len(phantoms.table)))
    assert not np.array_equal(np.sort(test), np.sort(masks_alone.script_split(phantoms, order="text")[1]))


def test_the_variants_on_busi_are_the_stored_ones(busi):
    """The forest part of lesson 07: the described variant and logistic regression, each as it is stored."""
    kept = stored.table("masks-alone").set_index(["variant", "seed"])["confusion"]
    features, split = shapes.table(busi), masks_alone.script_split(busi)
    assert masks_alone.confusion(busi, features, split, masks_alone.forest(0)).tolist() == published.A_CONFUSION
    assert kept["as described"].tolist() == [published.A_CONFUSION] * 5
    found = masks_alone.confusion(busi, features, split, masks_alone.regression())
    assert found.tolist() == kept["logistic regression", 0] == [[63, 3, 0], [5, 26, 0], [0, 0, 20]]


@pytest.mark.slow
def test_all_variants_on_busi_are_near_the_stored_ones(busi):
    kept = stored.table("masks-alone").set_index(["variant", "seed"])["right"]
    found = masks_alone.variants(busi).set_index(["variant", "seed"])["right"]
    assert (found.index == kept.index).all()
    assert (found - kept).abs().max() <= 1, "the forest's votes may differ by an image between versions"


@pytest.mark.slow
def test_the_base_rate_on_busi(busi):
    others = masks_alone.other_splits(busi, n=40)
    assert np.mean([m[2][2] == 20 and m[0][2] == m[1][2] == 0 for m in others["confusion"]]) > 0.9
    assert others["right"].between(100, 117).all()
