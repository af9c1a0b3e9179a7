"""Colab's hints and Drive, with a stand-in for google.colab."""

import sys
import types

import pytest

from busilib import colab
from busilib.cache import cache_dir


@pytest.fixture
def mounted(monkeypatch, tmp_path):
    """The list of places that were mounted in a google.colab without GPU whose Drive is a folder of this test."""
    places, module = [], types.ModuleType("google.colab")
    module.drive = types.SimpleNamespace(mount=places.append)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setattr(colab, "DRIVE", str(tmp_path / "drive"))
    monkeypatch.setattr(colab.os.path, "exists", lambda path: False)
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path / "cache"))
    return places


def test_elsewhere_nothing_happens(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path))
    colab.start(minutes=3, drive=True)
    assert capsys.readouterr().out == "" and cache_dir() == tmp_path


@pytest.mark.parametrize(("minutes", "words"), [(3, "about 3 minutes with"), (1, "about 1 minute with")])
def test_on_a_cpu_it_says_how_long_and_where_the_gpu_is(mounted, capsys, minutes, words):
    colab.start(minutes)
    text = capsys.readouterr().out
    assert words in text and '"Change runtime type"' in text and mounted == []


def test_drive_becomes_the_cache(mounted, tmp_path):
    colab.start(minutes=3, drive=True)
    assert mounted == [str(tmp_path / "drive")]
    assert cache_dir("runs") == tmp_path / "drive" / "MyDrive" / "busi-notebooks" / "runs"
