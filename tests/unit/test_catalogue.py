"""catalogue and files: small made folders, each kind of bad input, identity, the cache, and the real BUSI."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from busilib.data import catalogue, images, load, phantom, splits
from busilib.errors import DataError
from busilib.recipes import CLASSES
from busitools import check
from tests.unit.test_images import deep_colour


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path_factory.mktemp("cache")))


def noise(seed, size=(24, 20)):
    """Return a grey PIL image of size (width, height) that resembles no other seed's."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, size[::-1], dtype=np.uint8))


def lesion(size=(24, 20), value=255, left=5):
    mask = np.zeros(size[::-1], np.uint8)
    mask[5:10, left : left + 5] = value
    return Image.fromarray(mask)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def make(root, images=2, masks=1, labels=CLASSES):
    """Write a small data set: ``images`` per class, each with ``masks`` masks; black ones for normal."""
    for k, label in enumerate(labels):
        for number in range(1, images + 1):
            stem = root / label / f"{label} ({number})"
            save(stem.with_name(stem.name + ".png"), noise(100 * k + number))
            for m in range(masks):
                mask = lesion(value=0 if label == "normal" else 255)
                save(stem.with_name(f"{stem.name}_mask{f'_{m}' if m else ''}.png"), mask)
    return root


def refused(root):
    with pytest.raises(DataError) as caught:
        catalogue.read(root)
    return str(caught.value)


# ---- good folders


def test_the_table_keeps_the_contract(tmp_path):
    scans = catalogue.read(make(tmp_path / "clinic", images=11, masks=2))
    assert (scans.name, scans.kind, scans.made) == ("clinic", "folder", {})
    assert scans.classes == CLASSES
    assert scans.table.image_id.tolist()[:3] == ["benign (1)", "benign (2)", "benign (3)"]
    assert scans.table.image_id.tolist()[9:12] == ["benign (10)", "benign (11)", "malignant (1)"]
    first = scans.table.iloc[0]
    assert first.path == (tmp_path / "clinic/benign/benign (1).png").resolve()
    assert [path.name for path in first.mask_paths] == ["benign (1)_mask.png", "benign (1)_mask_1.png"]
    assert first.mask_ids == ("benign (1)_mask", "benign (1)_mask_1")
    assert (first.width, first.height) == (24, 20)
    assert first.pixel_sha256 == hashlib.sha256(noise(1).convert("RGB").tobytes()).hexdigest()
    assert scans.table["flags"].tolist() == [()] * 33
    assert scans.table.group.tolist() == [f"g{k:04d}" for k in range(1, 34)]
    assert scans.counts().loc["total"].to_dict() == {"images": 33, "masks": 66, "files": 99}
    assert scans.warnings == ()


def test_two_classes_and_no_masks(tmp_path):
    scans = catalogue.read(make(tmp_path, masks=0, labels=("benign", "malignant")))
    assert scans.classes == ("benign", "malignant")
    assert scans.counts().files.to_dict() == {"benign": 2, "malignant": 2, "total": 4}
    assert scans.warnings == (
        "There are no images of the class normal.",
        "4 images without a mask: benign (1), benign (2), malignant (1), malignant (2).",
    )
    report = check.report(scans)
    assert report.count("warning: ") == 3 and "warning: The lessons refuse it: " in report  # two scans per class


def test_unusual_masks_are_warnings(tmp_path):
    make(tmp_path, images=3)
    (tmp_path / "benign/benign (2)_mask.png").unlink()
    save(tmp_path / "malignant/malignant (3)_mask.png", lesion(value=0))
    save(tmp_path / "normal/normal (1)_mask.png", lesion())
    assert catalogue.read(tmp_path).warnings == (
        "1 image without a mask: benign (2).",
        "2 images with a mask that does not fit (normal: all black): malignant (3), normal (1).",
    )


def test_a_mask_that_covers_most_of_its_scan_is_named(tmp_path):
    make(tmp_path, images=3, labels=("benign", "malignant"))
    save(tmp_path / "benign/benign (2)_mask.png", ImageOps.invert(lesion()))
    assert catalogue.read(tmp_path).warnings == (
        "There are no images of the class normal.",
        "1 image with a mask that covers most of it (is it inverted?): benign (2).",
    )


