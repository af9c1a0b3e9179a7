"""The made-up scans: their layout, what is planted in them, and whether class signs are where the truth says."""

import csv
import hashlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from busilib.data import phantom
from busilib.errors import DataError

N = 60
SHARES = {"benign": 34, "malignant": 16, "normal": 10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return phantom.make(tmp_path_factory.mktemp("phantom") / "made", N, seed=3)


@pytest.fixture(scope="module")
def rows(folder):
    with open(folder / "phantom.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def clear_scans():
    return {label: [phantom.draw(label, [5, k]) for k in range(10)] for label in ("benign", "malignant")}


def hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_numbers_of_this_version_stay_the_same():
    """Another numpy may move a grey level; another drawing needs another GENERATOR_VERSION."""
    scan = phantom.draw("malignant", [5, 3], marks="calipers")
    assert phantom.GENERATOR_VERSION == 2
    assert scan.pixels.shape == (238, 356) and scan.pixels.mean() == pytest.approx(49.611, abs=0.01)


def pixels(folder, row, suffix=""):
    return np.array(Image.open(folder / row["label"] / f"{row['image_id']}{suffix}.png").convert("RGB"))


def box(mask):
    down, across = np.nonzero(mask)
    return down.min(), down.max(), across.min(), across.max()


def test_layout_is_that_of_busi(folder, rows):
    assert sorted(path.name for path in folder.iterdir()) == [
        "benign",
        "malignant",
        "normal",
        "phantom.csv",
        "phantom.json",
    ]
    for label, count in SHARES.items():
        names = {path.name for path in (folder / label).iterdir()}
        scans = {name for name in names if "_mask" not in name}
        assert scans == {f"{label} ({k}).png" for k in range(1, count + 1)}
        assert {name.replace(".png", "_mask.png") for name in scans} <= names
    assert Counter(row["label"] for row in rows) == SHARES
    assert [row["image_id"] for row in rows[:2]] == ["benign (1)", "benign (2)"]


def test_sizes_and_masks(folder, rows):
    sizes = set()
    for row in rows:
        scan = pixels(folder, row)
        height, width = scan.shape[:2]
        sizes.add((width, height))
        assert (int(row["width"]), int(row["height"])) == (width, height)
        assert 190 <= width <= 400 and 190 <= height <= 400
        for path in (folder / row["label"]).glob(f"{row['image_id']}_mask*.png"):
            mask = np.array(Image.open(path))
            assert mask.shape == (height, width) and set(np.unique(mask)) <= {0, 255}
            assert mask.any() == (row["label"] != "normal"), path.name
    assert len(sizes) > 30


def test_same_seed_same_files_whatever_the_jobs(tmp_path):
    one, two = phantom.make(tmp_path / "one", 12, 8, jobs=1), phantom.make(tmp_path / "two", 12, 8, jobs=3)
    other = phantom.make(tmp_path / "other", 12, 9)
    assert hashes(one) == hashes(two)
    assert not set(hashes(one).values()) & {v for k, v in hashes(other).items() if "_mask" not in k}
    assert all(sum(1 for name in hashes(one) if name.startswith(label)) >= 4 for label in phantom.CLASSES)


def test_siblings_share_a_group_and_look_alike(folder, rows):
    groups = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    families = [group for group in groups.values() if len(group) > 1 and len({row["label"] for row in group}) == 1]
    assert 0.38 * N <= sum(len(group) for group in families) <= 0.48 * N, "as many as in BUSI: 346 of 780"
    assert all(len(group) <= 3 for group in families)
    assert any(row["mirrored"] == "True" for row in rows)
    for group in families:
        small = []
        for row in group:
            scan = pixels(folder, row)[:, :, 1]
            scan = scan[:, ::-1] if row["mirrored"] == "True" else scan
            small.append(np.array(Image.fromarray(scan).resize((24, 24), Image.BOX), float).ravel())
        assert np.corrcoef(small)[0, 1] > 0.75, group[0]["image_id"]
        assert len({pixels(folder, row).tobytes() for row in group}) == len(group)


def test_one_picture_under_two_labels(folder, rows):
    seen = {}
    for row in rows:
        seen.setdefault(pixels(folder, row).tobytes(), []).append(row)
    twins = [pair for pair in seen.values() if len(pair) > 1]
    assert len(twins) == 1
    assert {row["label"] for row in twins[0]} == {"benign", "malignant"}
    assert len({row["group"] for row in twins[0]}) == 1


def test_marks_masks_and_colour_are_planted(folder, rows):
    marked = Counter(row["label"] for row in rows if row["marks"])
    assert {row["marks"] for row in rows} <= {"", "calipers", "text", "calipers;text"}
    assert abs(marked["benign"] / 34 - 0.40) < 0.05
    assert abs(marked["malignant"] / 16 - 0.25) < 0.07
    assert marked["normal"] == 1
    several = Counter(path.parent.name for path in folder.rglob("*_mask_1.png"))
    assert several["benign"] >= 1 and several["malignant"] == 1 and several["normal"] == 0
    coloured = [row for row in rows if np.ptp(pixels(folder, row), axis=2).any()]
    assert 1 <= len(coloured) <= 4
    assert all(row["colour"] == "True" for row in coloured)


def test_benign_lesions_are_wider_and_smoother(clear_scans):
    ratios, solid = {}, {}
    for label, scans in clear_scans.items():
        boxes = [box(scan.mask) for scan in scans]
        ratios[label] = np.mean([np.log((right - left) / (low - high)) for high, low, left, right in boxes])
        solid[label] = np.mean([scan.mask[scan.mask > 0].size / area(box(scan.mask)) for scan in scans])
    assert ratios["benign"] > ratios["malignant"] + 0.2
    assert solid["benign"] > solid["malignant"] + 0.05


def area(corners):
    high, low, left, right = corners
    return (low - high + 1) * (right - left + 1)


def test_echo_behind_the_lesion_has_the_sign_of_the_truth():
    agreed = []
    for label in ("benign", "malignant"):
        for k in range(22):
            scan = phantom.draw(label, [6, k])
            if abs(scan.truth["behind_db"]) < 6:
                continue
            _, low, left, right = box(scan.mask)
            span, below = right - left, scan.pixels[low + 6 : low + 46].astype(float)
            behind = below[:, left + span // 3 : right - span // 3].mean()
            beside = np.r_[below[:, max(left - span, 0) : left].ravel(), below[:, right : right + span].ravel()].mean()
            agreed.append((behind > beside) == (scan.truth["posterior"] == "enhancement"))
    assert len(agreed) >= 15
    assert np.mean(agreed) >= 0.85


def test_truth_finds_the_lesion():
    for label in ("benign", "malignant"):
        for mirrored in (False, True):
            scan = phantom.draw(label, 11, copy=1, mirrored=mirrored)
            assert scan.mask[round(scan.truth["centre_y"]), round(scan.truth["centre_x"])] == 255
    normal = phantom.draw("normal", 11)
    assert not normal.mask.any() and normal.truth["lesions"] == 0 and "kind" not in normal.truth


def test_refuses_what_it_cannot_do(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(DataError, match="mine exists and is not empty"):
        phantom.make(tmp_path / "mine", 12)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    assert (phantom.make(tmp_path / "empty", 12) / "phantom.csv").is_file()
    with pytest.raises(DataError, match="At least 12 phantoms"):
        phantom.make(tmp_path / "few", 5)
    with pytest.raises(DataError, match="benign, malignant, normal, not 'cyst'"):
        phantom.draw("cyst", 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "mine"]


def test_cached_makes_once(tmp_path, monkeypatch):
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path))
    folder = phantom.cached(12, 1)
    assert folder == tmp_path / "phantoms" / f"phantom-n12-seed1-v{phantom.GENERATOR_VERSION}"
    monkeypatch.setattr(phantom, "make", lambda *_: pytest.fail("made a second time"))
    assert phantom.cached(12, 1) == folder
