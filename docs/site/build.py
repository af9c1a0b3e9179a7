"""Build the website into build/site, without network: ``make site``.

Pages keep the places that they have in the repository, so that their links work in both. What is not a page becomes a
link to the repository's public address. The lessons are shown with their stored outputs; nothing is executed.
"""

import html
import json
import posixpath
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import nbformat

from busilib import runs
from busitools import notebooks

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
SOURCE, SITE = BUILD / "site-source", BUILD / "site"
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "docs/*.md", "benchmarks/*.md"]
PAGES += ["busilib/weights/README.md", "busilib/results/README.md", "notebooks/*.ipynb", "notebooks/exercises/*.ipynb"]
EXERCISES = "notebooks/exercises/index.md"
MOVED = {"README.md": "index.md", "notebooks/exercises": EXERCISES}
LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")
NO_MODULES = {"__init__"}  # pages of their own are made for the others


def build(*options):
    """Write the sources and build the site; return the exit status of Sphinx."""
    for folder in (SOURCE, SITE, BUILD / "site-doctrees"):
        shutil.rmtree(folder, ignore_errors=True)
    pages = sorted(path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern))
    known = {MOVED.get(page, page) for page in pages} | {EXERCISES}
    for page in pages:
        if page.endswith(".ipynb"):
            notebook = shown(nbformat.read(ROOT / page, as_version=4), page, known)
            _write(page, nbformat.writes(notebook))
        elif page != "README.md":
            _write(page, linked((ROOT / page).read_text(encoding="utf-8"), page, known))
    _write("index.md", linked(front_page(), "index.md", known))
    _write(EXERCISES, exercise_list(pages))
    _write("docs/provenance.md", provenance())
    for module in modules():
        directive = f"```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```"
        _write(f"reference/{module}.md", f"# {module}\n\n{directive}\n")
    listed = "\n".join(f"* [{module}]({module}.md): {first_line(module)}" for module in modules())
    about = "What a lesson, or your own notebook, may import: made from the library's docstrings.\n\n"
    _write("reference/index.md", f"# The library\n\n{about}{listed}\n\n{tree(modules())}")
    shutil.copytree(ROOT / "docs" / "images", SOURCE / "docs" / "images")
    here = Path(__file__).parent
    sphinx = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", here, "-d", BUILD / "site-doctrees"]
    status = subprocess.call([*sphinx, SOURCE, SITE, *options])
    for theme in ("sphinx_book_theme", "pydata_sphinx_theme"):
        texts = [file for file in metadata.files(theme) if file.name == "LICENSE"]
        target = SITE / "_static" / "licences" / f"{theme}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(texts[0].locate(), target)
    for path in SITE.rglob("*.html"):
        path.write_text(mended(path.read_text(encoding="utf-8")), encoding="utf-8")
    return status


def mended(page):
    """Return a page (str) with what its theme leaves out for those who listen to it: names of buttons and regions."""
    page = page.replace(
        '<summary><span class="toctree-toggle', '<summary aria-label="Pages below"><span class="toctree-toggle'
    )
    brand = r'<div class="sidebar-primary-item">(?=\s*<a class="navbar-brand)'
    page = re.sub(
        brand,
        '<div class="sidebar-primary-item" role="navigation" aria-label="Front page">',
        re.sub(r'(<button class="btn search-button-field[^>]*?) aria-label="Search"', r"\1", page),
    )  # it says so in its text
    page = page.replace('<table class="table">', '<table class="table" tabindex="0">')  # a wide one scrolls by keyboard
    return page.replace('<th class="head"><p></p></th>', '<td class="head"></td>')


def _write(page, text):
    target = SOURCE / page
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def tree(pages, **options):
    """Return a hidden table of contents in MyST."""
    lines = "".join(f":{name}: {value}\n" for name, value in ({"hidden": ""} | options).items())
    return "```{toctree}\n" + lines + "\n" + "\n".join(pages) + "\n```\n"


