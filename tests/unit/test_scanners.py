"""Two made-up scanners: the first draws as it always did, the second differs in the way lesson 12 says."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busilib.data import catalogue, images, phantom
from busilib.errors import DataError

N = 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("scanners")
    return {name: phantom.make(place / name, N, seed=3, scanner=name) for name in phantom.SCANNERS}


@pytest.fixture(scope="module")
def hospitals(folders):
    return {name: catalogue.read(folder) for name, folder in folders.items()}


def test_the_first_scanner_draws_as_before_there_were_two():
    scan = phantom.draw("malignant", [5, 3], marks="calipers")
    default = phantom.draw("malignant", [5, 3], marks="calipers", scanner=phantom.SCANNERS["first"])
    assert hashlib.sha256(scan.pixels.tobytes()).hexdigest()[:16] == "5223f053baadff4c"
    assert (scan.pixels == default.pixels).all()


def test_the_folder_tells_its_scanner_and_its_patients(folders, hospitals):
    assert {name: scans.made["scanner"] for name, scans in hospitals.items()} == {"first": "first", "second": "second"}
    assert all(scans.kind == "phantom" and not scans.warnings for scans in hospitals.values())
    patients = hospitals["second"].table.groupby("patient")
    assert (hospitals["first"].table.patient == "").all() and 2 <= patients.size().max() <= 6
    assert (patients.group.nunique() == 1).all() and patients.ngroups == hospitals["second"].table.group.nunique()
    assert not len(hospitals["second"].pairs), "a patient's scans are other sections, not copies"
    old = (folders["first"] / "phantom.json").read_text().replace(', "scanner": "first"', "")
    (folders["first"] / "phantom.json").write_text(old)
    assert catalogue.read(folders["first"]).made == hospitals["first"].made


def test_they_differ_as_the_lesson_says(folders, hospitals):
    tables = {name: pd.read_csv(folder / "phantom.csv", keep_default_na=False) for name, folder in folders.items()}
    speckle, grey, even = {}, {}, np.zeros((160, 160), np.float32)
    for name, scans in hospitals.items():
        pixels = images.load(scans.table.path, 160)[..., 0].astype(float)
        grey[name] = pixels.mean(), pixels.std(axis=(1, 2)).mean()
        grain = np.log(phantom._envelope(np.random.default_rng(0), even, 0.13, phantom.SCANNERS[name]))
        speckle[name] = np.corrcoef(grain[:, 2:].ravel(), grain[:, :-2].ravel())[0, 1]
    assert speckle["second"] > speckle["first"] + 0.1, "a wider beam, a coarser grain"
    assert grey["second"][0] > grey["first"][0] + 10, "brighter"
    assert grey["second"][1] < grey["first"][1] - 5, "flatter"
    shares = {name: table.label.value_counts(normalize=True) for name, table in tables.items()}
    assert shares["first"].benign > 0.5 and shares["second"].normal > 0.5
    marked = {name: (table.marks != "").groupby(table.label).mean() for name, table in tables.items()}
    assert marked["first"].benign > marked["first"].malignant > marked["first"].normal
    assert marked["second"].malignant > marked["second"].normal > marked["second"].benign


def test_an_unknown_scanner_is_named():
    with pytest.raises(DataError, match="must be one of first, second, not 'third'"):
        phantom.draw("benign", 1, scanner="third")


def test_what_two_hospitals_have_in_common(hospitals, capsys):
    home, away = (replace(scans, table=scans.table.assign(group=scans.table.image_id)) for scans in hospitals.values())
    assert catalogue.in_common(home, away)[2] == ["benign", "malignant", "normal"] and not capsys.readouterr().out
    two = replace(home, table=home.table[home.table.label != "normal"])
    first, second, classes = catalogue.in_common(two, away)
    assert classes == ["benign", "malignant"] and set(second.table.label) == set(classes) == set(first.table.label)
    assert "scans of the class normal are left out, because the other hospital has none" in capsys.readouterr().out
    with pytest.raises(DataError, match="two classes in common, malignant among them: .* has benign, normal and"):
        catalogue.in_common(replace(home, table=home.table[home.table.label != "malignant"]), away)
    with pytest.raises(DataError, match="two classes of five groups .*: benign 1, malignant 1, normal 1"):
        catalogue.in_common(home, replace(away, table=away.table.assign(group="g1")))
    few = pd.concat([home.table[home.table.label != "normal"], home.table[home.table.label == "normal"].head(4)])
    assert catalogue.large_enough(replace(home, table=few)).classes == ("benign", "malignant")
    assert "the 4 scans of the class normal are left out, because five folds need" in capsys.readouterr().out


def external(folder, classes=("benign", "malignant", "normal"), size=(40, 60), patients=None):
    """Make a folder of colour scans without masks, six per class; ``patients``: the number of the patients."""
    rng, lines = np.random.default_rng(0), ["image_id,patient"]
    for label in classes:
        (folder / label).mkdir(parents=True)
        for i in range(1, 7):
            pixels = rng.integers(256, size=(*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{label} ({i}).png")
            lines.append(f"{label} ({i}),p{i % patients}" if patients else "")
    if patients:
        (folder / "patients.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"classes": ("Benigno", "Maligno")}, "holds no class folder: Benigno, Maligno"),
        ({"classes": ("benign", "malignant", "cyst")}, "cyst: an unknown class folder"),
        ({"classes": ("benign", "normal")}, "two classes in common, malignant among them"),
        ({"classes": ("malignant",)}, "needs two classes .*: malignant 6"),
        ({"patients": 1}, "needs two classes .* or one patient's are one.*: benign 1, malignant 1, normal 1"),
        ({"patients": 4}, "needs two classes .*: benign 4"),
    ],
)
def test_another_hospitals_folder_that_will_not_do_is_said_in_a_sentence(settings, sentence, hospitals, tmp_path):
    with pytest.raises(DataError, match=sentence):
        catalogue.in_common(hospitals["first"], catalogue.read(external(tmp_path / "other", **settings)))


@pytest.mark.parametrize("size", [(8, 8), (300, 120)])
def test_another_hospitals_scans_may_have_colour_other_sizes_and_no_masks(size, hospitals, tmp_path):
    other = catalogue.read(external(tmp_path / "other", size=size))
    _, away, classes = catalogue.in_common(hospitals["first"], other)
    assert len(classes) == 3 and images.load(away.table.path, 64).shape == (18, 64, 64, 3)
