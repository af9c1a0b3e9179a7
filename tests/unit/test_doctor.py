"""`busi doctor` says what does not work, and exits non-zero for it."""

import shutil

import pytest

from busilib.errors import ClassroomError
from busitools import cli, doctor, notebooks, sandbox


def test_a_finding_with_a_hint_makes_the_status_1(capsys):
    assert doctor.report([doctor.Finding("disk", "9 GB")]) == 0
    assert "All of this works" in capsys.readouterr().out
    assert doctor.report([doctor.Finding("disk", "9 GB"), doctor.Finding("cache", "is full", "Make room")]) == 1
    printed = capsys.readouterr().out
    assert "!!  cache" in printed and "→ Make room" in printed and "1 will not work" in printed


def test_what_it_says_here(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_backend", lambda: "Keras on a backend")
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for what in ("Python", "keras ", "BUSI", "cache", "free disk", "GB", "sandbox tool"):
        assert what in printed


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(doctor, "_backend", lambda: "Keras on a backend")
    (wrong,) = [finding for finding in doctor.examine() if finding.hint]
    assert wrong.what == "cache" and "BUSILIB_CACHE" in wrong.hint


def test_little_room_and_a_missing_framework_are_hints(monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'tensorflow'")

    monkeypatch.setattr(doctor, "_backend", missing)
    monkeypatch.setattr(doctor, "FREE", 1e18)
    assert [finding.what for finding in doctor.examine() if finding.hint] == ["network library", "free disk"]


def test_before_class_a_sandbox_that_does_not_work_is_a_hint(monkeypatch):
    def broken():
        raise ClassroomError("No sandbox here")

    monkeypatch.setattr(sandbox, "check", broken)
    for name in ("_backend", "_phantoms", "_exercises"):
        monkeypatch.setattr(doctor, name, lambda: "fine")
    assert [finding.what for finding in doctor.examine(for_class=True) if finding.hint] == ["sandbox"]


def test_exercises_that_were_edited_are_found(monkeypatch, tmp_path):
    shutil.copytree(notebooks.folder() / "exercises", tmp_path / "exercises")
    monkeypatch.setattr(notebooks, "folder", lambda: tmp_path)

    def write(target):
        name = "01_data_preparation.ipynb"
        return [shutil.copy(tmp_path / "exercises" / name, target)]

    monkeypatch.setattr(doctor.exercises, "write", write)
    assert doctor._exercises() == "current"

    def other(target):
        (target_file := doctor.Path(target) / "01_data_preparation.ipynb").write_text("other")
        return [target_file]

    monkeypatch.setattr(doctor.exercises, "write", other)
    with pytest.raises(ClassroomError, match="is not what its solution gives"):
        doctor._exercises()
