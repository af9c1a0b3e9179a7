"""Executing lessons: find them, check their parameters, run them through papermill, make the pages to read.

papermill itself only warns of a parameter that a notebook does not have; here it is refused before anything runs.
"""

import ast
import contextlib
import html
import json
import logging
import os
import re
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import bleach
import nbformat
import papermill
import psutil
from jupyter_client import AsyncKernelManager
from latex2mathml import converter
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from busilib import recipes
from busilib.cache import bar
from busilib.errors import LessonError

BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)")  # a picture that would be loaded from elsewhere
LINK = re.compile(r"(?<!!)\[([^][]*)\]\((?![a-z]+:|#)([^)#\s]+)([^)\s]*)\)")  # to a file of the repository
WIDGET = "application/vnd.jupyter.widget-view+json"
logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what went wrong is told in our own words


@dataclass(frozen=True)
class Execution:
    """One executed notebook: the copy with its outputs, seconds, and the error when it failed (else None).

    ``processor`` are the processor seconds of its kernel and of what the kernel started, up to the last cell that
    ended; None when no cell did.
    """

    lesson: Path
    output: Path
    seconds: float
    error: str | None = None
    processor: float | None = None


def folder():
    """Return where the lessons lie: the checkout's notebooks/, else those that were installed with the package."""
    package = Path(__file__).parent
    for place in (package.parent / "notebooks", package / "lessons"):
        if any(place.glob("[0-9][0-9]_*.ipynb")):
            return place
    raise LessonError(f"No lessons found beside {package}. Install the package again, or work in a checkout.")


def lessons(names=()):
    """Return the notebooks, sorted; ``names`` are numbers ("03"), file names or paths, all lessons when empty."""
    paths, chosen = sorted(folder().glob("[0-9][0-9]_*.ipynb")), []
    for name in names or [path.name for path in paths]:
        matches = [path for path in paths if name in (path.name[:2], path.stem, path.name)]
        if not matches and not Path(name).is_file():
            raise LessonError(f"Lesson {name!r} does not exist. There are: {', '.join(path.stem for path in paths)}")
        chosen += matches or [Path(name)]
    return chosen


def parameters(notebook):
    """Return the names and values of a notebook's parameters cell, which holds plain assignments, as a dict."""
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise LessonError(f"{Path(notebook).name} has {len(cells)} cells tagged 'parameters'; it must have one")
    lines = [line for line in ast.parse(cells[0].source).body if isinstance(line, ast.Assign)]
    return {line.targets[0].id: ast.literal_eval(line.value) for line in lines}


def check_parameters(notebook, given):
    """Return ``given`` as it is handed on; raise LessonError for a name or value that does not fit.

    A text stays as it is where the default is one; else it is read as Python reads it ("3" → 3).
    """
    defaults, checked = parameters(notebook), {}
    for name, value in given.items():
        if name not in defaults:
            raise LessonError(f"{Path(notebook).stem} has no parameter {name}. It has: {', '.join(defaults)}")
        checked[name] = value
        if isinstance(value, str) and not isinstance(defaults[name], str):
            with contextlib.suppress(ValueError, SyntaxError):
                checked[name] = ast.literal_eval(value)
    recipes.check_parameters(checked)
    return checked


def share(given, notebooks):
    """Return {notebook: those of the given parameters that it has}; raise LessonError for one that none of them has."""
    names = {path: parameters(path).keys() & given for path in notebooks}
    for name in given.keys() - set().union(*names.values()):
        check_parameters(notebooks[0], {name: given[name]})  # raises
    return {path: {name: given[name] for name in given if name in names[path]} for path in notebooks}


