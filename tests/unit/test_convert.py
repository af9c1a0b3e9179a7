"""convert: the usual layouts become a folder with a labels.csv, and the folder's message names the command."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from busilib.data import audit, catalogue, images
from busilib.errors import DataError
from busitools import cli
from busitools.convert import convert


def scan(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24), np.uint8)).save(path)


def mask(path, colour=(255, 255, 255), size=(24, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = Image.new("RGB", size)
    drawn.paste(colour, (2, 5, 7, 10))
    drawn.save(path)


def bus_bra(root):
    for number, name in enumerate(("0001-l", "0001-r", "0002-l")):
        scan(root / "Images" / f"bus_{name}.png", number)
        mask(root / "Masks" / f"mask_{name}.png")
    rows = ["bus_0001-l,1,Cyst,benign,2", "bus_0001-r,1,Cyst,Benign,2", "bus_0002-l,2,IDC,malignant,5"]
    (root / "bus_data.csv").write_text("\n".join(["ID,Case,Histology,Pathology,BIRADS", *rows]))
    return {"benign": 2, "malignant": 1}, 3, ["1", "1", "2"]


def bus_uclm(root):
    for number, (name, colour) in enumerate(
        {"AL_000": (0, 255, 0), "AL_001": (255, 0, 0), "BO_000": (0, 0, 0)}.items()
    ):
        scan(root / "images" / f"{name}.png", number)
        mask(root / "masks" / f"{name}.png", colour)
    (root / "INFO.csv").write_text("Image;Marker\n")
    return {"benign": 1, "malignant": 1, "normal": 1}, 3, ["AL", "AL", "BO"]


def two_folders(root):
    for number in range(3):
        scan(root / "images" / "benign" / f"{number}.jpg", number)
        scan(root / "images" / "malignant" / f"{number}.png", 10 + number)
        mask(root / "masks" / "benign" / f"{number}.png")
    return {"benign": 3, "malignant": 3}, 3, [""] * 6


def sets(root):
    for number, part in enumerate(("train", "val", "test")):
        scan(root / part / "Benign" / "1.png", number)
        scan(root / part / "Malignant" / f"malignant ({number}).png", 10 + number)  # BUSI, sorted into sets
        mask(root / part / "Malignant" / f"malignant ({number})_mask.png")
    return {"benign": 3, "malignant": 3}, 3, [""] * 6


@pytest.mark.parametrize("make", [bus_bra, bus_uclm, two_folders, sets])
def test_the_usual_layouts_are_named_and_converted(make, tmp_path, capsys):
    images_of_class, masks, patients = make(tmp_path / "source")
    with pytest.raises(DataError, match="busi data convert"):
        catalogue.read(tmp_path / "source")
    assert not cli.main(["data", "convert", str(tmp_path / "source"), str(tmp_path / "copy")])
    assert "The copy is in" in capsys.readouterr().out
    scans = catalogue.read(tmp_path / "copy")
    assert scans.table.label.value_counts().to_dict() == images_of_class
    assert scans.counts().masks["total"] == masks and sorted(scans.table.patient) == sorted(patients)
    lesions = [images.mask_union(row).sum() for row in scans.table.itertuples()]
    expected = masks - images_of_class.get("normal", 0)
    assert sorted(lesions) == [0] * (len(lesions) - expected) + [25] * expected


def test_the_sets_of_a_folder_that_came_split_can_be_audited(tmp_path):
    sets(tmp_path / "source")
    (tmp_path / "source/test/Benign/1.png").write_bytes((tmp_path / "source/train/Benign/1.png").read_bytes())
    convert(tmp_path / "source", tmp_path / "copy")
    split = pd.read_csv(tmp_path / "copy" / "split.csv")
    assert split["split"].value_counts().to_dict() == {"train": 2, "validation": 2, "test": 2}
    leaks = audit.check(catalogue.read(tmp_path / "copy"), audit.read(tmp_path / "copy" / "split.csv"))
    assert {one.kind: one.count for one in leaks if one.leak}["the same pixels"] == 2


def test_class_folders_with_masks_under_another_name(tmp_path):
    for number in range(3):
        scan(tmp_path / "source/benign" / f"bus_000{number}-b.png", number)
        mask(tmp_path / "source/benign" / f"mask_000{number}-b.png")
    with pytest.raises(DataError, match="mask_0000-b.png: two grey values"):
        catalogue.read(tmp_path / "source")
    counts, warnings = convert(tmp_path / "source", tmp_path / "copy")
    assert counts.loc["benign"].tolist() == [3, 3, 6] and warnings == [
        "There are no images of the class malignant or normal."
    ]


def test_what_does_not_fit_is_refused_and_nothing_is_left(tmp_path):
    two_folders(tmp_path / "a")
    mask(tmp_path / "a/masks/benign/9.png")
    scan(tmp_path / "a/images/other.png", 5)
    with pytest.raises(DataError) as caught:
        convert(tmp_path / "a", tmp_path / "copy")
    assert "masks/benign/9.png: a mask, by its name or folder, that fits 0 images" in str(caught.value)
    assert "images/other.png: no class: neither a folder" in str(caught.value)
    bus_uclm(tmp_path / "b")
    mask(tmp_path / "b/masks/AL_000.png")
    with pytest.raises(DataError, match="AL_000.png: no class"):
        convert(tmp_path / "b", tmp_path / "copy")
    with pytest.raises(DataError, match="a new one elsewhere"):
        convert(tmp_path / "a", tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_mask_of_another_size_leaves_its_image_out_and_says_so(tmp_path):
    bus_uclm(tmp_path / "source")
    mask(tmp_path / "source/masks/BO_000.png", (0, 0, 0), (30, 30))
    counts, warnings = convert(tmp_path / "source", tmp_path / "copy")
    assert counts.images["total"] == 2
    assert warnings[-1] == "Left out, for their masks have other sizes: images/BO_000.png."


def test_an_image_is_turned_as_its_camera_says_and_colours_for_print_are_converted(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    for label in ("benign", "malignant"):
        (tmp_path / "in" / "images" / label).mkdir(parents=True)
        picture = Image.fromarray(np.random.default_rng(len(label)).integers(0, 256, (40, 50), np.uint8))
        picture.save(tmp_path / "in" / "images" / label / "a.jpg", exif=turned)
        picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).convert("CMYK").save(
            tmp_path / "in" / "images" / label / "b.jpg"
        )
    convert(tmp_path / "in", tmp_path / "out")
    sizes = {file.stem: Image.open(file).size for file in (tmp_path / "out").rglob("*.png")}
    assert sizes == {"a": (40, 50), "b": (50, 40)}


def test_what_a_clinic_wrote_into_an_image_is_not_stored(tmp_path):
    about = Image.Exif()
    about[0x010E] = "Jane Doe, born 1970"
    text = PngImagePlugin.PngInfo()
    text.add_itxt("Patient", "Jane Doe")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24), np.uint8)
    for label in ("benign", "malignant"):
        (tmp_path / "in" / "images" / label).mkdir(parents=True)
        for name, options in {"a.png": {"pnginfo": text}, "b.png": {"exif": about}, "c.jpg": {"exif": about}}.items():
            Image.fromarray(pixels).save(tmp_path / "in" / "images" / label / name, **options)
        scan(tmp_path / "in" / "images" / label / "d.png", 4)
    convert(tmp_path / "in", tmp_path / "out")
    files = sorted((tmp_path / "out").rglob("*.png"))
    assert len(files) == 8 and not [file for file in files if b"Jane" in file.read_bytes()]
    for file in files:
        with Image.open(file) as image:
            assert not image.text and not image.getexif(), file
            assert file.stem in "cd" or (np.asarray(image) == pixels).all()
