"""Grading a class: ``busi grade SUBMISSIONS --out gradebook.csv``.

Each submission is checked (is every named cell there?) and put in order; then nbgrader grades it in a process of its
own, with a kernel in a box (see `sandbox`).

That process is trusted and the kernel that it starts is not: what comes back is counted and cleaned. Hidden tests run
after all the student's cells, and what they print goes nowhere: only their pass or fail is kept, and a message that
stands in the test itself. A cell that has to be stopped (an endless loop, far too much output, a killed kernel) is left
out, and the notebook is run again without it: its other tasks keep their points.
"""

import ast
import asyncio
import contextlib
import copy
import html
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import pandas
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbgrader import preprocessors
from nbgrader.converters import Autograde, GenerateAssignment
from nbgrader.coursedir import CourseDirectory
from nbgrader.utils import determine_grade, setenv

from busilib.cache import bar, write_file
from busilib.errors import ClassroomError
from busitools import exercises, notebooks, sandbox

LARGEST = 20_000_000  # bytes of a submission
NOTEBOOK = re.compile(r"\.ipynb\b", re.IGNORECASE)  # browsers and mail programs append .txt, .json or a number
# Words that an answer rarely needs: whoever uses one that the exercise does not use is read by a person.
ODD = re.compile(
    r"\b(os|sys|subprocess|socket|ctypes|signal|gc|inspect|builtins|urllib|requests|threading|multiprocessing|IPython|"
    r"get_ipython|open|input|exec|eval|__\w+__)\b|^\s*([!%]+\w+)",
    re.MULTILINE,
)


@dataclass
class Grade:
    """What came of one submission: points for each task (None: to be read by the teacher), and remarks in words."""

    student: str
    file: str
    exercise: str = ""
    tasks: dict = field(default_factory=dict)  # grade id of a task → (points or None, of)
    remarks: list = field(default_factory=list)
    notebook: object = None  # as nbgrader graded it, without hidden tests; None when it could not be graded

    points = property(lambda self: sum(points or 0 for points, _ in self.tasks.values()))
    of = property(lambda self: sum(of for _, of in self.tasks.values()))
    by_hand = property(lambda self: sum(of for points, of in self.tasks.values() if points is None))


def grade(submissions, out, solutions=None, trusted=False, limits=None, jobs=2):
    """Grade every notebook in a folder; write table, log and feedback pages; return the list of `Grade`.

    Args:
        submissions: a folder that holds a folder, or a notebook, of each student.
        out: the table; beside it go ``NAME.log`` and ``NAME_feedback/`` with one page per submission.
        trusted: run without a sandbox, as the teacher.
        jobs: how many at a time.

    Raises:
        ClassroomError: nothing to grade, no sandbox, or marks or pages of that name exist already.
    """
    files, out = find(submissions), Path(out)
    for path in (out, _pages(out)):
        if path.exists():
            raise ClassroomError(f"{path} exists already: marks are not overwritten. Name another --out, or move it.")
    sources = {path.name[:2]: exercises.read(path) for path in exercises.sources(solutions)}
    if not trusted:
        sandbox.check()
    grades = [_prepare(student, path, sources) for student, path in files]
    with tempfile.TemporaryDirectory(prefix="busi-grade-") as place, ThreadPoolExecutor(jobs) as pool:
        for number in {one.exercise for one in grades if one.notebook}:
            exercises.release(sources[number])  # says in words what is wrong with a source
            _make_course(sources[number], Path(place) / number)

        def work(number):
            folder = Path(place) / f"submission-{number}"
            _autograde(grades[number], sources, Path(place), folder, trusted, limits or sandbox.Limits())

        for _ in bar(pool.map(work, range(len(grades))), "submissions", len(grades), "submission"):
            pass
    _write(grades, out, "NO sandbox (--trusted)" if trusted else f"In the sandbox.\n{sandbox.REMAINS}")
    return grades


