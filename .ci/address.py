"""Set the project's public address in pyproject.toml, badges and set-up cells: make address URL=https://github.com/…"""

import re
import sys
from pathlib import Path

import nbformat

from busitools import notebooks


def address(url, root):
    """Set the address in pyproject.toml, and from there in all notebooks; return the Paths of those that were changed.

    Raises ValueError for an address that is none on GitHub.
    """
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url := url.rstrip("/").removesuffix(".git")):
        raise ValueError(f"{url!r} is no address like https://github.com/NAME/busi-notebooks")
    project, changed = root / "pyproject.toml", []
    text = re.sub(r'^Repository = ".*"$', f'Repository = "{url}"', project.read_text(encoding="utf-8"), flags=re.M)
    project.write_text(text, encoding="utf-8")
    for path in sorted((root / "notebooks").rglob("[0-9][0-9]_*.ipynb")):
        before = nbformat.read(path, as_version=4)
        after = notebooks.relink(nbformat.read(path, as_version=4), url)
        if after != before:
            nbformat.write(after, path)
            changed.append(path)
    return changed


if __name__ == "__main__":
    try:
        changed = address(sys.argv[1] if len(sys.argv) > 1 else "", Path(__file__).resolve().parents[1])
    except ValueError as error:
        sys.exit(str(error))
    print(f"{len(changed)} notebooks changed. Install again, so that all commands know it: make run")