def test_a_mask_in_the_alpha_channel_counts_as_it_is_drawn(tmp_path):
    make(tmp_path)
    plain = catalogue.read(tmp_path).table
    for name in ("benign (1)", "normal (1)"):
        path = tmp_path / name.split()[0] / f"{name}_mask.png"
        save(path, Image.merge("LA", (Image.new("L", (24, 20), 255), Image.open(path))))
    scans = catalogue.read(tmp_path)
    assert scans.table.mask_sha256[0] == plain.mask_sha256[0] and images.mask_union(scans.table.iloc[0]).sum() == 25
    # an alpha that is 0 everywhere does not vary: the white colours count, and the warnings say so
    assert scans.warnings == (
        "1 image with a mask that does not fit (normal: all black): normal (1).",
        "1 image with a mask that covers most of it (is it inverted?): normal (1).",
    )


def test_a_folder_that_was_augmented_before_it_came(tmp_path):
    make(tmp_path, images=12, masks=0, labels=("benign", "malignant"))
    for k, end in enumerate(("-rotated1", "-zoomed", "_flipped2-rotated10")):
        for number in range(1, 11):
            save(tmp_path / f"benign/benign ({number}){end}.png", noise(1000 + 100 * k + number))
    scans = catalogue.read(tmp_path)
    table = scans.table.assign(stem=[name.partition(")")[0] for name in scans.table.image_id])
    assert (table.groupby("stem").group.nunique() == 1).all() and table.group.nunique() == 24
    assert any(one.startswith("30 images augmented from another, by the name") for one in scans.warnings)
    split = splits.clean(scans, folds=3)
    assert (
        split.table.assign(stem=table.set_index("image_id").stem.reindex(split.table.image_id).to_numpy())
        .groupby("stem")["split"]
        .nunique()
        .max()
        == 1
    )


def test_a_parent_and_what_systems_leave_behind(tmp_path):
    make(tmp_path / "Dataset_BUSI_with_GT")
    (tmp_path / "__MACOSX/benign").mkdir(parents=True)
    for name in (".DS_Store", "benign/Thumbs.db", "normal/desktop.ini", "benign/._benign (1).png", "README.txt"):
        (tmp_path / "Dataset_BUSI_with_GT" / name).write_bytes(b"x")
    assert len(catalogue.read(tmp_path).table) == 6
    make(tmp_path / "second")
    assert "holds 2 data sets: Dataset_BUSI_with_GT, second. Give the one" in refused(tmp_path)


def test_a_nested_folder_and_an_empty_one_are_in_nobodys_way(tmp_path):
    make(tmp_path / "download/archive/BUSI")
    (tmp_path / "download/archive/BUSI/benign/empty").mkdir()
    assert len(catalogue.read(tmp_path / "download").table) == 6


def test_the_same_names_in_two_classes(tmp_path):
    for k, label in enumerate(("benign", "malignant")):
        save(tmp_path / label / "001.png", noise(k))
        save(tmp_path / label / "001_mask.png", lesion())
    scans = catalogue.read(tmp_path)
    assert scans.table.image_id.tolist() == ["benign 001", "malignant 001"]
    assert scans.table.mask_ids.tolist() == [("benign 001_mask",), ("malignant 001_mask",)]
    assert "Images of different classes share their names" in scans.warnings[1]


def test_near_duplicates_contradictions_and_colour_are_flagged(tmp_path):
    make(tmp_path, images=3)
    smooth = noise(7, (8, 6)).resize((160, 120), Image.Resampling.BICUBIC)
    save(tmp_path / "benign/benign (4).png", smooth)
    save(tmp_path / "benign/benign (5).png", smooth.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((150, 110)))
    save(tmp_path / "normal/normal (4).png", smooth)
    tint = np.asarray(noise(8).convert("RGB")).copy()
    tint[3, 3] = (200, 10, 10)
    save(tmp_path / "malignant/malignant (4).png", Image.fromarray(tint))
    scans = catalogue.read(tmp_path)
    rows = scans.table.set_index("image_id")
    assert rows.group["benign (4)"] == rows.group["benign (5)"] == rows.group["normal (4)"]
    assert rows["flags"]["benign (5)"] == rows["flags"]["normal (4)"] == ("contradictory", "objection")
    assert rows["flags"]["malignant (4)"] == ("colour",)
    assert scans.pairs.flipped.tolist() == ["horizontal", "none", "horizontal"]
    assert check.summary(scans)["contradictory"] == [["benign (4)", "benign (5)", "normal (4)"]]


