"""Write docs/licences.md: what is shipped under which licence, and what the packages in tests/constraints.txt state.

The packages' licences are read from their own metadata.
"""

import re
from collections import defaultdict
from importlib.metadata import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = """# Licences

## What is shipped

| What | Where | Licence |
|---|---|---|
| our code | repository and wheel | BSD 3-Clause, in `LICENSE` |
| texts and figures of lessons and pages | the same | CC BY 4.0, named in `LICENSE` |
| two backbones, which we trained on our own made-up scans, from random weights | `busilib/weights` | BSD 3-Clause |
| tables of facts: names, sizes, hashes and groups of BUSI's images, and what the papers print; no image | \
`busilib/tables` | the sources are in its README |
| fonts and icons of Font Awesome Free 7 | only in the website that `make site` builds | SIL OFL 1.1 and CC BY 4.0: \
`_static/fonts-licence.txt` there |
| themes of the website, with Bootstrap | the same | BSD 3-Clause and MIT: `_static/licences` there |
| style sheets of nbconvert (Jupyter) | the pages that `busi run` writes | BSD 3-Clause |

Formulas are MathML, which browsers draw by themselves: no MathJax is shipped, and none is loaded. ImageNet weights and
the images of BUSI and BUS-UCLM are not shipped; [data](data.md) says what is known of the data sets' licences.

## Packages

"""
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
        f"{SHIPPED}Made by `make licences` from the metadata of the packages that "
        "`tests/constraints.txt` pins. Where a package states several licences it stands in the first row that fits. "
        "None of them is part of this repository; they are installed from the Python Package Index."
        f"\n\n| Licence | Packages | Which |\n|---|---|---|\n{table}\n"
    )


if __name__ == "__main__":
    (ROOT / "docs" / "licences.md").write_text(page(), encoding="utf-8")
