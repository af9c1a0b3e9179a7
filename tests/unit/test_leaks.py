"""leaks: each pair differs in one thing only, and that thing is there."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from busilib.data import leaks, splits
from busilib.errors import DataError, SplitError


@pytest.fixture(params=[0, 1])
def seed(request):
    return request.param


@pytest.mark.parametrize("kind", leaks.MAKE)
def test_a_pair_has_the_same_test_and_as_much_training(phantoms, kind, seed):
    pair = leaks.MAKE[kind](phantoms, seed)
    assert pair.with_leak.protocol == kind and pair.without.protocol == "clean"
    without, leaking = pair.without, pair.with_leak
    for column in ("image_id", "label"):
        assert set(without.part("test")[column]) == set(leaking.part("test")[column])
    if kind != "masks":
        assert set(without.part("test")["file_id"]) == set(leaking.part("test")["file_id"])
    by = ["split", "label"] if kind == "masks" else ["split", "label", "kind"]
    counts = [split.table.groupby(by).size().to_dict() for split in (without, leaking)]
    assert counts[0] == counts[1]
    assert set(without.part("validation")["image_id"]) == set(leaking.part("validation")["image_id"])


@pytest.mark.parametrize("kind", ["copies", "partner", "augmented"])
def test_the_leak_is_there_and_only_there(phantoms, kind, seed):
    pair = leaks.MAKE[kind](phantoms, seed)
    assert pair.without.overlaps == {"image": 0, "group": 0}
    assert pair.with_leak.overlaps["group"] > 0
    assert (pair.with_leak.overlaps["image"] > 0) == (kind != "copies")
    with pytest.raises(SplitError, match="lie in two sets"):
        splits.check_split(replace(pair.with_leak, declared=()))


def test_masks_show_masks_and_nothing_else(phantoms):
    pair = leaks.masks(phantoms)
    assert set(pair.with_leak.table["kind"]) == {"mask"} and set(pair.without.table["kind"]) == {"scan"}
    assert pair.with_leak.table["path"].str.contains("_mask").all()
    assert (pair.with_leak.table["image_id"].to_numpy() == pair.without.table["image_id"].to_numpy()).all()


def test_an_augmented_copy_is_made_once_and_looks_like_its_scan(phantoms, tmp_path, monkeypatch):
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path))
    pair = leaks.augmented(phantoms)
    table = pair.with_leak.table
    extra = table[table["kind"] == "augmented"].iloc[0]
    with (
        Image.open(extra["path"]) as copy,
        Image.open(table.set_index("file_id").loc[extra["image_id"], "path"]) as one,
    ):
        assert copy.size == one.size
        assert not np.array_equal(np.asarray(copy), np.asarray(one.convert("RGB")))
        height, width = np.array(copy.size[::-1]) // 4
        middle = (slice(height, -height), slice(width, -width))  # the corners may be turned out of the picture
        assert abs(np.asarray(copy)[middle].mean() - np.asarray(one.convert("RGB"))[middle].mean()) < 25
    stamp = (tmp_path / "augmented").stat().st_mtime_ns
    assert (leaks.augmented(phantoms).with_leak.table["path"] == table["path"]).all()
    assert (tmp_path / "augmented").stat().st_mtime_ns == stamp


def test_same_seed_same_pair_another_seed_another(phantoms):
    one, same, other = (leaks.copies(phantoms, seed).with_leak.sha256 for seed in (3, 3, 4))
    assert one == same != other


def test_what_cannot_be_done_is_said(phantoms, tmp_path):
    few = replace(phantoms, table=phantoms.table.groupby("label").head(4).reset_index(drop=True))
    with pytest.raises(DataError, match="at least 7 scans"):
        leaks.clean(few)
    bare = phantoms.table.assign(mask_paths=[()] * len(phantoms.table), mask_ids=[()] * len(phantoms.table))
    bare = replace(phantoms, table=bare)
    with pytest.raises(DataError, match="have no mask"):
        leaks.masks(bare)


def test_phantoms_stand_in_where_a_scan_has_no_mask(phantoms, monkeypatch, capsys):
    monkeypatch.setattr(leaks, "load", lambda dataset: dataset)
    assert leaks.outlined(phantoms) is phantoms and not capsys.readouterr().out
    first = phantoms.table.assign(mask_paths=[(), *phantoms.table.mask_paths[1:]])
    assert leaks.outlined(replace(phantoms, table=first)) == "phantom"
    assert "Not every scan of" in capsys.readouterr().out
