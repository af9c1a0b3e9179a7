"""What a release needs, checked before a tag is set: `make release`. Nothing is changed or uploaded.

Each check prints "ok" or "REFUSED" with what to do; the exit status is 1 when one refuses.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

PLACEHOLDER = "github.com/OWNER/"
IN_WHEEL = ("busilib/weights/ResNet50.npz", "busilib/weights/InceptionResNetV2.npz", "busilib/tables/busi_images.csv")


def address(root):
    """The repository's public address is known, and every badge and set-up cell names it."""
    url = _project(root)["urls"]["Repository"]
    if PLACEHOLDER in f"{url}/":
        return (
            f"the public address is still a placeholder, {url}: make address URL=https://github.com/YOU/busi-notebooks"
        )
    pages = [*root.glob("notebooks/**/*.ipynb"), *root.glob("*.md"), *root.glob("docs/**/*.md")]
    waiting = [page for page in pages if PLACEHOLDER in page.read_text(encoding="utf-8")]
    return _named(root, waiting, "name no address yet")


def versions(root):
    """pyproject.toml, CITATION.cff, busilib and CHANGELOG.md tell of one version; nothing is "Not yet released"."""
    version = _project(root)["version"]
    cited = re.search(r"^version: *(\S+)", (root / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    first = re.search(r"^## (.*)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if not cited or cited.group(1) != version:
        return f"CITATION.cff tells of {cited.group(1) if cited else 'no version'}, pyproject.toml of {version}"
    module = (root / "busilib" / "__init__.py").read_text(encoding="utf-8")
    said = re.search(r'^__version__ = "(.*)"', module, re.MULTILINE)
    if not said or said.group(1) != version:
        return f"busilib/__init__.py tells of {said.group(1) if said else 'no version'}, pyproject.toml of {version}"
    if not first or not re.match(rf"{re.escape(version)}\b", first.group(1)):
        return f"CHANGELOG.md begins with {first.group(1) if first else 'nothing'!r}, not with {version} and a date"
    return ""


def committed(root):
    """Everything is committed."""
    changed = _git(root, "status", "--porcelain").splitlines()
    return f"{len(changed)} files are not committed, {changed[0].strip()} for instance" if changed else ""


def measured(root):
    """Each benchmark has a figure of this version; those that no machine could measure are named, not refused."""
    rows = json.loads((root / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    missing = [row["name"] for row in rows if row["ours"] is None]
    print(f"        not measured, say so in the release notes: {'; '.join(missing) or 'nothing'}")
    version = _project(root)["version"]
    old = [row["name"] for row in rows if row["ours"] is not None and row["version"] != version]
    return f"{len(old)} figures are of another version, {old[0]!r} for instance: make bench" if old else ""


def licences(root):
    """The licence is there, and so is a text on each thing that comes from others."""
    needed = ("LICENSE", "busilib/weights/README.md", "busilib/tables/README.md", "docs/licences.md")
    missing = [name for name in needed if not (root / name).is_file()]
    return f"missing: {', '.join(missing)}" if missing else ""


def outputs(root):
    """Each lesson has its outputs, and none of them is an error."""
    pages, wrong = sorted(root.glob("notebooks/[0-9]*.ipynb")), []
    for page in pages:
        cells = [cell for cell in json.loads(page.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
        wrong += [page] if not kinds or "error" in kinds else []
    return _named(root, wrong, "have no outputs, or an error: busi refresh") if pages else "there are no lessons"


def wheel(root):
    """The wheel can be built, and holds the backbones, the tables and both packages."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(root)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"pip wheel fails: {done.stderr.strip()[-300:]}"
        file = next(Path(folder).glob("*.whl"))
        names, size = set(zipfile.ZipFile(file).namelist()), file.stat().st_size / 1e6
    missing = [name for name in (*IN_WHEEL, "busitools/cli.py") if name not in names]
    print(f"        {file.name}, {size:.1f} MB")
    return f"it lacks {', '.join(missing)}" if missing else ""


CHECKS = (address, versions, committed, measured, licences, outputs, wheel)


def check(root, checks=CHECKS):
    """Print the verdict of each check; return the names of those that refuse."""
    refused = []
    for one in checks:
        what = one(root)
        refused += [one.__name__] if what else []
        print(f"{'REFUSED' if what else 'ok':<8}{one.__doc__}" + (f"\n        {what}" if what else ""), flush=True)
    return refused


def _project(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _git(root, *command):
    return subprocess.run(["git", "-C", str(root), *command], check=True, capture_output=True, text=True).stdout


def _named(root, pages, what):
    return f"{len(pages)} pages {what}, {pages[0].relative_to(root)} for instance" if pages else ""


if __name__ == "__main__":
    names = check(Path(__file__).resolve().parents[1])
    print(f"\nNo release yet: {', '.join(names)}." if names else "\nReady: set the tag, and push it.")
    sys.exit(bool(names))
