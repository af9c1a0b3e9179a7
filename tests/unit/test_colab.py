"""Colab's hints and Drive, with a stand-in for google.colab."""

import sys
import types

import pytest

from busilib import colab
from busilib.cache import cache_dir


@pytest.fixture
def on_colab(monkeypatch, tmp_path):
    """A google.colab whose Drive is a folder of this test; returns the list of places that were mounted."""
    mounted = []
    module = types.ModuleType("google.colab")
    module.drive = types.SimpleNamespace(mount=mounted.append)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setattr(colab, "DRIVE", str(tmp_path / "drive"))
    monkeypatch.setattr(colab.os.path, "exists", lambda path: False)
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path / "cache"))
    return mounted


def test_elsewhere_nothing_happens(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path))
    colab.start(minutes=3, drive=True)
    assert capsys.readouterr().out == "" and cache_dir() == tmp_path


def test_on_a_cpu_it_says_how_long_and_where_the_gpu_is(on_colab, capsys):
    colab.start(minutes=3)
    said = capsys.readouterr().out
    assert "about 3 minutes" in said and '"Change runtime type"' in said and on_colab == []


def test_one_minute_is_singular(on_colab, capsys):
    colab.start(minutes=1)
    assert "about 1 minute with" in capsys.readouterr().out


def test_on_a_gpu_there_is_nothing_to_switch_on(on_colab, capsys, monkeypatch):
    monkeypatch.setattr(colab.os.path, "exists", lambda path: path == "/dev/nvidia0")
    colab.start(minutes=3)
    assert "switched on" in capsys.readouterr().out


def test_drive_becomes_the_cache(on_colab, tmp_path):
    colab.start(minutes=3, drive=True)
    assert on_colab == [str(tmp_path / "drive")]
    assert cache_dir("runs") == tmp_path / "drive" / "MyDrive" / "busi-notebooks" / "runs"