def test_the_hash_follows_pixels_names_and_masks(tmp_path):
    def now():
        return catalogue.read(tmp_path).sha256

    make(tmp_path)
    first = now()
    image = tmp_path / "benign/benign (1).png"
    save(image, Image.open(image).convert("RGB"))
    assert now() == first, "a re-encoded copy is the same data"
    save(tmp_path / "benign/benign (1)_mask.png", lesion(left=6))
    second = now()
    (tmp_path / "normal/normal (2).png").rename(tmp_path / "normal/normal (3).png")
    (tmp_path / "normal/normal (2)_mask.png").rename(tmp_path / "normal/normal (3)_mask.png")
    assert len({first, second, now()}) == 3


# ---- identity


def test_the_hash_covers_groups_flags_and_rows(tmp_path):
    scans = catalogue.read(make(tmp_path, images=3))
    flags = scans.table["flags"].copy()
    flags[0] = ("needle", "objection")
    regrouped = replace(scans, table=scans.table.assign(group=["g0001"] * 2 + scans.table.group.tolist()[2:]))
    flagged = replace(scans, table=scans.table.assign(flags=flags))
    relabelled = replace(scans, table=scans.table.assign(label=["malignant", *scans.table.label[1:]]))
    without = splits.without_objections(flagged)
    assert len(without.table) == 8 and without.table.image_id[0] == "benign (2)"
    hashes = [one.sha256 for one in (scans, regrouped, flagged, relabelled, without)]
    assert len(set(hashes)) == 5
    assert replace(scans, table=scans.table.iloc[::-1]).sha256 == scans.sha256 == scans.identity()["sha256"]


def test_phantoms_are_known_by_what_is_in_the_folder(tmp_path):
    scans = catalogue.read(phantom.make(tmp_path / "exp_demo", 12, seed=4))
    made = {"n": 12, "seed": 4, "version": phantom.GENERATOR_VERSION, "scanner": "first"}
    assert (scans.name, scans.kind, scans.made, scans.warnings) == ("exp_demo", "phantom", made, ())
    assert scans.identity() == {"name": "exp_demo", "kind": "phantom", "sha256": scans.sha256} | made
    truth = [line.split(",") for line in (tmp_path / "exp_demo/phantom.csv").read_text().splitlines()]
    marked = [line[0] for line in truth[1:] if line[truth[0].index("marks")]]
    assert scans.table.image_id[["marks" in flags for flags in scans.table["flags"]]].tolist() == marked
    assert catalogue.read(make(tmp_path / "phantoms_of_clinic")).kind == "folder"


def gone(root):
    for path in root.glob("normal/normal (1)*.png"):
        path.unlink()


ALTERED = {
    "benign (1)": lambda root: save(
        root / "benign/benign (1).png", noise(1, Image.open(root / "benign/benign (1).png").size)
    ),
    "malignant (1)": lambda root: (root / "malignant/malignant (1)_mask.png").unlink(),
    "benign (90)": lambda root: save(root / "benign/benign (90).png", noise(90)),
    "normal (1)": gone,
}


@pytest.mark.parametrize("image_id", ALTERED)
def test_altered_phantoms_are_a_folder_like_any_other(tmp_path, image_id):
    root = phantom.make(tmp_path / "phantom-n12-seed0", 12)
    ALTERED[image_id](root)
    scans = catalogue.read(root)
    assert (scans.kind, scans.made) == ("folder", {})
    assert any(f"does not count as phantoms: {image_id}." in warning for warning in scans.warnings)


def test_a_phantom_csv_that_cannot_be_read_makes_no_phantoms(tmp_path):
    root = phantom.make(tmp_path / "made", 12)
    (root / "phantom.json").write_text("{", encoding="utf-8")
    assert catalogue.read(root).kind == "folder"


# ---- bad folders, each with its message


def truncate(path):
    path.write_bytes(path.read_bytes()[:-60])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


