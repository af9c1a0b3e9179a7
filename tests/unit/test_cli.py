"""cli: values, exit codes, and errors in plain words."""

from pathlib import Path

import pytest

from busilib.errors import LessonError
from busitools import cli, notebooks


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("1e-3", 1e-3), ("True", True), ("None", None), ("paper", "paper"), ("/a b/c", "/a b/c")],
)
def test_values_are_read_as_python_does(text, value):
    found = cli._value(text)
    assert found == value and type(found) is type(value)


def test_run_hands_everything_on(monkeypatch, capsys):
    asked = {}

    def run(names, out, given):
        asked.update(names=names, out=out, given=given)
        return [
            notebooks.Execution(Path("03_x.ipynb"), Path("o"), 2.0),
            notebooks.Execution(Path("04_y.ipynb"), Path("o"), 1.0),
        ]

    monkeypatch.setattr(notebooks, "run", run)
    assert cli.main(["run", "03", "04", "-p", "SEED", "3", "-p", "PROTOCOL", "clean", "--out", "there"]) == 0
    assert asked == {"names": ["03", "04"], "out": "there", "given": {"SEED": 3, "PROTOCOL": "clean"}}
    out = capsys.readouterr().out
    assert "2 of 2 lessons finished. Read them: open there/index.html in a browser." in out


def test_a_failed_lesson_is_named_and_the_status_is_1(monkeypatch, capsys):
    failed = notebooks.Execution(Path("03_x.ipynb"), Path("o"), 2.0, "cell 4: ValueError: no")
    monkeypatch.setattr(notebooks, "run", lambda *given: [failed])
    assert cli.main(["run"]) == 1
    out = capsys.readouterr().out
    assert "FAILED in cell 4: ValueError: no" in out and "0 of 1 lessons finished" in out


@pytest.mark.parametrize("error", [LessonError("Lesson '9' does not exist."), ValueError("PROFILE 'x' does not exist")])
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
    assert capsys.readouterr().err == "busi: stopped\n"


def test_data_check_tells_what_is_wrong(tmp_path, phantom_dir, capsys):
    assert cli.main(["data", "check", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().out
    assert cli.main(["data", "check", str(phantom_dir)]) == 0
    assert "benign" in capsys.readouterr().out


def test_data_phantom_makes_a_folder(tmp_path, capsys):
    assert cli.main(["data", "phantom", str(tmp_path / "p"), "--n", "12", "--seed", "1"]) == 0
    assert len(list((tmp_path / "p").glob("*/*).png"))) == 12
    assert cli.main(["data", "phantom", str(tmp_path / "q"), "--n", "3"]) == 1
    assert "At least 12 phantoms" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["dance"], ["data"], ["run", "-p", "SEED"]])
def test_wrong_words_show_the_usage(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2 and "usage: busi" in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0 and all(word in out for word in ("run", "refresh", "data"))
