"""make release: each check refuses what it should, on a small repository made for it, and lets a whole one pass."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("release", Path(__file__).parents[2] / ".ci" / "release.py")
release = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release)

CHECKS = [one for one in release.CHECKS if one is not release.wheel]  # needs the registry: see test_install
BADGE = {"cell_type": "markdown", "source": ["https://colab.research.google.com/github/her/busi-notebooks"]}
CODE = {"cell_type": "code", "source": ["1 + 1"], "outputs": [{"output_type": "execute_result"}]}


@pytest.fixture
def repository(tmp_path):
    """A repository that has all that a release of version 1.2.3 needs; nothing is committed yet."""
    files = {
        "pyproject.toml": '[project]\nversion = "1.2.3"\n[project.urls]\nRepository = "https://github.com/her/busi-notebooks"\n',
        "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.3\n",
        "CHANGELOG.md": "# What changed\n\n## 1.2.3, November 2026\n",
        "busilib/__init__.py": '__version__ = "1.2.3"\n',
        "LICENSE": "", "busilib/weights/README.md": "", "busilib/tables/README.md": "", "docs/licences.md": "",
        "benchmarks/results.json": json.dumps([{"name": "start", "ours": 0.1, "version": "1.2.3"}]),
        "notebooks/00_first.ipynb": json.dumps({"cells": [BADGE, CODE]}),
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def commit(folder):
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)


def test_a_whole_one_passes(repository, capsys):
    commit(repository)
    assert release.check(repository, CHECKS) == []
    assert capsys.readouterr().out.count("ok  ") == len(CHECKS)


@pytest.mark.parametrize(
    ("name", "was", "becomes", "refuses"),
    [
        ("pyproject.toml", "/her/", "/OWNER/", "address"),
        ("notebooks/00_first.ipynb", "colab.research.google.com/github/her/", "github.com/OWNER/", "address"),
        ("pyproject.toml", "1.2.3", "1.2.4", "versions"),
        ("CITATION.cff", "version: 1.2.3", "version: 1.2.2", "versions"),
        ("busilib/__init__.py", "1.2.3", "1.2.2", "versions"),
        ("CHANGELOG.md", "## 1.2.3", "## Not yet released\n\n## 1.2.3", "versions"),
        ("benchmarks/results.json", "1.2.3", "1.2.2", "measured"),
        ("notebooks/00_first.ipynb", "execute_result", "error", "outputs"),
    ],
)
def test_what_is_not_ready_is_refused(name, was, becomes, refuses, repository):
    file = repository / name
    text = file.read_text(encoding="utf-8")
    assert was in text
    file.write_text(text.replace(was, becomes), encoding="utf-8")
    commit(repository)
    assert refuses in release.check(repository, CHECKS)


def test_what_is_missing_is_refused(repository, capsys):
    commit(repository)
    (repository / "docs" / "licences.md").unlink()
    (repository / "notebooks" / "00_first.ipynb").unlink()
    assert release.check(repository, CHECKS) == ["committed", "licences", "outputs"]
    assert "docs/licences.md" in capsys.readouterr().out
