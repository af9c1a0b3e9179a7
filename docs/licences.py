"""Write docs/licences.md: the licences of all packages in tests/constraints.txt, as their own metadata states them."""

import re
from collections import defaultdict
from importlib.metadata import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The first that stands in a package's statement names its row.
FAMILIES = {"MPL|Mozilla": "MPL 2.0", "GPL": "several, one of them the GPL", "Apache": "Apache 2.0", "MIT": "MIT"}
FAMILIES |= {"BSD": "BSD", "PSF|Python Software": "Python (PSF)", "ISC": "ISC"}


def statement(name):
    """Return what a package's metadata says of its licence, "" when it says nothing."""
    about = metadata(name)
    classes = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier", []) if line.startswith("License")]
    return about.get("License-Expression") or "; ".join(classes) or (about.get("License") or "").partition("\n")[0]


def page():
    """Return the page as Markdown."""
    families = defaultdict(list)
    for name, number in re.findall(
        r"^([\w.-]+)==(\S+)", (ROOT / "tests" / "constraints.txt").read_text(), re.MULTILINE
    ):
        said = statement(name)
        row = next((family for words, family in FAMILIES.items() if re.search(words, said)), said or "not stated")
        families[row].append(f"{name} {number}")
    rows = sorted(families.items(), key=lambda item: -len(item[1]))
    table = "\n".join(f"| {family} | {len(names)} | {', '.join(names)} |" for family, names in rows)
    return (
        "# Licences of the packages\n\nMade by `make licences` from the metadata of the packages that "
        "`tests/constraints.txt` pins. Where a package states several licences it stands in the first row that fits. "
        "None of them is part of this repository; they are installed from the Python Package Index. "
        f"Ours is in `LICENSE`.\n\n| Licence | Packages | Which |\n|---|---|---|\n{table}\n"
    )


if __name__ == "__main__":
    (ROOT / "docs" / "licences.md").write_text(page(), encoding="utf-8")
