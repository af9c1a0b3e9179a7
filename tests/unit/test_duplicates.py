"""duplicates: what is found, what is left alone, and how pairs become groups."""

import itertools

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from imagehash import phash
from PIL import Image, ImageFilter

from busilib.data import duplicates


def picture(seed, size=(200, 160)):
    """Return a smooth grey PIL image (width, height) with a bright top, as a scan has."""
    rough = np.random.default_rng(seed).integers(0, 200, (9, 11)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC), dtype=float)
    shade = np.linspace(1.0, 0.4, size[1])[:, None]
    return Image.fromarray((smooth * shade).astype(np.uint8))


def marked(image):
    copy = image.copy()
    for k in range(4):
        copy.paste(255, (60 + 20 * k, 70, 68 + 20 * k, 73))
    return copy


COPIES = {
    "the same": (lambda image: image, "none"),
    "resized": (lambda image: image.resize((131, 127)), "none"),
    "cropped a little": (lambda image: image.crop((4, 3, 197, 158)), "none"),
    "brighter": (lambda image: image.point(lambda value: min(255, int(1.2 * value + 10))), "none"),
    "with marks": (marked, "none"),
    "smoothed": (lambda image: image.filter(ImageFilter.GaussianBlur(2)), "none"),
    "mirrored": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "horizontal"),
    "upside down": (lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), "vertical"),
    "turned by 180°": (lambda image: image.transpose(Image.Transpose.ROTATE_180), "both"),
    "mirrored and resized": (
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((99, 120)),
        "horizontal",
    ),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found_among_strangers(kind):
    change, flipped = COPIES[kind]
    images = [np.asarray(picture(seed)) for seed in range(6)]
    images.insert(4, np.asarray(change(picture(2))))
    ((i, j, correlation, how),) = duplicates.near_duplicates(images)
    assert (i, j, how) == (2, 4, flipped)
    assert 0.7 <= correlation <= 1.0


def test_strangers_are_left_alone():
    assert duplicates.near_duplicates([np.asarray(picture(seed)) for seed in range(100)]) == []


def test_few_or_flat_images():
    assert duplicates.near_duplicates([]) == []
    assert duplicates.near_duplicates([np.zeros((5, 5))]) == []
    assert duplicates.near_duplicates([np.zeros((50, 70)), np.full((64, 64), 9), np.asarray(picture(1))]) == []


def test_levels_decide():
    images = [np.asarray(picture(1)), np.asarray(marked(picture(1)))]
    assert duplicates.near_duplicates(images, levels=((64, 0.5),))
    assert not duplicates.near_duplicates(images, levels=((64, 0.9999),))


def plain(images, levels):
    """The pairs as near_duplicates says, each compared by itself: {(i, j): (correlation, flipped)}."""
    best = {}
    for flipped, (up, left) in duplicates.FLIPS.items():
        for i, j in itertools.combinations(range(len(images)), 2):
            one, other = images[i], images[j][::up, ::left]
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
    images += [images[2][:, ::-1], images[0][::-1], np.triu(np.full((64, 64), 200, np.uint8), 10)]
    wanted = plain(images, levels)
    found = {(i, j): (value, how) for i, j, value, how in duplicates.near_duplicates(images, levels)}
    assert found.keys() == wanted.keys()
    for pair, (value, how) in wanted.items():
        assert found[pair][0] == pytest.approx(value, abs=1e-5)
        assert found[pair][1] == how


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 8, 64, 4096]), st.floats(0, 80))
def test_the_bound_is_never_below_the_correlation(seed, waves, noise):
    """On pictures of few waves, of many, and with little or much that the few waves leave out."""
    rng = np.random.default_rng(seed)
    rough = rng.normal(0, 1, (6, 4096)) * (rng.random(4096) < waves / 4096)
    smooth = scipy.fft.idctn(rough.reshape(6, 64, 64), axes=(1, 2), norm="ortho")
    images = 128 + 40 * smooth / max(smooth.std(), 1e-9) + rng.normal(0, noise, smooth.shape)
    images = np.clip(images, 0, 255).astype(np.uint8)
    pixels, coarse = duplicates._normalised(images), duplicates._coarse(images)
    assert (coarse @ coarse.T + duplicates.ROUNDING >= pixels @ pixels.T).all()


PAIRS = st.integers(1, 12).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=15))
)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.randoms())
def test_groups_join_chains_in_any_order(case, random):
    n, pairs = case
    labels = duplicates.groups(n, pairs)
    # The plain way: spread the smaller number until nothing changes.
    plain = list(range(n))
    for _ in range(n):
        for i, j in pairs:
            plain[i] = plain[j] = min(plain[i], plain[j])
    order = {number: k for k, number in enumerate(dict.fromkeys(plain))}
    assert labels.tolist() == [order[number] for number in plain]
    shuffled = [pair[::-1] if random.random() < 0.5 else pair for pair in pairs]
    random.shuffle(shuffled)
    assert duplicates.groups(n, shuffled).tolist() == labels.tolist()


def test_phantoms_keep_their_siblings_together(tmp_path):
    """The finder alone, without the truth beside the phantoms: most siblings found, no strangers joined."""
    import pandas as pd

    from busilib.data import phantom

    folder = phantom.make(tmp_path / "made", n=36, seed=3)
    truth = pd.read_csv(folder / "phantom.csv", keep_default_na=False)
    paths = [folder / label / f"{name}.png" for label, name in zip(truth.label, truth.image_id, strict=True)]
    images = [np.asarray(Image.open(path).convert("L")) for path in paths]
    found = {(i, j) for i, j, *_ in duplicates.near_duplicates(images)}
    group = truth.group.tolist()
    siblings = {(i, j) for i in range(36) for j in range(i + 1, 36) if group[i] == group[j]}
    assert found <= siblings
    assert len(found) >= 0.6 * len(siblings)
