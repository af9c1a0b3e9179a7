"""nbgrader grades one submission; `grading` calls it in a process of its own.

That process is trusted and the kernel that it starts is not: what comes back is counted and cleaned. Hidden tests run
after all the student's cells, and what they print goes nowhere: only their pass or fail is kept, and a message that
stands in the test itself. A cell that has to be stopped (an endless loop, far too much output, a killed kernel) is left
out, and the notebook is run again without it: its other tasks keep their points.
"""

import ast
import asyncio
import contextlib
import copy
import json
import logging
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import nbformat
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbgrader import preprocessors
from nbgrader.converters import Autograde, GenerateAssignment
from nbgrader.coursedir import CourseDirectory
from nbgrader.utils import setenv

from busitools import exercises, sandbox

RESTARTS = 4  # so many cells are left out; then the run ends


class Stopped(Exception):
    """The kernel had to be stopped at a cell."""


class Execute(preprocessors.Execute):
    """nbgrader's step that runs the cells, by the rules above; `grade` sets ``place`` and ``limits``."""

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
                if len(self.stopped) > RESTARTS or time.monotonic() > self.end:
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


def make_course(source, folder):
    """Make nbgrader's course of one exercise, with its database; it holds the hidden tests: for the teacher only."""
    folder.mkdir(mode=0o700)
    _write(source, folder / "source" / "exercise")
    # nbgrader calls its own helper `alembic` by name, which stands beside this Python.
    with setenv(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])):
        GenerateAssignment(coursedir=_course(folder)).start()


def _write(notebook, folder):
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / "exercise.ipynb")


def _course(folder):
    return CourseDirectory(root=str(folder), assignment_id="exercise", student_id="student")


def grade(submitted, course, place, trusted, limits):
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
    _write(submitted, place / "course" / "submitted" / "student" / "exercise")
    Execute.place, Execute.limits = place, limits
    grader = Autograde(coursedir=_course(place / "course"))
    steps = grader.autograde_preprocessors
    grader.autograde_preprocessors = [Execute if step is preprocessors.Execute else step for step in steps]
    grader.start()
    return nbformat.read(place / "course" / "autograded" / "student" / "exercise" / "exercise.ipynb", as_version=4)