def find(submissions):
    """Return (student, path) of what is to be graded, sorted: the notebooks, or one file of who handed in none.

    The first folder that the notebooks do not all share names the student; a file outside it, its first folder or name.
    """
    top = Path(submissions)
    files = [path.relative_to(top) for path in sorted(top.rglob("*")) if path.is_file() or path.is_symlink()]
    files = [path for path in files if not any(part.startswith((".", "__MACOSX")) for part in path.parts)]
    written = [path for path in files if NOTEBOOK.search(path.name)]
    if not files:
        raise ClassroomError(f"{top} is no folder that holds a folder, or a notebook (.ipynb), per student")
    shared = Path(os.path.commonpath([path.parent for path in written or files]))
    shared = Path() if any(path.parent == shared for path in written or files) else shared
    students = {}
    for path in files:
        parts = (path.relative_to(shared) if path.is_relative_to(shared) else path).parts
        students.setdefault(_text(parts[0] if len(parts) > 1 else NOTEBOOK.split(parts[0])[0]), []).append(path)
    picked = {name: [path for path in paths if path in written] or paths[:1] for name, paths in students.items()}
    return [(name, top / path) for name, paths in picked.items() for path in paths]


def _text(name):
    """Return a file name as text that can be written: it may hold any bytes."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _prepare(student, path, sources):
    """Return the `Grade` of a submission before it has run: its notebook, or why there is none to grade."""
    one = Grade(student, _text(path.name))
    try:
        one.notebook = read(path)
    except ClassroomError as error:
        one.remarks.append(f"not graded: {error}")
    one.exercise = which(one.notebook.cells if one.notebook else [], path, sources)
    if one.exercise:
        graded = [cell.metadata.nbgrader for cell in sources[one.exercise].cells if exercises.graded(cell)]
        one.tasks = {_task(data): (0, data.points) for data in graded}  # until it has run, nothing is earned
    else:
        one.notebook = None
        one.remarks.append("not graded: neither its cells nor its name (NN_….ipynb) say which exercise it answers")
    return one


def _task(data):
    return data.grade_id.removesuffix("-check")


def which(cells, path, sources):
    """Return the number of the exercise that cells answer: most of their grade ids, else the file name; "" if none."""
    ids = [str(exercises.name(cell))[:2] for cell in cells if exercises.name(cell)]
    numbers = sorted(set(ids), key=ids.count, reverse=True) + re.findall(r"(?<!\d)\d\d(?!\d)", path.name)
    return next((number for number in numbers if number in sources), "")


def read(path):
    """Return a submitted notebook; raise ClassroomError in words for what is none."""
    if path.is_symlink() or path.stat().st_size > LARGEST:
        raise ClassroomError(f"the file is a link, or has more than {LARGEST // 10**6} MB: clear its outputs")
    try:
        data = json.loads(path.read_bytes())  # knows UTF-8 and UTF-16, with a mark at the start or not
        text = json.dumps(data, ensure_ascii=False).encode(errors="replace").decode()  # half characters become "?"
        notebook = nbformat.reads(text, as_version=4)
        _, notebook = nbformat.validator.normalize(notebook)  # cell ids: missing in old files, twice in merged ones
        nbformat.validate(notebook)
    except Exception as error:  # many kinds: no text, not JSON, no notebook
        handed_in = "the file" if NOTEBOOK.search(path.name) else f"no .ipynb was handed in, and {path.name}"
        raise ClassroomError(f"{handed_in} is no notebook ({type(error).__name__})") from error
    return notebook


def restore(submitted, source):
    """Return (notebook to grade, remarks): the student's cells, with every locked cell as the source has it.

    Locked cells that are missing are put back, tests at the end; nbgrader would give 0 without a word. So an answer
    whose name an editor dropped is still tested.
    """
    released = {exercises.name(cell): cell for cell in exercises.release(source).cells if exercises.name(cell)}
    missing, remarks, cells = dict(released), [], []
    words = _odd(submitted) - _odd(source)
    remarks += [f"read it: its code has {', '.join(sorted(words))}"] if words else []
    for cell in submitted.cells:
        name = exercises.name(cell)
        cells.append(nbformat.from_dict(cell | {"metadata": {}}))
        if name not in missing:
            remarks += [f"{name} is there twice: the second is run, not graded"] if name in released else []
            continue
        cells[-1] = missing.pop(name)
        changed = cell.source.strip() != cells[-1].source.strip()
        if cells[-1].metadata.nbgrader.solution:
            cells[-1].source = cell.source
            remarks += [] if changed else [f"{name} was not answered"]
        elif changed:
            remarks.append(f"{name} is locked and was changed: put back")
    for cell in missing.values():
        if not cell.metadata.nbgrader.solution:
            cells.insert(len(cells) if exercises.graded(cell) else 0, cell)
    for number, cell in enumerate(cells, start=1):
        cell.id = f"cell-{number:03d}"
    lost = f"missing, or their metadata is lost (tests are put back): {', '.join(missing)}"
    return nbformat.v4.new_notebook(cells=cells, metadata=source.metadata), [lost] * bool(missing) + remarks


def _odd(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return {word or command for word, command in ODD.findall(text)}


def _autograde(one, sources, courses, folder, trusted, limits):
    """Let nbgrader grade one submission; whatever is wrong with it becomes a remark and costs nobody else anything."""
    if one.notebook is None:
        return
    apart = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    apart.set_forkserver_preload(["busitools.grading"])  # seconds of imports, once
    submitted, one.notebook = one.notebook, None
    try:
        ordered, one.remarks = restore(submitted, sources[one.exercise])
        job = (ordered, courses / one.exercise, folder, trusted, limits)
        with ProcessPoolExecutor(1, mp_context=apart) as alone:
            one.notebook = alone.submit(grade_alone, *job).result()
        one.remarks += one.notebook.metadata.remarks
        graded = [cell for cell in one.notebook.cells if exercises.graded(cell)]
        one.tasks |= {_task(cell.metadata.nbgrader): determine_grade(cell) for cell in graded}
    except Exception as error:  # noqa: BLE001
        one.remarks.append(f"could not be graded: {type(error).__name__}: {str(error)[:200]}")


class Stopped(Exception):
    """The kernel had to be stopped at a cell."""


class Execute(preprocessors.Execute):
    """nbgrader's step that runs the cells, by the rules above; `grade_alone` sets ``place`` and ``limits``."""

    def preprocess(self, nb, resources, km=None):
        """Return (the notebook with outputs and without hidden tests, resources)."""
        self.interrupt_on_timeout, self.error_on_timeout = False, {}  # a kernel that was interrupted is not trusted
        self.startup_timeout, self.iopub_timeout, self.shutdown_kernel = 90, 30, "immediate"
        self.timeout_func = lambda cell: max(1, min(self.limits.seconds, round(self.end - time.monotonic())))
        self.kernel_name, self.end = "submission", time.monotonic() + self.limits.total
        self.tests, self.stopped = {}, {}  # place of a hidden test, behind all cells → of the visible one; → why
        plan = copy.deepcopy(nb)
        for at, cell in enumerate(nb.cells):
            if exercises.graded(cell) and exercises.hidden(cell):
                self.tests[len(plan.cells)] = at
                plan.cells.append(nbformat.v4.new_code_cell(cell.source))
                plan.cells[at].source = cell.source = exercises.HIDDEN.sub("", cell.source)
        while True:
            run, self.ran, self.room, self.reason = copy.deepcopy(plan), set(), self.limits.output, None
            try:
                super().preprocess(run, resources)
                break
            except Stopped:
                if time.monotonic() > self.end:
                    break
        for at, cell in enumerate(nb.cells):
            if cell.cell_type == "code":
                cell.outputs = self._outputs(at, cell, run)
        cells = {at: exercises.name(nb.cells[self.tests.get(at, at)]) or "a cell" for at in self.stopped}
        nb.metadata["remarks"] = [f"{cells[at]} was stopped: {reason}" for at, reason in self.stopped.items()]
        return nb, resources

    def create_kernel_manager(self):
        """Return nbclient's kernel manager, its sockets in a fresh folder, the only one that a box can write to."""
        manager = super().create_kernel_manager()
        folder = self.place / f"box{len(self.stopped)}"
        folder.mkdir(mode=0o700)
        manager.transport, manager.connection_file = "ipc" if os.name == "posix" else "tcp", str(folder / "k.json")
        return manager

    def preprocess_cell(self, cell, resources, index):
        """Run one cell, unless it was stopped before or is a hidden test whose visible part failed."""
        visible = self.tests.get(index)
        passed = visible is None or (visible in self.ran and not _errors(self.nb.cells[visible]))
        if cell.cell_type != "code" or index in self.stopped or not passed:
            return cell, resources
        seconds, killed = self.timeout_func(cell), Path(self.km.connection_file).parent.with_suffix(".reason")
        try:
            super().preprocess_cell(cell, resources, index)
        except CellTimeoutError:
            self.reason = self.reason or f"it took more than {seconds} seconds"
        except DeadKernelError:
            died = "the kernel died: too much memory, or the code ended it"
            self.reason = self.reason or (killed.read_text() if killed.exists() else died)
        if self.reason:
            self.stopped[index] = self.reason
            raise Stopped
        self.ran.add(index)
        return cell, resources

    def process_message(self, msg, cell, cell_index):
        """Take one message of the kernel; a hidden test's are dropped, but for its errors and its end."""
        kind, content = msg["msg_type"], msg["content"]
        self.room -= len(str(content))
        if self.room < 0 and not self.reason:
            self.reason = f"far too much output: all cells together may print {self.limits.output // 10**6} MB"
            self.killing = asyncio.ensure_future(self.km.shutdown_kernel(now=True))
        # An update may change what an earlier cell shows, and a widget can hold anything.
        secret = cell_index in self.tests or self.reason or kind == "update_display_data" or kind.startswith("comm_")
        return super().process_message(msg, cell, cell_index) if not secret or kind in ("status", "error") else None

    def _outputs(self, at, cell, run):
        """Return what a student may see of a cell; of a test no warnings, which nbgrader takes for errors."""
        outputs = run.cells[at].outputs
        if at in self.stopped:
            outputs.append(_error(f"stopped: {self.stopped[at]}"))
        if not exercises.graded(cell):
            return outputs
        hidden = next((place for place, visible in self.tests.items() if visible == at), None)
        failed = [output for output in outputs if output.output_type == "error"]
        if not failed and at not in self.ran:
            failed = [_error("it was not reached")]
        elif not failed and hidden not in (None, *self.ran):
            failed = [_error("a check with other numbers did not come to an end")]
        elif not failed and hidden:
            failed = [_error(_hint(error, run.cells[hidden].source)) for error in _errors(run.cells[hidden])]
        return [output for output in outputs if output.get("name") == "stdout"] + failed[:1]


