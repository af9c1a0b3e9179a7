"""duplicates: copies that were changed are detected, strangers are not, and groups join chains."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagehash import phash
from PIL import Image, ImageFilter

from busilib.data import catalogue, duplicates


def picture(seed, size=(200, 160)):
    """Return a smooth grey picture of its own, with a bright top, as a scan has."""
    rough = np.random.default_rng(seed).integers(0, 200, (9, 11)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC), dtype=float)
    return Image.fromarray((smooth * np.linspace(1.0, 0.4, size[1])[:, None]).astype(np.uint8))


def marked(image):
    copy = image.copy()
    for k in range(4):
        copy.paste(255, (60 + 20 * k, 70, 68 + 20 * k, 73))
    return copy


COPIES = {
    "the same": (lambda image: image, "none"),
    "cropped a little": (lambda image: image.crop((4, 3, 197, 158)), "none"),
    "brighter": (lambda image: image.point(lambda value: min(255, int(1.2 * value + 10))), "none"),
    "with marks": (marked, "none"),
    "smoothed": (lambda image: image.filter(ImageFilter.GaussianBlur(2)), "none"),
    "mirrored": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((99, 120)), "horizontal"),
    "upside down": (lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), "vertical"),
    "turned by 180°": (lambda image: image.transpose(Image.Transpose.ROTATE_180), "both"),
    "a quarter turn to the right": (lambda image: image.transpose(Image.Transpose.ROTATE_270), "left"),
    "a quarter turn to the left": (lambda image: image.transpose(Image.Transpose.ROTATE_90), "right"),
    "mirrored at the diagonal": (lambda image: image.transpose(Image.Transpose.TRANSPOSE), "diagonal"),
    "and at the other": (lambda image: image.transpose(Image.Transpose.TRANSVERSE).resize((90, 80)), "antidiagonal"),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_detected_among_strangers(kind):
    change, flipped = COPIES[kind]
    images = [np.asarray(picture(seed)) for seed in range(6)]
    images.insert(4, np.asarray(change(picture(2))))
    ((i, j, correlation, how),) = duplicates.near_duplicates(images)
    assert (i, j, how) == (2, 4, flipped)
    assert 0.7 <= correlation <= 1.0


def test_strangers_and_few_or_flat_images_are_left_alone():
    assert duplicates.near_duplicates([np.asarray(picture(seed)) for seed in range(100)]) == []
    assert duplicates.near_duplicates([]) == duplicates.near_duplicates([np.zeros((5, 5))]) == []
    assert duplicates.near_duplicates([np.zeros((50, 70)), np.full((64, 64), 9), np.asarray(picture(1))]) == []


def one_by_one(images, levels):
    """The pairs as near_duplicates says, each compared by itself: {(i, j): (correlation, flipped)}."""
    best = {}
    for flipped, (up, left) in (duplicates.FLIPS | duplicates.QUARTERS).items():
        for i, j in itertools.combinations(range(len(images)), 2):
            one, other = images[i], (images[j].T if flipped in duplicates.QUARTERS else images[j])[::up, ::left]
            apart = phash(Image.fromarray(one)) - phash(Image.fromarray(other))
            value = np.corrcoef(one.ravel(), other.ravel())[0, 1]
            if any(apart <= distance and value >= least for distance, least in levels):
                best[i, j] = max(best.get((i, j), (0, "")), (value, flipped))
    return best


@pytest.mark.parametrize("levels", [duplicates.LEVELS, ((30, 0.3), (10, 0.2)), ((64, 0.05),)])
def test_ruling_out_by_blocks_loses_no_pair(monkeypatch, levels):
    monkeypatch.setattr(duplicates, "BLOCK", 5)
    rng = np.random.default_rng(0)
    images = [np.asarray(picture(seed % 5, (64, 64))) for seed in range(9)]
    images = [
        np.clip(image + rng.normal(0, 3 * k, image.shape), 0, 255).astype(np.uint8) for k, image in enumerate(images)
    ]
    images += [rng.integers(0, 256, (64, 64)).astype(np.uint8)]  # all of it is left out by the means
    images += [images[2][:, ::-1], images[0][::-1], np.triu(images[3], 10)]
    wanted = one_by_one(images, levels)
    pairs = {(i, j): (value, how) for i, j, value, how in duplicates.near_duplicates(images, levels)}
    assert pairs.keys() == wanted.keys()
    for pair, (value, how) in wanted.items():
        assert pairs[pair][0] == pytest.approx(value, abs=1e-5) and pairs[pair][1] == how


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=15))
    ),
    st.randoms(),
)
def test_groups_join_chains_in_any_order(case, random):
    n, pairs = case
    labels = duplicates.groups(n, pairs)
    plain = list(range(n))  # spread the smaller number until nothing changes
    for _ in range(n):
        for i, j in pairs:
            plain[i] = plain[j] = min(plain[i], plain[j])
    order = {number: k for k, number in enumerate(dict.fromkeys(plain))}
    assert labels.tolist() == [order[number] for number in plain]
    shuffled = [pair[::-1] if random.random() < 0.5 else pair for pair in pairs]
    random.shuffle(shuffled)
    assert duplicates.groups(n, shuffled).tolist() == labels.tolist()


def test_siblings_among_phantoms_are_detected_without_their_truth(phantoms):
    """Most siblings, and no strangers, in the pixels alone."""
    truth = pd.read_csv(phantoms.table["path"][0].parents[1] / "phantom.csv").set_index("image_id")["group"]
    pairs = list(zip(phantoms.pairs["image_a"], phantoms.pairs["image_b"], strict=True))
    assert all(truth[one] == truth[other] for one, other in pairs)
    siblings = sum(n * (n - 1) // 2 for n in truth.value_counts())
    assert len(pairs) >= 0.6 * siblings


def test_pairs_of_busi(busi):
    """226 of the published list's pairs, and nine that it misses."""
    listed = catalogue.facts().set_index("image_id")["group"]
    assert len(busi.pairs) == 235 and not set(busi.pairs.flipped) & set(duplicates.QUARTERS)
    same = [listed[row.image_a] == listed[row.image_b] for row in busi.pairs.itertuples()]
    assert sum(same) == 226
    looked_at = {"malignant (3)", "malignant (40)", "benign (435)"}
    new = busi.pairs[~np.array(same)]
    assert all({row.image_a, row.image_b} & looked_at for row in new.itertuples())
