"""make address: the public address is written everywhere, and what is none is refused."""

import importlib.util
import shutil
from pathlib import Path

import nbformat
import pytest

from busitools import notebooks

spec = importlib.util.spec_from_file_location("address", Path(__file__).parents[2] / ".ci" / "address.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def test_the_address_is_written_into_project_badges_and_set_up_cells(tmp_path):
    (tmp_path / "notebooks" / "exercises").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://github.com/OWNER/busi-notebooks"\n')
    for place in ("01_data_preparation.ipynb", "exercises/01_data_preparation.ipynb"):
        shutil.copy(notebooks.folder() / place, tmp_path / "notebooks" / place)
    changed = script.address("https://github.com/somebody/scans.git", tmp_path)
    assert len(changed) == 2
    assert 'Repository = "https://github.com/somebody/scans"' in (tmp_path / "pyproject.toml").read_text()
    for path in changed:
        cells = nbformat.read(path, as_version=4).cells
        assert "github/somebody/scans/blob" in cells[0].source and notebooks.WAITING not in cells[0].source
        assert "git+https://github.com/somebody/scans" in cells[1].source
    assert script.address("https://github.com/somebody/scans/", tmp_path) == [], "a second time changes nothing"
    script.address("https://github.com/OWNER/scans", tmp_path)
    sources = [nbformat.read(path, as_version=4).cells[0].source for path in changed]
    assert all(source.count(notebooks.WAITING) == 1 for source in sources), "a badge that leads nowhere says so"


@pytest.mark.parametrize(
    "url", ["somebody/scans", "http://github.com/a/b", "https://example.org/a/b", "https://github.com/a"]
)
def test_what_is_no_address_is_refused(url, tmp_path):
    with pytest.raises(ValueError, match="is no address"):
        script.address(url, tmp_path)
