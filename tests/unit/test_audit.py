"""audit: anybody's split is checked; each kind of leak is found where it was planted, and nowhere else."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from busilib.data import audit, catalogue, splits
from busilib.errors import DataError, SplitError
from busitools import cli

NOISE = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    """Twelve scans of smooth noise, no two alike, in the BUSI layout; the first of a class has a mask."""
    for label in ("benign", "malignant"):
        for number in range(6):
            draw(tmp_path / label / f"{label} ({number}).png")
        mask = np.zeros((96, 96), np.uint8)
        mask[30:60, 20:70] = 255
        Image.fromarray(mask).save(tmp_path / label / f"{label} (0)_mask.png")
    return tmp_path


def draw(path):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(NOISE.integers(0, 255, (6, 6), np.uint8)).resize((96, 96), Image.Resampling.BICUBIC).save(path)


def split_of(folder, test=("benign (5)", "malignant (5)"), masks=False):
    """A split of all scans of a folder, those named in the test set."""
    names = [path.stem for path in sorted(folder.glob("*/*.png")) if masks or "_mask" not in path.stem]
    return pd.DataFrame({"file": names, "split": ["test" if name in test else "train" for name in names]})


def kinds(folder, split):
    """The kinds of leaks that are found, with their counts."""
    return {one.kind: one.count for one in audit.check(catalogue.read(folder), split) if one.leak}


def test_a_clean_split_has_no_leak(folder):
    findings = audit.check(catalogue.read(folder), split_of(folder))
    assert not audit.leaks(findings) and "No leak of these kinds" in audit.report(findings)
    assert "names no patients" in audit.report(findings)


def copied(folder):
    (folder / "benign" / "again.png").write_bytes((folder / "benign" / "benign (5).png").read_bytes())


def mirrored(folder):
    with Image.open(folder / "benign" / "benign (5).png") as image:
        ImageOps.mirror(image).save(folder / "benign" / "turned.png")


def augmented(folder):
    draw(folder / "benign" / "benign (5)-rotated1-zoomed.png")


def quarter_turned(folder):
    with Image.open(folder / "benign" / "benign (5).png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(folder / "benign" / "again.png")


def patients(folder):
    (folder / "patients.csv").write_text("image_id,patient\nbenign (5),P1\nbenign (4),P1\nmalignant (5),P2\n")


@pytest.mark.parametrize(
    ("plant", "leaks"),
    [
        (copied, {"the same pixels": 2, "near-identical": 2, "groups": 2}),
        (mirrored, {"mirrored": 2, "groups": 2}),
        (quarter_turned, {"mirrored": 2, "groups": 2}),
        (augmented, {"groups": 2, "augmented siblings": 2}),
        (patients, {"patients": 2, "groups": 2}),
    ],
)
def test_what_is_planted_is_found(plant, leaks, folder):
    plant(folder)
    assert kinds(folder, split_of(folder)) == leaks


def test_masks_are_found(folder):
    assert kinds(folder, split_of(folder, masks=True)) == {"masks among the inputs": 2}
    found = kinds(folder, split_of(folder, test=("benign (0)", "malignant (5)"), masks=True))
    assert found == {"masks among the inputs": 2, "scan and mask apart": 1}


def test_a_file_in_two_sets_and_a_missing_class_are_found(folder):
    split = split_of(folder, test=("benign (5)",))
    findings = audit.check(catalogue.read(folder), pd.concat([split, split.tail(1).assign(split="validation")]))
    text = audit.report(findings)
    assert "LEAK  files in two sets: 2 files" in text and "the set test has no malignant" in text


def test_names_are_matched_as_people_write_them(folder):
    (folder / "malignant" / "1.png").write_bytes((folder / "malignant" / "malignant (1).png").read_bytes())
    draw(folder / "benign" / "1.png")
    split = pd.DataFrame(
        {"file": ["data/Benign/1.png", "malignant/1.PNG", "benign (2).png", "gone.png"], "split": list("abab")}
    )
    findings = {one.kind: one for one in audit.check(catalogue.read(folder), split)}
    assert findings["unknown files"].examples == ("gone.png",) and findings["left out"].count == 11
    with pytest.raises(SplitError, match="More than one file has this name"):
        audit.check(catalogue.read(folder), split.assign(file="1.png"))
    with pytest.raises(SplitError, match="None of the 4 files is in the folder, 'x' for instance"):
        audit.check(catalogue.read(folder), split.assign(file="x"))


def test_the_command_says_it_in_words_and_by_its_status(folder, capsys):
    copied(folder)
    split_of(folder).to_csv(folder.parent / "split.csv", index=False)
    command = ["data", "audit", str(folder), str(folder.parent / "split.csv")]
    assert cli.main(command) == 1 and "This split leaks" in capsys.readouterr().out
    assert cli.main([*command, "--json"]) == 1 and json.loads(capsys.readouterr().out)["leaks"] is True
    (folder / "benign" / "again.png").unlink()
    split_of(folder).to_csv(folder.parent / "split.csv", index=False)
    assert not cli.main(command)


def test_capitals_and_empty_cells_make_no_set_of_their_own(tmp_path):
    (tmp_path / "split.csv").write_text("file,split\na,Train\nb, train\nc,\nd,TEST\n")
    assert audit.read(tmp_path / "split.csv").to_numpy().tolist() == [["a", "train"], ["b", "train"], ["d", "test"]]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [("name,split\na,test\n", DataError, "has no column file"), ("file,split\na,test\n", SplitError, "names 1 set")],
)
def test_a_table_that_is_no_split_is_refused(text, error, words, tmp_path):
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(error, match=words):
        audit.read(tmp_path / "split.csv")


def test_the_papers_splits_of_busi(busi_dir):
    """In a random test set about 40 % of the scans have a sibling in training; paper B's inputs hold the masks."""
    scans = catalogue.read(busi_dir)

    def found(split):
        rows = split.table.rename(columns={"file_id": "file"})[["file", "split"]]
        return {one.kind: one for one in audit.check(scans, rows)}

    shares = []
    for seed in range(5):
        words = found(splits.paper_a(scans, seed))["groups"].sentence
        shares.append(int(words.partition("(test ")[2].partition(",")[0]) / 117)
    assert 0.3 < np.mean(shares) < 0.45
    paper_b = found(splits.paper_b(scans))
    assert paper_b["masks among the inputs"].count == 798 and paper_b["scan and mask apart"].leak
    assert not audit.leaks(found(splits.clean(scans)).values())