def linked(text, page, known):
    """Return a page's text with its links moved: those to what is no page lead to the repository."""

    def move(match):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), match[2]))
        target = MOVED.get(path, path)
        if target in known:
            return match[1] + posixpath.relpath(target, posixpath.dirname(page) or ".") + match[3]
        if (ROOT / path).suffix in (".png", ".svg") or not (ROOT / path).exists():
            return match[0]  # a picture; or a link that leads nowhere, of which Sphinx complains
        return f"{match[1]}{notebooks.address()}/blob/main/{path}{match[3]}"

    return LINK.sub(move, text)


def shown(notebook, page, known):
    """Return a notebook as the site shows it: pictures keep their description, the badge loads nothing."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = notebooks.BADGE.sub(r"[Open in Colab](\1)", cell.source)
            cell.source = linked(text, page, known)
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                alt = html.escape(output.metadata.get("image/png", {}).get("alt", ""), quote=True)
                picture = f'<img alt="{alt}" src="data:image/png;base64,{"".join(png.split())}">'
                output.data = {"text/html": f'<div class="figure">{picture}</div>'}
            elif "text/html" in output.get("data", {}):  # a wide table scrolls by keyboard as well
                table = re.sub(r"<style scoped>.*?</style>", "", output.data["text/html"], flags=re.S)
                table = table.replace("<th></th>", "<td></td>")
                output.data = {"text/html": f'<div class="scroll" tabindex="0">{table}</div>'}
    return notebook


def front_page():
    """Return the front page: docs/site/index.md with sections of the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", readme, flags=re.M | re.S))
    text = (Path(__file__).parent / "index.md").read_text(encoding="utf-8")
    for name, body in sections.items():
        text = text.replace(f"<!-- README: {name} -->", body.strip())
    lessons = [f"notebooks/{path.stem}" for path in notebooks.lessons()]
    return text.replace("<!-- tree: lessons -->", tree(lessons, caption="Lessons"))


def exercise_list(pages):
    """Return the page that lists the exercises."""
    names = [Path(page).stem for page in pages if page.startswith("notebooks/exercises/")]
    titles = {name: nbformat.read(ROOT / f"notebooks/exercises/{name}.ipynb", as_version=4) for name in names}
    lines = [f"* [{book.cells[0].source.splitlines()[0].strip('# ')}]({name}.ipynb)" for name, book in titles.items()]
    about = "Each lesson has an exercise that checks itself. Download it, or open it in Colab by its first link.\n\n"
    return f"# Exercises\n\n{about}" + "\n".join(lines) + "\n\n" + tree(names)


def modules():
    """Return the names of busilib's modules, sorted."""
    paths = sorted((ROOT / "busilib").rglob("*.py"))
    return [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in paths if p.stem not in NO_MODULES]


def first_line(module):
    """Return the first sentence of a module's docstring."""
    text = (ROOT / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8")
    return text.split('"""')[1].splitlines()[0]


def provenance():
    """Return the page that says where each stored result comes from."""
    lines = ["| result | measured | data | weights | versions |", "|---|---|---|---|---|"]
    tables = [f"tables/{name}" for name in runs.stored_names("results/tables")]
    for name in [*runs.stored_names(), *tables]:
        content = json.loads((ROOT / "busilib" / "results" / f"{name}.json").read_text(encoding="utf-8"))
        about = content.get("about", content)
        data = about.get("dataset", about.get("data", ""))
        data = data["name"] if isinstance(data, dict) else data
        sha = about.get("dataset_sha256") or about.get("sha256") or (about.get("dataset") or {})
        sha = sha.get("sha256", "") if isinstance(sha, dict) else sha
        weights = about.get("weights") or ""
        weights = weights["sentence"] if isinstance(weights, dict) else weights
        versions = about.get("versions", {})
        used = [f"{key} {versions[key]}" for key in ("keras", "tensorflow", "scikit-learn") if versions.get(key)]
        where = f"{about.get('date', '')}, {about.get('device', '')}".strip(", ")
        lines.append(f"| `{name}` | {where} | {data} {sha[:8] and f'(`{sha[:8]}…`)'} | {weights} | {', '.join(used)} |")
    about = "Each file of `busilib/results`, and on what it was measured. In brackets: the data set's SHA-256."
    return f"# Where the results come from\n\n{about}\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(build(*sys.argv[1:]))
