"""Executing lessons: find them, check their parameters, run them through papermill, make the pages to read.

papermill itself only warns of a parameter that a notebook does not have; here it is refused before anything runs.
"""

import ast
import contextlib
import difflib
import html
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from busilib.cache import bar
from busilib.errors import LessonError


@dataclass(frozen=True)
class Execution:
    """One executed notebook: the copy with its outputs, seconds, and the error when it failed (else None).

    ``runs`` are the names of the runs that it trained or found.
    """

    lesson: Path
    output: Path
    seconds: float
    error: str | None = None
    runs: tuple[str, ...] = ()


def folder():
    """Return where the lessons lie: the checkout's notebooks/, else those that were installed with the package."""
    package = Path(__file__).parent
    for place in (package.parent / "notebooks", package / "lessons"):
        if any(place.glob("[0-9][0-9]_*.ipynb")):
            return place
    raise LessonError(f"No lessons found beside {package}. Install the package again, or work in a checkout.")


def lessons(names=()):
    """Return the notebooks, sorted; ``names`` are numbers ("03"), file names or paths, all lessons when empty."""
    found = sorted(folder().glob("[0-9][0-9]_*.ipynb"))
    if not names:
        return found
    chosen = []
    for name in names:
        matches = [path for path in found if name in (path.name[:2], path.stem, path.name)]
        if not matches and Path(name).is_file():
            matches = [Path(name)]
        if not matches:
            raise LessonError(f"Lesson {name!r} does not exist. There are: {', '.join(path.stem for path in found)}")
        chosen += matches
    return chosen


