"""cache and natural: where things are kept, what they take, in which order, and who sees a bar."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busilib import cache
from busilib.data.files import natural_key


def test_the_cache_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path / "elsewhere"))
    folder = cache.cache_dir("a", "b")
    assert folder == tmp_path / "elsewhere" / "a" / "b" and folder.is_dir()
    monkeypatch.delenv("BUSILIB_CACHE")
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    assert cache.cache_dir("c") == tmp_path / "busilib" / "c"


def test_what_the_cache_holds_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path))
    assert cache.sizes() == {}
    for kind in ("runs", "busi", "studies"):
        (cache.cache_dir(kind) / "file").write_bytes(b"12345")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "nowhere")
    assert cache.sizes()["busi"] == 5 and list(cache.sizes()) == ["busi", "runs", "studies"]


def test_a_file_is_written_whole(tmp_path):
    target = tmp_path / "a.txt"
    with cache.write_file(target) as working:
        working.write_text("one", encoding="utf-8")
        assert not target.exists() and working.parent == tmp_path and working.suffix == ".txt"
    assert target.read_text(encoding="utf-8") == "one"
    with cache.write_file(target) as working:
        working.write_text("two", encoding="utf-8")
    assert target.read_text(encoding="utf-8") == "two" and list(tmp_path.iterdir()) == [target]
    with cache.write_file(tmp_path / "a.weights.h5") as working:  # Keras wants the whole ending
        assert working.name.endswith(".weights.h5") and working.name.startswith(".")
        working.touch()


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_what_was_there(tmp_path, failure):
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    with pytest.raises(failure), cache.write_file(tmp_path / "a.txt") as working:
        working.write_text("half", encoding="utf-8")
        raise failure
    with pytest.raises(failure), cache.write_folder(tmp_path / "run") as working:
        (working / "x").touch()
        raise failure
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"


def test_a_folder_appears_when_complete(tmp_path):
    target = tmp_path / "new" / "run"
    with cache.write_folder(target) as working:
        (working / "x").touch()
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["x"]
    assert list(target.parent.iterdir()) == [target]


def test_the_first_of_two_writers_wins(tmp_path):
    with cache.write_folder(tmp_path / "run") as late:
        (late / "late").touch()
        with cache.write_folder(tmp_path / "run") as early:
            (early / "early").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["early"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(OSError), cache.write_folder(tmp_path / "run"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_numbers_are_compared_as_numbers():
    names = ["benign (10)", "benign (2)", "malignant (1)", "benign (1)_mask_1", "benign (1)", "benign (1)_mask"]
    assert sorted(names, key=natural_key) == [
        "benign (1)",
        "benign (1)_mask",
        "benign (1)_mask_1",
        "benign (2)",
        "benign (10)",
        "malignant (1)",
    ]


def test_a_superscript_is_no_number():
    assert sorted(["a (²)", "a (2)", "2²"], key=natural_key)[0] == "2²"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_natural_is_numeric(a, b):
    assert (natural_key(f"x{a}.png") < natural_key(f"x{b}.png")) == (a < b)


def test_who_sees_a_bar(monkeypatch):
    for name in ("JPY_SESSION_NAME", "VSCODE_PID", "BUSILIB_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    assert not cache.shown()
    monkeypatch.setenv("JPY_SESSION_NAME", "03.ipynb")
    assert cache.shown()
    monkeypatch.setenv("BUSILIB_PROGRESS", "0")
    assert not cache.shown()
    monkeypatch.setenv("BUSILIB_PROGRESS", "1")
    monkeypatch.delenv("JPY_SESSION_NAME")
    assert cache.shown()


def test_a_bar_passes_everything_on_and_is_silent(monkeypatch, capfd):
    monkeypatch.setenv("BUSILIB_PROGRESS", "0")
    assert list(cache.bar(range(3), "counting")) == [0, 1, 2]
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("BUSILIB_PROGRESS", "1")
    assert list(cache.bar(range(3), "counting")) == [0, 1, 2]
    assert "counting" in capfd.readouterr().err