def execute(notebook, output, given=None, *, watch=None, env=None, cwd=None):
    """Execute one lesson with other parameters into ``output`` and return an Execution.

    When it fails, the copy is kept; the traceback stands in it.

    Args:
        given: values of parameters; LessonError for one that does not fit, before anything starts.
        watch: called twice a second with the `Progress`; a reason (text) that it returns stops the kernel.
        env: added to the kernel's environment.
        cwd: the folder where the kernel starts, this process's own when None.
    """
    given, output = check_parameters(notebook, given or {}), Path(output)
    cells = sum(cell.cell_type == "code" for cell in nbformat.read(notebook, as_version=4).cells)
    if output.resolve() == Path(notebook).resolve():
        raise LessonError(f"{notebook} would be overwritten by its own output: name another folder (--out)")
    output.parent.mkdir(parents=True, exist_ok=True)
    error = None
    with tempfile.TemporaryDirectory(prefix="busitools-") as scratch:
        # papermill adds a cell of values
        progress = Progress(Path(scratch) / "report.jsonl", cells + bool(given), watch or (lambda progress: None))
        # A bar in a notebook that nobody watches would only be stored in it.
        silent = {"BUSILIB_PROGRESS": "0", "BUSILIB_REPORT": str(progress.report)}
        start = {"env": os.environ | silent | (env or {}), "cwd": cwd}

        class Kernel(AsyncKernelManager):
            def start_kernel(self, **options):
                progress.kernel = self
                return super().start_kernel(**options | start)

        progress.start()
        try:
            papermill.execute_notebook(
                str(notebook), str(output), given, kernel_name="python3", progress_bar=False, start_timeout=180,
                kernel_manager_class=Kernel, on_cell_execute=progress.cell_starts, on_cell_executed=progress.cell_ended,
                extra_arguments=["--IPKernelApp.log_level=50"],  # else it warns of TCP, and of what ends it
            )  # fmt: skip
        except papermill.PapermillExecutionError as failure:
            error = f"cell {failure.exec_count}: {failure.ename}: {failure.evalue}"
        except OSError as failure:  # the disk is full, for instance
            error = f"{output.name} could not be written: {failure.strerror or failure}"
        except RuntimeError as failure:  # what nbclient raises when a kernel dies or does not answer
            error = progress.reason or f"the kernel died or gave no answer, perhaps for want of memory: {failure}"
        finally:
            progress.over.set()
            progress.join()
    return Execution(Path(notebook), output, time.monotonic() - progress.began, error, progress.processor)


class Progress(threading.Thread):
    """How far an execution is: code cell ``cell`` of ``cells``, ``epoch`` of ``epochs``; both 0 before the first.

    ``seconds`` have passed; ``share`` in [0, 1] is what is done; ``processor`` as in `Execution`. The thread shows it
    to ``watch`` twice a second until ``over`` is set; a reason that the watch returns stops the kernel.
    """

    def __init__(self, report, cells, watch):
        super().__init__(daemon=True)
        self.report, self.cells, self.watch, self.began = report, cells, watch, time.monotonic()
        self.cell = self.epoch = self.epochs = self.seconds = self.share = self.earlier = 0
        self.kernel, self.reason, self.processor, self.over = None, None, None, threading.Event()

    def cell_starts(self, **_):
        """A hook of nbclient. The epochs of the cell before are not this one's."""
        self.cell, self.earlier = self.cell + 1, len(self.events())

    def cell_ended(self, **_):
        """A hook of nbclient."""
        with contextlib.suppress(psutil.Error, AttributeError):
            process = psutil.Process(self.kernel.provisioner.pid)
            # Of each process its own times, and those of its children that have ended.
            self.processor = sum(sum(one.cpu_times()[:4]) for one in (process, *process.children(recursive=True)))

    def run(self):
        """Show the state to the watch, again and again."""
        while not self.over.wait(0.5):
            epochs = [(event["epoch"], event["epochs"]) for event in self.events()[self.earlier :] if "epoch" in event]
            self.epoch, self.epochs = epochs[-1] if epochs else (0, 0)
            self.seconds = time.monotonic() - self.began
            self.share = (max(self.cell - 1, 0) + self.epoch / max(self.epochs, 1)) / self.cells
            self.reason = self.reason or self.watch(self)
            if self.reason:
                with contextlib.suppress(psutil.Error, AttributeError):  # there is none before it has started
                    psutil.Process(self.kernel.provisioner.pid).kill()  # however busy it is

    def events(self):
        """Return what `busilib.cache.report` wrote, as dicts; a line that is not whole (yet) does not count."""
        text = self.report.read_text(encoding="utf-8") if self.report.exists() else ""
        return [json.loads(line) for line in text.split("\n") if line.endswith("}") and line.count("{") == 1]


