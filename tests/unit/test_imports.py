"""The import rules of the library, read from its code."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import busilib

PACKAGE = Path(busilib.__file__).parent
BASE = {"errors", "cache"}  # may be imported by all; import nothing of busilib but errors
ALONE = {"recipes", "metrics", "figures", "published"}
# What each room may import of busilib, besides itself. What stands on top (stored, studies) may import all.
ALLOWED = (
    {name: {"errors"} for name in BASE | ALONE}
    | {"data": BASE | ALONE, "runs": {"data"} | BASE | ALONE}
    | {name: {"runs", "data"} | BASE | ALONE for name in ("learning", "explain", "comparison", "masks_alone")}
)


def room(module):
    """Return the part of busilib that a dotted name belongs to: "busilib.data.splits" → "data"."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


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
    own = room(module)
    found = {room(name) for name in imported(source, module.rpartition(".")[0]) if name.split(".")[0] == "busilib"}
    return sorted(found - {own, "", "__version__"} - ALLOWED.get(own, found))


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(["busilib", *parts]), path


@pytest.mark.parametrize(("module", "path"), list(modules()))
def test_the_rules_hold(module, path):
    wrong = broken(path.read_text(encoding="utf-8"), module)
    assert not wrong, (
        f"{module} imports {', '.join(wrong)} of busilib: the order is data, runs, learning and evaluation"
    )


@pytest.mark.parametrize(
    ("source", "module", "expected"),
    [
        ("from busilib.data import splits", "busilib.metrics", ["data"]),
        ("from busilib.recipes import CLASSES", "busilib.figures", ["recipes"]),
        ("from busilib import runs", "busilib.data.images", ["runs"]),
        ("import busilib.learning", "busilib.runs", ["learning"]),
        ("def late():\n    from busilib.learning.models import build", "busilib.runs", ["learning"]),
        ("from busilib import explain", "busilib.learning.models", ["explain"]),
        ("import busilib.learning.models as m", "busilib.explain", ["learning"]),
        ("from .learning import models", "busilib.explain", ["learning"]),
        ("from .. import runs", "busilib.data.splits", ["runs"]),
        ("from busilib import studies", "busilib.learning.training", ["studies"]),
        ("from busilib import errors, recipes\nfrom . import natural\nimport keras", "busilib.data.splits", []),
        ("from busilib import __version__, metrics\nfrom busilib.data import cache", "busilib.runs", []),
        ("from busilib.learning import models\nfrom busilib import explain", "busilib.studies", []),
    ],
)
def test_the_check_sees_what_is_wrong(source, module, expected):
    assert broken(source, module) == expected


def test_all_rooms_are_known():
    assert {"data", "learning", "runs", "recipes", "metrics"} <= {room(module) for module, _ in modules()}


@pytest.mark.parametrize(
    "code",
    [
        "import busilib",
        "import busilib.data, busilib.recipes, busilib.metrics",
        "import busitools.cli; busitools.cli.main(['--help'])",
        "import busilib.data.splits, busilib.data.images, busilib.data.catalogue, busilib.data.phantom, busilib.runs",
    ],
)
def test_no_framework_is_loaded(code):
    heavy = ["keras", "tensorflow", "jax", "torch"]
    code += f"; import sys; found = [n for n in {heavy} if n in sys.modules]; sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
