"""cli: exit codes, a line as each lesson ends, and errors in plain words."""

import os
from pathlib import Path

import pytest

from busilib.errors import LessonError
from busitools import cli, notebooks


def test_run_hands_everything_on_and_says_so_as_each_lesson_ends(monkeypatch, capsys):
    asked, so_far = {}, []

    def run(names, out, given):
        asked.update(names=names, out=out, given=given)
        yield notebooks.Execution(Path("03_x.ipynb"), Path("o/03_x.ipynb"), 41.4, processor=72.6)
        so_far.append(capsys.readouterr().out)
        yield notebooks.Execution(Path("04_y.ipynb"), Path("o/04_y.ipynb"), 1.0, "cell 4: ValueError: no")

    monkeypatch.setattr(notebooks, "run", run)
    assert cli.main(["run", "03", "04", "-p", "SEED", "-3", "-p", "DATASET", "2024_05", "--out", "there"]) == 1
    assert asked == {"names": ("03", "04"), "out": "there", "given": {"SEED": "-3", "DATASET": "2024_05"}}
    assert so_far[0].split() == "03_x 41 s 73 s of processor time ok o/03_x.ipynb".split()
    out = capsys.readouterr().out
    assert "FAILED: cell 4: ValueError: no" in out
    assert "1 of 2 finished. Read them: open there/index.html in a browser." in out


@pytest.mark.parametrize(
    "error", [LessonError("Lesson '9' does not exist."), ValueError("PROFILE 'x' does not exist"), OSError("no room")]
)
def test_errors_are_one_plain_line(monkeypatch, capsys, error):
    def fail(*given):
        raise error

    monkeypatch.setattr(notebooks, "run", fail)
    assert cli.main(["run", "9"]) == 1
    assert capsys.readouterr().err == f"busi: {error}\n"


def test_stopping_is_no_traceback(monkeypatch, capsys):
    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(notebooks, "refresh", stop)
    assert cli.main(["refresh"]) == 130
    assert capsys.readouterr().err.strip() == "busi: stopped"


def test_data_check_tells_what_is_wrong(tmp_path, phantom_dir, capsys):
    assert cli.main(["data", "check", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert cli.main(["data", "check", str(phantom_dir)]) == 0
    assert "benign" in capsys.readouterr().out


def test_data_phantom_makes_a_folder(tmp_path, capsys):
    assert cli.main(["data", "phantom", str(tmp_path / "p"), "--n", "12", "--seed", "1"]) == 0
    assert len(list((tmp_path / "p").glob("*/*).png"))) == 12
    assert cli.main(["data", "phantom", str(tmp_path / "q"), "--n", "3"]) == 1
    assert "At least 12 phantoms" in capsys.readouterr().err


def test_the_cache_is_shown_and_cleared(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path))
    for kind, size in {
        "runs": 1_000_000,
        "features": 2_500_000,
        "phantoms": 500_000,
        "busi": 5,
        "thesis": 9_000_000,
    }.items():
        (tmp_path / kind / "deep").mkdir(parents=True)
        (tmp_path / kind / "deep" / "file").write_bytes(os.urandom(size))
    assert cli.main(["cache"]) == 0
    out = capsys.readouterr().out
    assert "features              2.5 MB" in out and f"4.0 MB in {tmp_path}" in out
    for kind in ("moon", "..", "", "thesis"):
        assert cli.main(["cache", "clear", "features", kind]) == 1
        assert f"The cache holds no {kind!r}. It holds: busi, features, phantoms, runs" in capsys.readouterr().err
    assert cli.main(["cache", "clear", "features"]) == 0
    assert f"2.5 MB cleared from {tmp_path}" in capsys.readouterr().out
    assert cli.main(["cache", "clear"]) == 0
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["busi", "runs", "thesis"]
    assert cli.main(["cache", "clear", "runs", "busi"]) == 0
    assert [folder.name for folder in tmp_path.iterdir()] == ["thesis"], "a folder of somebody else's stays"


@pytest.mark.parametrize("words", [[], ["dance"], ["data"], ["run", "-p", "SEED"], ["sweep", "x", "--workers", "0"]])
def test_wrong_words_are_a_usage_error(words, capsys):
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "Usage: busi" in error or "requires 2 arguments" in error


def test_help(capsys):
    assert cli.main(["--help"]) == 0
    words = ("run", "refresh", "sweep", "collect", "repeat", "cache", "exercises", "grade", "data")
    assert set(words) <= set(capsys.readouterr().out.split())