def _hint(error, source):
    """Return why a hidden test failed: student code can put anything into an error, so only the test's words pass."""
    messages = [node.msg for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]
    messages = {message.value for message in messages if isinstance(message, ast.Constant)}
    return "a check with other numbers fails" + (f": {error.evalue}" if error.evalue in messages else "")


def _errors(cell):
    return [output for output in cell.outputs if output.output_type == "error"]


def _error(why):
    return nbformat.v4.new_output("error", ename="Failed", evalue=why, traceback=[why])


def _make_course(source, folder):
    """Make nbgrader's course of one exercise, with its database; it holds the hidden tests: for the teacher only."""
    folder.mkdir(mode=0o700)
    _put(source, folder / "source" / "exercise")
    # nbgrader calls its own helper `alembic` by name, which stands beside this Python.
    with setenv(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])):
        GenerateAssignment(coursedir=_course(folder)).start()


def _put(notebook, folder):
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / "exercise.ipynb")


def _course(folder):
    return CourseDirectory(root=str(folder), assignment_id="exercise", student_id="student")


def grade_alone(submitted, course, place, trusted, limits):
    """Return a submission as nbgrader has graded it, with a copy of its course and everything else in ``place``."""
    logging.disable()
    with contextlib.suppress(ImportError, ValueError):  # Windows has no limits, or a lower one is set already
        import resource

        signal.alarm(2 * limits.total + 300)  # whatever happens, it ends
        # A kernel can send more than this process can hold: then this process ends, and only this submission with it.
        resource.setrlimit(resource.RLIMIT_AS, (8 * 10**9, resource.getrlimit(resource.RLIMIT_AS)[1]))
    spec = place / "kernels" / "submission" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps(sandbox.kernel_spec(trusted, limits)), encoding="utf-8")
    os.environ["JUPYTER_PATH"] = str(place)
    shutil.copytree(course, place / "course")
    _put(submitted, place / "course" / "submitted" / "student" / "exercise")
    Execute.place, Execute.limits = place, limits
    grader = Autograde(coursedir=_course(place / "course"))
    steps = grader.autograde_preprocessors
    grader.autograde_preprocessors = [Execute if step is preprocessors.Execute else step for step in steps]
    grader.start()
    return nbformat.read(place / "course" / "autograded" / "student" / "exercise" / "exercise.ipynb", as_version=4)