def parameters(notebook):
    """Return the names and values of a notebook's parameters cell, which holds plain assignments, as a dict."""
    import nbformat

    cells = [c for c in nbformat.read(notebook, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise LessonError(f"{Path(notebook).name} has {len(cells)} cells tagged 'parameters'; it must have one")
    return {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(cells[0].source).body
        if isinstance(statement, ast.Assign)
    }


def check_parameters(notebook, given):
    """Return ``given`` with values of the right type; raise LessonError for a name or type that does not fit."""
    known, checked = parameters(notebook), {}
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise LessonError(f"{Path(notebook).stem} has no parameter {name}.{hint} It has: {', '.join(known)}")
        default = known[name]
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if default is not None and type(value) is not type(default):
            raise LessonError(
                f"{Path(notebook).stem}: {name} = {value!r} is of type {type(value).__name__}; "
                f"it must be {type(default).__name__}, like {default!r}"
            )
        checked[name] = value
    return checked


def execute(notebook, output, given=None, *, watch=None, env=None, cwd=None):
    """Execute one lesson with other parameters into ``output`` and return an Execution.

    When it fails, the copy is kept, with the traceback beside it in OUTPUT.traceback.txt. Twice a second
    ``watch(state)`` is called with a `engine.State`; a reason (text) that it returns stops the kernel. ``env``
    is added to the kernel's environment; ``cwd`` is the folder where it starts, this process's own when None.
    Raises LessonError for a parameter that does not fit, before anything starts.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    from busitools import engine

    given, output = check_parameters(notebook, given or {}), Path(output)
    weights = durations(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    trace = output.with_suffix(".traceback.txt")
    trace.unlink(missing_ok=True)
    began, error, details = time.perf_counter(), None, ""
    with tempfile.TemporaryDirectory(prefix="busilib-") as folder:
        report = Path(folder) / "report.jsonl"
        # A bar in a notebook that nobody watches would only be stored in it.
        own = {"BUSILIB_PROGRESS": "0", "BUSILIB_REPORT": str(report)}
        try:
            papermill.execute_notebook(
                str(notebook), str(output), given,
                engine_name="busilib", kernel_name="python3", config=kernel_config(), progress_bar=False,
                env=os.environ | own | (env or {}), folder=cwd, watch=watch or (lambda state: None),
                report=report, weights=weights,
            )  # fmt: skip
        except papermill.PapermillExecutionError as failure:
            error = f"cell {failure.exec_count}: {failure.ename}: {failure.evalue}"
            details = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(failure.traceback))
        except engine.Stopped as failure:
            error = str(failure)
        except DeadKernelError:
            error = "a cell: the kernel died, perhaps for want of memory"
        except OSError as failure:  # the disk is full, for instance
            error = f"{output.name} could not be written: {failure.strerror or failure}"
        except RuntimeError as failure:  # what nbclient raises when a kernel does not answer
            error = f"the start: {failure}"
        runs = dict.fromkeys(event["run"] for event in engine.events(report) if "run" in event)
    if error is not None:
        with contextlib.suppress(OSError):
            trace.write_text(f"{error}\n\n{details}\n", encoding="utf-8")
    return Execution(Path(notebook), output, time.perf_counter() - began, error, tuple(runs))


def durations(output):
    """Return the seconds that each cell took when ``output`` was last executed; None when that is not known."""
    import nbformat

    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # no copy, or not a whole one
        cells = nbformat.read(output, as_version=4).cells
        return [float(cell.metadata["papermill"]["duration"]) for cell in cells]


def kernel_config():
    """Return the kernel manager's settings: encrypt where it can be had, or ipykernel 7.3 warns at every start."""
    from jupyter_client import KernelManager
    from traitlets.config import Config

    has_it = "transport_encryption" in KernelManager.class_trait_names()
    return Config({"KernelManager": {"transport_encryption": "auto"}} if has_it else {})


def run(names=(), out="runs/quick", given=None):
    """Execute lessons into a folder; write index.html there; return one Execution a lesson.

    A bar shows lesson, cell and epoch, and about how long it will take.

    A parameter is given to the lessons that have it; one that none of them has is refused.
    """
    chosen, given, out = lessons(names), given or {}, Path(out)
    known = {path: set(parameters(path)) for path in chosen}
    for name in given:
        if not any(name in names for names in known.values()):
            check_parameters(chosen[0], {name: given[name]})
    for path in chosen:
        check_parameters(path, {k: v for k, v in given.items() if k in known[path]})
    out.mkdir(parents=True, exist_ok=True)
    executions = []
    for number, path in enumerate(chosen, start=1):
        own = {key: value for key, value in given.items() if key in known[path]}
        with bar(total=1.0, bar_format=LIVE) as line:
            watch = live(line, f"{number} of {len(chosen)}: {path.stem}")
            executions.append(execute(path, out / path.name, own, watch=watch))
        page(executions[-1].output)
    index(executions, out)
    return executions


LIVE = "{desc} {bar:20} {elapsed}, about {remaining} left"


def live(line, name):
    """Return a watch for `execute` that shows on a bar in which cell and epoch a notebook is."""

    def watch(state):
        epoch = f", epoch {state.epoch} of {state.epochs}" if state.epochs else ""
        line.set_description_str(f"{name}, cell {state.cell} of {state.cells}{epoch}", refresh=False)
        line.n = round(state.share, 4)
        line.refresh()

    return watch


# nbconvert's own template drops a picture's alternative text.
_TEMPLATE = """{%- extends "index.html.j2" -%}
{% block data_png scoped %}{% set alt = output | get_metadata("alt", "image/png") %}
<div class="jp-RenderedImage jp-OutputArea-output {{ extra_class }}">
<img {% if alt %}alt="{{ alt | e }}" {% endif %}src="data:image/png;base64,{{ output.data["image/png"] | e }}">
</div>{% endblock data_png %}"""


def page(notebook):
    """Write an executed notebook as a web page beside it; return its path."""
    import nbformat

    target = Path(notebook).with_suffix(".html")
    target.write_text(html_page(nbformat.read(notebook, as_version=4), Path(notebook).stem), encoding="utf-8")
    return target


def html_page(notebook, name, sanitize=False):
    """Return a notebook as a web page (str), its pictures with their descriptions.

    ``sanitize``: keep only plain text markup of its text cells, no script, no picture from elsewhere.
    """
    import bleach
    from nbconvert import HTMLExporter

    tags = "p h1 h2 h3 h4 h5 h6 ul ol li strong em code pre blockquote table thead tbody tr th td a br hr div span"
    kept = {"tags": set(tags.split()), "attributes": {"*": ["id", "class"], "a": ["href"]}, "strip": True}
    exporter = HTMLExporter(template_name="lab", raw_template=_TEMPLATE, sanitize_html=sanitize)
    # nbconvert's own list knows neither headings nor paragraphs.
    exporter.register_filter("clean_html", lambda text: bleach.clean(text, **kept))
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name}})
    return body


