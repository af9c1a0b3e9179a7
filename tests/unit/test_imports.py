"""The import rules, read from the code: each room imports those before it, and the library never the tools."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import busilib
import busitools

# The rooms of busilib: each may import those that stand before it.
ORDER = (
    "errors",
    "cache",
    "colab",
    "recipes",
    "published",
    "metrics",
    "figures",
    "data",
    "learning",
    "runs",
    "explain",
)
ORDER += ("studies",)


def imported(source, package):
    """Return the modules that a file of ``package`` imports, at any depth of its code, as dotted names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            # "from busilib import data" imports busilib.data.
            yield from ([f"{module}.{alias.name}" for alias in node.names] if module == "busilib" else [module])


def broken(source, module):
    """Return what a file imports against the rules; ``module`` is its dotted name."""
    names = set(imported(source, module.rpartition(".")[0]))
    private = {name for name in names if name.startswith(("keras.src", "tensorflow.python"))}
    if not module.startswith("busilib."):
        return sorted(private)
    room = module.split(".")[1]
    rooms = {name.split(".")[1] for name in names if name.startswith("busilib.")} - {"__version__", room}
    later = {f"busilib.{name}" for name in rooms if name not in ORDER[: ORDER.index(room)]}
    return sorted(later | private | {name for name in names if name.startswith("busitools")})


def modules():
    for package in (busilib, busitools):
        root = Path(package.__file__).parent
        for path in sorted(root.rglob("*.py")):
            if path != root / "__init__.py":
                parts = path.relative_to(root).with_suffix("").parts
                yield ".".join([package.__name__, *parts]), path


@pytest.mark.parametrize(("module", "path"), list(modules()))
def test_the_rules_hold(module, path):
    wrong = broken(path.read_text(encoding="utf-8"), module)
    assert not wrong, f"{module} imports {', '.join(wrong)}; the order is {', '.join(ORDER)}, and public names only"


@pytest.mark.parametrize(
    ("source", "module", "expected"),
    [
        ("from busilib.data import splits", "busilib.metrics", ["busilib.data"]),
        ("from busilib.recipes import CLASSES", "busilib.figures", []),
        ("from busilib import runs", "busilib.data.images", ["busilib.runs"]),
        ("import busilib.learning", "busilib.runs", []),
        ("def late():\n    from busilib import runs", "busilib.learning.models", ["busilib.runs"]),
        ("import busilib.studies as s", "busilib.explain", ["busilib.studies"]),
        ("from .. import runs", "busilib.data.splits", ["busilib.runs"]),
        ("from busitools import notebooks", "busilib.studies", ["busitools"]),
        ("from busilib import errors, recipes\nfrom . import images\nimport keras", "busilib.data.splits", []),
        ("from busilib import __version__, metrics\nfrom busilib.data import splits", "busilib.runs", []),
        ("from busilib import studies", "busitools.notebooks", []),
        ("from keras.src.utils import x", "busitools.notebooks", ["keras.src.utils"]),
    ],
)
def test_the_check_sees_what_is_wrong(source, module, expected):
    assert broken(source, module) == expected


def test_all_rooms_are_there():
    rooms = {module.split(".")[1] for module, _ in modules() if module.startswith("busilib.")}
    assert rooms == set(ORDER) and "busitools.cli" in dict(modules())


@pytest.mark.parametrize(
    "code",
    [
        "import busilib",
        "import busilib.data, busilib.recipes, busilib.metrics",
        "import sys; sys.argv = ['busi', '--help']; import busitools.cli; busitools.cli.main(['--help'])",
        "import busilib.data.splits, busilib.data.images, busilib.data.catalogue, busilib.data.phantom, busilib.runs",
    ],
)
def test_no_framework_is_loaded(code):
    heavy = ["keras", "tensorflow", "jax", "torch"]
    code += f"; import sys; found = [n for n in {heavy} if n in sys.modules]; sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_pinned_package_is_on_the_page_of_licences():
    root = Path(__file__).parents[2]
    pinned = (root / "tests" / "constraints.txt").read_text(encoding="utf-8").split("\n")
    page = (root / "docs" / "licences.md").read_text(encoding="utf-8")
    missing = [line for line in pinned if "==" in line and line.replace("==", " ") not in page]
    assert not missing, "write docs/licences.md anew: make licences"