SCAN, MASK = "benign/benign (1).png", "benign/benign (2)_mask.png"
DAMAGED = f"{SCAN}: unreadable, damaged or truncated"
DEEP = Image.fromarray(np.full((20, 24), 9000, np.uint16))
BAD = {
    "truncated": (lambda root: truncate(root / SCAN), DAMAGED),
    "one bit": (lambda root: flip_a_bit(root / SCAN), DAMAGED),
    "damaged mask": (lambda root: truncate(root / MASK), f"{MASK}: unreadable, damaged or truncated"),
    "text called png": (
        lambda root: (root / SCAN).write_text("hello"),
        f"{SCAN}: no PNG image, whatever its name says.",
    ),
    "jpeg called png": (
        lambda root: noise(1).save(root / SCAN, "JPEG"),
        f"{SCAN}: no PNG image, whatever its name says.",
    ),
    "16 bits": (lambda root: DEEP.save(root / SCAN), f"{SCAN}: more than 8 bits per channel"),
    "16 bits of colour": (
        lambda root: (root / SCAN).write_bytes(deep_colour(24, 20)),
        f"{SCAN}: more than 8 bits per channel, which would be cut. Save it with 8 bits, scaled to 0–255.",
    ),
    "a mask under another name": (
        lambda root: save(root / "benign/mark (2).png", lesion()),
        "benign/mark (2).png: two grey values, as a mask has. Name it X_mask.png if it is the mask of X.png",
    ),
    "a blurred mask under another name": (
        lambda root: save(root / "benign/b2.png", lesion((240, 200)).filter(ImageFilter.BoxBlur(1))),
        "benign/b2.png: two grey values, as a mask has.",
    ),
    "an empty picture": (lambda root: save(root / SCAN, Image.new("L", (24, 20), 9)), f"{SCAN}: two grey values"),
    "another format": (lambda root: noise(1).save(root / "benign/scan.jpg"), "benign/scan.jpg: no PNG image. Move it"),
    "no image": (
        lambda root: (root / "benign/benign (2).png").unlink(),
        f"{MASK}: a mask without its image benign (2)",
    ),
    "odd mask": (
        lambda root: save(root / "benign/benign (2)-mask2.png", lesion()),
        "2)-mask2.png: neither scan nor mask",
    ),
    "small mask": (lambda root: save(root / MASK, lesion((20, 24))), f"{MASK}: 20×24 pixels, but its image has 24×20."),
    "unknown class": (lambda root: save(root / "cyst/c.png", noise(1)), "cyst: an unknown class folder. Only benign"),
    "folder inside": (lambda root: save(root / "benign/left/a.png", noise(1)), "benign/left: a folder inside a class"),
    "two cases": (
        lambda root: save(root / "benign/Benign (1).png", noise(1)),
        "benign/benign (1).png: the name of another image but for",
    ),
    "two cases of png": (
        lambda root: noise(1).save(root / "benign/benign (1).PNG"),
        ": the name of another image but for upper and lower case",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_names_its_file(tmp_path, kind):
    spoil, message = BAD[kind]
    make(tmp_path)
    if "cases" in kind:
        (tmp_path / "x").touch()
        if (tmp_path / "X").exists():
            pytest.skip("this file system does not tell upper from lower case")
    spoil(tmp_path)
    said = refused(tmp_path)
    assert message in said and said.count("\n- ") == 1, said


def test_no_images_at_all(tmp_path):
    for label in CLASSES:
        (tmp_path / "data" / label).mkdir(parents=True)
    assert "holds no images at all. Put PNG files into benign, malignant, normal." in refused(tmp_path / "data")
    assert "holds no class folder: Benign. Give the one folder that holds benign, malignant, normal" in refused(
        make(tmp_path / "upper", labels=["Benign"])
    )
    (tmp_path / "empty").mkdir()
    assert "holds no class folder: nothing at all" in refused(tmp_path / "empty")
    assert "There is no folder" in refused(tmp_path / "absent")


def test_all_problems_at_once_but_no_endless_list(tmp_path):
    make(tmp_path, images=6)
    for path in (tmp_path / "benign").glob("*.png"):
        path.write_bytes(b"x")
    save(tmp_path / "cyst/c.png", noise(3))
    said = refused(tmp_path)
    assert said.count("\n- ") == 11 and said.endswith("- … and 3 more")
    assert "cyst: an unknown class folder" in said and "benign (1).png: no PNG image" in said


def test_the_report_speaks_to_people_and_programs(tmp_path):
    scans = catalogue.read(make(tmp_path / "clinic"))
    assert "Data set clinic" in check.report(scans) and "near-duplicate pairs: 0" in check.report(scans)
    data = json.loads(check.report(scans, as_json=True))
    assert data["counts"]["total"]["files"] == 12 and data["sha256"] == scans.sha256


# ---- the cache


def test_the_cache_answers_with_the_same_table(tmp_path, monkeypatch):
    make(tmp_path, masks=2)
    smooth = noise(7, (8, 6)).resize((160, 120), Image.Resampling.BICUBIC)
    save(tmp_path / "benign/benign (4).png", smooth)
    save(tmp_path / "benign/benign (5).png", smooth)
    fresh = catalogue.read(tmp_path)
    monkeypatch.setattr(Image, "open", None)
    again = catalogue.read(tmp_path)
    assert again.table.to_dict("records") == fresh.table.to_dict("records")
    assert list(again.table.dtypes) == list(fresh.table.dtypes)
    assert again.pairs.to_dict("records") == fresh.pairs.to_dict("records") and len(again.pairs) == 1
    assert (again.sha256, again.warnings) == (fresh.sha256, fresh.warnings)


CHANGES = {
    "pixels": lambda root: save(root / "benign/benign (1).png", noise(55)),
    "mask": lambda root: save(root / "benign/benign (1)_mask.png", lesion(left=9)),
    "new": lambda root: save(root / "benign/benign (9).png", noise(56)),
    "gone": lambda root: (root / "benign/benign (2)_mask.png").unlink(),
    "moved": lambda root: (root / "benign/benign (3).png").rename(root / "normal/benign (3).png"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_the_cache_is_never_stale(tmp_path, kind):
    make(tmp_path)
    save(tmp_path / "benign/benign (3).png", noise(54))
    before = catalogue.read(tmp_path)
    CHANGES[kind](tmp_path)
    after = catalogue.read(tmp_path)
    assert after.sha256 != before.sha256
    shutil.rmtree(os.environ["BUSILIB_CACHE"])
    assert catalogue.read(tmp_path).sha256 == after.sha256


def test_same_size_and_time_still_count_as_changed(tmp_path):
    make(tmp_path)
    path = tmp_path / "benign/benign (1).png"
    pixels = np.random.default_rng(1).integers(0, 256, (20, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(path, compress_level=0)
    before, stat = catalogue.read(tmp_path).sha256, path.stat()
    Image.fromarray(255 - pixels).save(path, compress_level=0)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert catalogue.read(tmp_path).sha256 != before


def test_a_damaged_cache_is_read_anew(tmp_path):
    make(tmp_path)
    before = catalogue.read(tmp_path).sha256
    (stored,) = Path(os.environ["BUSILIB_CACHE"], "catalogue").glob("*.pickle")
    stored.write_bytes(stored.read_bytes()[:200])
    assert catalogue.read(tmp_path).sha256 == before


# ---- what is known of BUSI


def test_the_facts_tables():
    images, masks = catalogue.facts(), catalogue.facts("masks")
    assert images.label.value_counts().to_dict() == {"benign": 437, "malignant": 210, "normal": 133}
    assert images.image_id.is_unique and masks.mask_id.is_unique and len(masks) == 798
    assert set(masks.image_id) == set(images.image_id) and images.group.nunique() == 587
    assert images.objection.value_counts().to_dict() == {"": 684, "axilla": 70, "multiclass": 19, "needle": 7}
    twins = images[images.pixel_sha256.duplicated(keep=False)]
    assert set(twins.image_id) == {"benign (433)", "malignant (145)"}


def test_differences_from_the_facts_are_named(monkeypatch, tmp_path):
    """A made folder stands for BUSI: its own hashes become the facts, then it is changed."""
    scans = catalogue.read(make(tmp_path, images=6))
    images = scans.table[["image_id", "label", "pixel_sha256"]].assign(
        group=[f"G{k}" for k in range(18)], objection="", annotation="", cross_class=0
    )
    images.loc[0, ["objection", "annotation"]] = ("axilla", "text")
    images.loc[1, "group"] = images.loc[2, "group"]
    masks = scans.table.explode(["mask_ids", "mask_sha256"])[["mask_ids", "image_id", "mask_sha256"]]
    masks.columns = ["mask_id", "image_id", "pixel_sha256"]
    monkeypatch.setattr(catalogue, "facts", lambda of="images": {"images": images, "masks": masks}[of])
    scans = catalogue.read(tmp_path)
    assert scans.name == scans.kind == "busi" and scans.warnings == ()
    assert scans.table["flags"][0] == ("axilla", "marks", "objection")
    assert scans.table.group[1] == scans.table.group[2]

    for kind in ("", "_mask"):
        (tmp_path / f"benign/benign (1){kind}.png").rename(tmp_path / f"benign/benign (41){kind}.png")
        (tmp_path / f"benign/benign (2){kind}.png").rename(tmp_path / f"normal/benign (2){kind}.png")
        (tmp_path / f"normal/normal (6){kind}.png").unlink()
    save(tmp_path / "malignant/malignant (1).png", noise(77))
    save(tmp_path / "malignant/malignant (9).png", noise(78))
    save(tmp_path / "malignant/malignant (2)_mask.png", lesion(left=9))
    save(tmp_path / "malignant/malignant (3)_mask_1.png", lesion(left=9))
    (tmp_path / "malignant/malignant (4)_mask.png").unlink()
    changed = catalogue.read(tmp_path)
    assert set(changed.warnings) == {
        "2 images without a mask: malignant (4), malignant (9).",
        "1 image with a mask that does not fit (normal: all black): benign (2).",
        "1 image of BUSI missing: normal (6).",
        "1 image with other pixels than in BUSI: malignant (1).",
        "1 image not in BUSI: malignant (9).",
        "2 images with another name or label than in BUSI: benign/benign (41) (was benign/benign (1)), "
        "normal/benign (2) (was benign/benign (2)).",
        "1 mask of BUSI missing: malignant (4)_mask.",
        "1 mask with other pixels than in BUSI: malignant (2)_mask.",
        "1 mask not in BUSI: malignant (3)_mask_1.",
    }
    assert changed.table.set_index("image_id")["flags"]["benign (41)"] == ("axilla", "marks", "objection")


def test_a_name_makes_no_busi_of_a_folder(tmp_path):
    make(tmp_path)
    assert catalogue.read(tmp_path).warnings == ()
    scans = catalogue.read(tmp_path, name="busi")
    assert scans.kind == "folder" and scans.warnings[0].startswith("774 images of BUSI missing: benign (3), ")


# ---- the real BUSI


def test_busi_has_its_counts(busi):
    assert busi.name == busi.kind == "busi" and busi.warnings == ()
    counts = busi.counts()
    assert counts.loc["total"].tolist() == [780, 798, 1578]
    assert counts.files.tolist()[:3] == [891, 421, 266]
    assert counts.images.tolist()[:3] == [437, 210, 133]


def test_busi_has_the_pixels_of_the_facts(busi):
    expected = catalogue.facts().set_index("image_id")
    assert (busi.table.set_index("image_id").pixel_sha256 == expected.pixel_sha256.reindex(busi.table.image_id)).all()
    assert (busi.table[["width", "height"]].to_numpy() == expected[["width", "height"]].to_numpy()).all()
    masks = busi.table.explode(["mask_ids", "mask_sha256"]).set_index("mask_ids").mask_sha256
    assert masks.to_dict() == catalogue.facts("masks").set_index("mask_id").pixel_sha256.to_dict()


def test_busi_groups_hold_the_published_ones_and_the_pairs_they_miss(busi):
    expected = catalogue.facts().set_index("image_id").reindex(busi.table.image_id)
    groups = busi.table.set_index("image_id").group
    assert (groups.groupby(expected.group).nunique() == 1).all()
    assert groups.nunique() == 584  # 587 less the three links that the list misses
    for one, others in (
        ("malignant (3)", [f"malignant ({k})" for k in range(4, 10)]),
        ("malignant (40)", ["malignant (39)", "malignant (42)"]),
        ("benign (435)", ["benign (433)", "malignant (145)"]),
    ):
        assert set(groups[[one, *others]]) == {groups[one]}


def test_busi_flags(busi):
    flags = busi.table.set_index("image_id")["flags"]
    total = {flag: sum(flag in one for one in flags) for flag in catalogue.FLAGS}
    assert (total["axilla"], total["needle"], total["colour"]) == (70, 7, 16)
    assert total["contradictory"] == 20  # 19 of the list, and benign (435)
    assert total["objection"] == 97
    for name in ("benign (433)", "malignant (145)", "benign (435)"):
        assert "contradictory" in flags[name]
    labels = busi.table.set_index("image_id").label
    shares = flags.map(lambda one: "marks" in one).groupby(labels).mean()
    assert (100 * shares).round(1).to_dict() == {"benign": 40.0, "malignant": 24.8, "normal": 6.0}


# Any layout, with labels.csv; and patients.


def labelled(root, rows, columns="file,label,mask,patient"):
    """Write images and masks in one folder each, and a labels.csv of ``rows`` (texts)."""
    for number in range(4):
        save(root / "images" / f"scan {number}.png", noise(number))
        save(root / "masks" / f"scan {number}.png", lesion())
    (root / "labels.csv").write_text("\n".join([columns, *rows]), encoding="utf-8-sig")
    return root


ROWS = [
    "images/scan 2.png,Malignant,masks/scan 2.png;masks/scan 3.png,P1",
    "images/scan 0.png,benign,,P1",
    "images/scan 1.png, benign ,masks/scan 1.png,P2",
]


def test_a_table_of_labels_makes_any_folder_a_data_set(tmp_path):
    scans = catalogue.read(labelled(tmp_path, ROWS))
    table = scans.table.set_index("image_id")
    assert table.index.tolist() == ["scan 0", "scan 1", "scan 2"] and scans.classes == ("benign", "malignant")
    assert table.mask_ids["scan 2"] == ("scan 2_mask", "scan 2_mask_1") and table.mask_ids["scan 0"] == ()
    assert table.patient.tolist() == ["P1", "P2", "P1"]
    assert table.group["scan 0"] == table.group["scan 2"] != table.group["scan 1"]
    labelled(tmp_path, [row.replace("P2", "P1") for row in ROWS])
    assert catalogue.read(tmp_path).table.group.nunique() == 1, "a changed table is read anew"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("images/gone.png,benign,,", "images/gone.png: labels.csv names it, and it is not there"),
        ("images/scan 3.png,cyst,,", "its label in labels.csv is 'cyst'. Only benign, malignant, normal are read"),
        ("../outside.png,benign,,", "outside.png: labels.csv names it, and it is not there"),
        ("images/scan 1.png,benign,,", "images/scan 1.png: labels.csv names it twice"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(row, words, tmp_path):
    save(tmp_path / "outside.png", noise(9))
    root = labelled(tmp_path / "data", [*ROWS, row])
    with pytest.raises(DataError, match=words.replace("(", r"\(")):
        catalogue.read(root)
    labelled(root, ["a,b"], columns="name,class")
    with pytest.raises(DataError, match="has no column file or label. It has: name, class"):
        catalogue.read(root)


def test_patients_come_from_a_table_in_the_folder(tmp_path):
    root = make(tmp_path / "data")
    (root / "patients.csv").write_text("image_id,patient\nbenign (1),A\nnormal (2),A\nbenign (9),B\n")
    scans = catalogue.read(root)
    table = scans.table.set_index("image_id")
    assert table.group["benign (1)"] == table.group["normal (2)"] and table.group.nunique() == 5
    assert table.patient["malignant (1)"] == "" and "1 row in patients.csv and not in the folder" in scans.warnings[0]
    assert "contradictory" not in table["flags"]["benign (1)"], "a patient may have scans of several classes"
    (root / "patients.csv").write_text("image_id,patient\nbenign (1),A\nbenign (1),B\n")
    with pytest.raises(DataError, match="gives an image two patients"):
        catalogue.read(root)


def test_what_a_lesson_needs_is_asked_for_in_a_sentence(tmp_path, capsys):
    folder = make(tmp_path / "clinic", images=5, labels=("benign", "normal"))
    assert load(folder).classes == ("benign", "normal") and not capsys.readouterr().out
    with pytest.raises(DataError, match="clinic has no malignant scans that can be used"):
        load(folder, needs="malignant")
    make(folder, images=4, labels=("malignant",))
    assert load(folder).classes == ("benign", "normal")
    assert "the 4 scans of the class malignant are left out, because five folds need" in capsys.readouterr().out
    with pytest.raises(DataError, match="two classes of five groups of scans .*: benign 4, normal 4"):
        load(make(tmp_path / "small", images=4, labels=("benign", "normal")))