def index(executions, out):
    """Write index.html: the executed lessons, their pages, seconds, and what went wrong."""
    rows = []
    for item in executions:
        state = "finished" if item.error is None else f"failed: {html.escape(item.error)}"
        rows.append(
            f'<tr><td><a href="{item.output.stem}.html">{title(item.lesson)}</a></td>'
            f"<td>{item.seconds:.0f} s</td><td>{state}</td></tr>"
        )
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>busi-notebooks: executed lessons</title>'
        "<style>body{font:17px/1.5 sans-serif;max-width:46em;margin:3em auto;padding:0 1em}"
        "td,th{text-align:left;padding:.4em 1em .4em 0;border-bottom:1px solid #ccc}</style>"
        "<h1>Executed lessons</h1><p>For teaching and research, not for diagnosis.</p>"
        "<table><tr><th>lesson</th><th>time</th><th>state</th></tr>" + "".join(rows) + "</table></html>\n"
    )
    target = Path(out) / "index.html"
    target.write_text(text, encoding="utf-8")
    return target


def title(notebook):
    """Return a lesson's title: the first heading in it."""
    import nbformat

    heading = re.search(r"^# (.+)$", nbformat.read(notebook, as_version=4).cells[0].source, re.MULTILINE)
    return html.escape(heading.group(1)) if heading else Path(notebook).stem


def refresh(names=()):
    """Replace the lessons' stored outputs by those of one clean quick run; return the executions.

    A lesson that fails keeps what it had. What differs from machine to machine is dropped: times, widget states,
    papermill's own notes.
    """
    import nbformat

    executions = []
    for path in bar(lessons(names), "lessons", unit="lesson"):
        target = path.with_name(f".{path.stem}.executed.ipynb")
        try:
            done = execute(path, target)
            executions.append(done)
            if done.error is None:
                notebook = tidy(nbformat.read(target, as_version=4))
                nbformat.write(notebook, target)
                shutil.move(target, path)
        finally:
            target.unlink(missing_ok=True)
            target.with_suffix(".traceback.txt").unlink(missing_ok=True)
    return executions


def address():
    """Return the repository's public address: [project.urls] in pyproject.toml is the only place that names it."""
    from importlib.metadata import metadata

    links = dict(link.split(", ", 1) for link in metadata("busi-notebooks").get_all("Project-URL"))
    return links["Repository"]


def relink(notebook):
    """Give a notebook's badge and set-up cell the public address."""
    linked = re.compile(r"(colab\.research\.google\.com/github|git\+https://github\.com)/[\w.-]+/[\w.-]+")
    home = address().removeprefix("https://github.com/")
    for cell in notebook.cells:
        cell.source = linked.sub(rf"\1/{home}", cell.source)
    return notebook


def tidy(notebook):
    """Make a notebook independent of the machine and the moment that executed it; see also `relink`."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number:02d}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
    return relink(notebook)


def sweep(grid, out="runs/sweep", **where):
    """Do all executions of a grid that are not finished yet, on one machine or many: see `busitools.sweep.sweep`."""
    from busitools.sweep import sweep as many

    return many(grid, out, **where)