def run(names=(), out="runs/quick", given=None):
    """Execute lessons into a folder, with a page of each and an index.html; yield an Execution as each ends.

    A bar shows lesson, cell and epoch, and about how long it will take. A parameter is given to the lessons that have
    it; LessonError for one that none of them has, before anything runs.
    """
    out, executions = Path(out), []
    given = {path: check_parameters(path, values) for path, values in share(given or {}, lessons(names)).items()}
    for done in _each([(path, out / path.name, values) for path, values in given.items()]):
        executions.append(done)
        page(done.output, {path.stem for path in given})
        index(executions, out)
        yield done


def _each(jobs):
    """Yield the Execution of each (lesson, output, parameters), with a live bar while it lasts."""
    for number, (path, output, given) in enumerate(jobs, start=1):
        with bar(total=1.0, bar_format="{desc} {bar:20} {elapsed}, about {remaining} left", leave=False) as line:
            watch = partial(_draw, line, f"{number} of {len(jobs)}: {path.stem}")
            done = execute(path, output, given, watch=watch)
        yield done


def _draw(line, name, at):
    epoch = f", epoch {at.epoch} of {at.epochs}" if at.epochs else ""
    line.set_description_str(f"{name}, cell {at.cell} of {at.cells}{epoch}", refresh=False)
    line.n = round(at.share, 4)
    line.refresh()


def page(notebook, others=()):
    """Write an executed notebook as a web page beside it; return its path.

    ``others`` are the stems of the notebooks with a page beside it. Other links lead to the repository: to its public
    address, and while it has none the words stay without a link.
    """
    content, home = nbformat.read(notebook, as_version=4), address()

    def move(link):
        words, path, place = link.groups()
        if path.removesuffix(".ipynb") in others:
            return f"[{words}]({path.removesuffix('.ipynb')}.html)"
        online = f"{home}/blob/main/{os.path.normpath(f'notebooks/{path}')}{place}"
        return words if "/OWNER/" in home else f"[{words}]({online})"

    for cell in content.cells:
        cell.source = LINK.sub(move, cell.source) if cell.cell_type == "markdown" else cell.source
    content.cells.insert(0, nbformat.v4.new_markdown_cell("[Executed lessons](index.html)"))
    target = Path(notebook).with_suffix(".html")
    target.write_text(html_page(content, Path(notebook).stem), encoding="utf-8")
    return target


class _Renderer(IPythonRenderer):
    """Markdown as nbconvert renders it, but with formulas as MathML, which browsers show by themselves."""

    def inline_math(self, body, display="inline"):
        """Return a formula in TeX as MathML; as it stands when it cannot be read."""
        try:
            return converter.convert(body, display=display)
        except Exception:  # its errors have no base in common
            return f"<code>{html.escape(body)}</code>"

    def block_math(self, body):
        return self.inline_math(body, "block")


# What the text cells of a submission may hold: nbconvert's own list knows neither headings nor formulas.
_TAGS = "p h1 h2 h3 h4 h5 h6 ul ol li strong em code pre blockquote table thead tbody tr th td a br hr div span "
_TAGS += "math mrow mi mo mn mtext mspace mfrac msub msup msubsup msqrt mroot mover munder munderover mtable mtr mtd"
_ATTRIBUTES = {"*": ["id", "class", "display", "stretchy"], "a": ["href"]}