def _write(grades, out, boxed):
    """Write the table, the log, and a page for each submission."""
    table = pandas.DataFrame(
        {"student": one.student, "exercise": one.exercise, "file": one.file}
        | {"points": one.points, "of": one.of, "to_read": one.by_hand, "remarks": "; ".join(one.remarks)}
        | {task: _mark(points) for task, (points, _) in one.tasks.items()}
        for one in grades
    ).map(_cell)
    pages, folders = _pages(out), {}
    pages.mkdir(parents=True)
    with write_file(out) as part:
        table.to_csv(part, index=False, float_format="%g")
    lines = table[["student", "file", "points", "of", "remarks"]].to_string(index=False)
    text = f"{len(grades)} submissions. Table: {out}. Pages: {pages}\n\n{lines}\n\n{boxed}\n"
    out.with_suffix(".log").write_text(text, encoding="utf-8")
    for one in grades:
        if one.student not in folders:
            folders[one.student] = _free(pages, one.student)
            folders[one.student].mkdir()
        file = _free(folders[one.student], NOTEBOOK.split(one.file)[0], ".html")
        file.write_text(page(one), encoding="utf-8", errors="replace")


def _pages(out):
    return out.with_name(f"{out.stem}_feedback")


def _free(folder, name, ending=""):
    """Return a path in ``folder`` that is not there yet, in upper or lower case: two students' pages never mix."""
    name, there = re.sub(r"[^\w.-]", "_", name)[:60], {path.name.casefold() for path in folder.iterdir()}
    names = (f"{name}{number}{ending}" for number in ("", *(f"-{n}" for n in range(2, len(there) + 3))))
    return next(folder / free for free in names if free.casefold() not in there)


def _mark(points):
    return "?" if points is None else f"{points:g}"


def _cell(value):
    """Return a value that a spreadsheet does not take for a formula."""
    return f"'{value}" if str(value).startswith(("=", "+", "-", "@", "\t")) else value


def page(one):
    """Return a submission's feedback as a web page (str): points, remarks, then the notebook as it was graded."""
    head = [f"# {html.escape(one.student)}: exercise {one.exercise}", f"**{one.points:g} of {one.of:g} points.**"]
    head[-1] += f" {one.by_hand:g} more are given by your teacher." if one.by_hand else ""
    tasks = [f"* {task}: {_mark(points)} of {of:g}" for task, (points, of) in one.tasks.items()]
    remarks = [f"* {html.escape(remark)}" for remark in one.remarks]
    first = nbformat.v4.new_markdown_cell("\n\n".join([*head, "\n".join(remarks), "\n".join(tasks)]))
    whole = nbformat.v4.new_notebook(cells=[first, *(one.notebook.cells if one.notebook else [])])
    return notebooks.html_page(whole, f"Exercise {one.exercise}", sanitize=True)