def html_page(notebook, name, sanitize=False):
    """Return a notebook as a web page (str) that needs no network: pictures with descriptions, formulas as MathML.

    ``sanitize``: keep only plain text markup of its text cells, text and pictures of its outputs, and no script.
    """
    shown = {"NbConvertBase": {"display_data_priority": ["image/png", "text/plain"]}} if sanitize else {}
    template = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    exporter = HTMLExporter(Config(shown), template_name="lab", raw_template=template, sanitize_html=sanitize)
    render = MarkdownWithMath(_Renderer(escape=False)).render
    exporter.register_filter("markdown2html", lambda text: render(BADGE.sub(r"[Open in Colab](\1)", text)))
    clean = partial(bleach.clean, tags=set(_TAGS.split()), attributes=_ATTRIBUTES, strip=True)
    exporter.register_filter("clean_html", clean)
    text = exporter.from_notebook_node(without_widgets(notebook), {"metadata": {"name": name}})[0]
    return text.replace("<th></th>", "<td></td>")  # a heading without words is read aloud


def without_widgets(notebook):
    """Put a sentence in the place of each widget: without its kernel it is dead, and would load scripts."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if WIDGET in output.get("data", {}):
            output.data = nbformat.from_dict({"text/plain": "(Run the lesson: buttons and sliders stand here then.)"})
    return notebook


def index(executions, out):
    """Write index.html: the executed lessons, their pages, seconds, and what went wrong."""
    text = "# Executed lessons\n\nFor teaching and research, not for diagnosis.\n\n| lesson | time | state |\n|-|-|-|\n"
    for item in executions:
        state = "finished" if item.error is None else f"failed: {html.escape(item.error).replace(chr(10), ' ')}"
        text += f"| [{item.lesson.stem}]({item.output.stem}.html) | {item.seconds:.0f} s | {state} |\n"
    for name in sorted({path.stem for path in out.glob("[0-9]*.html")} - {item.output.stem for item in executions}):
        text += f"| [{name}]({name}.html) | | of an earlier run |\n"
    whole = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    (out / "index.html").write_text(html_page(whole, "Executed lessons"), encoding="utf-8")


def refresh(names=()):
    """Replace the lessons' stored outputs by those of one clean quick run; yield an Execution as each ends.

    A lesson that fails keeps what it had. What differs from machine to machine is dropped: times, widget states,
    papermill's own notes.
    """
    with tempfile.TemporaryDirectory(prefix="busitools-") as scratch:
        for done in _each([(path, Path(scratch) / path.name, {}) for path in lessons(names)]):
            if done.error is None:
                nbformat.write(tidy(nbformat.read(done.output, as_version=4)), done.lesson)
            yield done


def address():
    """Return the repository's public address: [project.urls] in pyproject.toml is the only place that names it."""
    from importlib.metadata import metadata

    return dict(link.split(", ", 1) for link in metadata("busi-notebooks").get_all("Project-URL"))["Repository"]


# Said beside a badge that leads nowhere yet.
WAITING = " *(works once this project has a public address)*"


def relink(notebook, url=None):
    """Give a notebook's badge and set-up cell the public address, or another ``url``; say so while it is none."""
    linked = re.compile(r"(colab\.research\.google\.com/github|git\+https://github\.com)/[\w.-]+/[\w.-]+")
    home = (url or address()).removeprefix("https://github.com/")
    waiting = WAITING if home.startswith("OWNER/") else ""
    for cell in notebook.cells:
        source = linked.sub(rf"\1/{home}", cell.source.replace(WAITING, ""))
        cell.source = re.sub(r"\[!\[Open in Colab\]\S*\]\(\S*\)", rf"\g<0>{waiting}", source)
    return notebook


def tidy(notebook):
    """Make a notebook independent of the machine and the moment that executed it; see also `relink`."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    without_widgets(notebook)
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
    return relink(notebook)
