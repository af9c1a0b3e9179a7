"""Grading a class: ``busi grade SUBMISSIONS --out gradebook.csv``.

Each submission is checked (is every graded cell there?), its locked tests are put back, and it runs in a box of its own
(see `sandbox` and `worker`). Hidden tests run after all the student's cells, and what they print goes nowhere: only
their pass or fail is kept, and a message that stands in the test itself. Points are given by nbgrader's own rule.
"""

import ast
import copy
import csv
import html
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

from busilib.cache import bar
from busilib.errors import ClassroomError
from busitools import exercises, sandbox

LARGEST = 20_000_000  # bytes of a submission


@dataclass
class Grade:
    """What came of one submission: points a task (None: to be read by the teacher), and remarks in words."""

    student: str
    file: str
    exercise: str = ""
    tasks: dict = field(default_factory=dict)  # grade id of a task → (points or None, of)
    remarks: list = field(default_factory=list)
    seconds: float = 0.0
    notebook: object = None  # with the student's outputs and our words: the feedback

    @property
    def points(self):
        return sum(points or 0 for points, _ in self.tasks.values())

    @property
    def of(self):
        return sum(of for _, of in self.tasks.values())

    @property
    def by_hand(self):
        return sum(of for points, of in self.tasks.values() if points is None)


def grade(submissions, out, solutions=None, trusted=False, limits=None, jobs=2):
    """Grade every notebook in a folder; write the table, the log and a page a student; return the list of `Grade`.

    ``submissions`` holds a folder a student (or a file a student). ``out`` is the table; beside it go ``NAME.log`` and
    ``NAME_feedback/``. ``trusted`` runs without a sandbox, as the teacher. ``jobs``: how many at a time.
    Raises ClassroomError when there is nothing to grade, no sandbox, or ``out`` exists already.
    """
    files, out = find(submissions), Path(out)
    pages = out.with_name(f"{out.stem}_feedback")
    for path in (out, pages):
        if path.exists():
            raise ClassroomError(f"{path} exists already: marks are not overwritten. Name another --out, or move it.")
    sources = {path.name[:2]: exercises.read(path) for path in exercises.sources(solutions)}
    exercises._nbgrader()  # said before anything runs, when it is missing
    tool, limits = None if trusted else sandbox.find(), limits or sandbox.Limits()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="busi-grade-") as place:
        os.chmod(place, 0o711)  # a box that runs as another user must reach its own folder
        with ThreadPoolExecutor(jobs) as pool:
            waiting = [
                pool.submit(_one, student, path, sources, Path(place) / f"s{number}", tool, 61000 + number, limits)
                for number, (student, path) in enumerate(files)
            ]
            for _ in bar(as_completed(waiting), "submissions", total=len(waiting), unit="submission"):
                pass
        grades = [future.result() for future in waiting]
    _write(grades, out, pages, tool)
    return grades


def find(submissions):
    """Return (student, path) of every notebook in a folder, sorted: the first folder below it names the student."""
    top = Path(submissions)
    if not top.is_dir():
        raise ClassroomError(f"{top} is no folder. Give the folder that holds a folder, or a notebook, a student.")
    found = []
    for path in sorted(top.rglob("*.ipynb")):
        parts = path.relative_to(top).parts
        if not any(part.startswith(".") for part in parts):  # .ipynb_checkpoints, for instance
            found.append((parts[0] if len(parts) > 1 else path.stem, path))
    if not found:
        raise ClassroomError(f"{top} holds no notebook (.ipynb).")
    return found


def _one(student, path, sources, place, tool, user, limits):
    """Grade one submission; whatever is wrong with it becomes a remark and costs nobody else anything."""
    began, result = time.monotonic(), Grade(student, str(path.name))
    try:
        _expect(result, by_name(path, sources), sources)
        submitted = read(path)
        number = which(submitted, path, sources)
        _expect(result, number, sources)
        source = sources[number]
        merged, result.remarks = restore(submitted, source)
        token = secrets.token_hex(8)
        done = _run(steps(merged, source, token), place, tool, user, limits)
        result.notebook = settle(merged, source, done, token, result)
    except ClassroomError as error:
        result.remarks.append(str(error))
    except Exception as error:  # noqa: BLE001 (one submission must never stop the class)
        result.remarks.append(f"could not be graded: {type(error).__name__}: {str(error)[:200]}")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    result.seconds = time.monotonic() - began
    return result


def read(path):
    """Return a submitted notebook; raise ClassroomError in words for what is none."""
    import nbformat

    if path.is_symlink() or not path.is_file():
        raise ClassroomError("not graded: the file is a link, not a notebook")
    size = path.stat().st_size
    if size == 0:
        raise ClassroomError("not graded: the file is empty")
    if size > LARGEST:
        raise ClassroomError(f"not graded: the file has {size // 10**6} MB; clear its outputs and hand it in again")
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        _, notebook = nbformat.validator.normalize(notebook)  # cell ids: missing in old files, twice in merged ones
        nbformat.validate(notebook)
    except Exception as error:  # many kinds: not UTF-8, not JSON, no notebook
        raise ClassroomError(f"not graded: the file is no notebook ({type(error).__name__})") from error
    for cell in notebook.cells:
        if not isinstance(cell.metadata.get("nbgrader", {}), dict):
            del cell.metadata["nbgrader"]
    return notebook


def _expect(result, number, sources):
    """Note which exercise it is, with 0 points for each task: until it has run, nothing is earned."""
    if number:
        result.exercise = number
        result.tasks = {task: (0, of) for task, of in worth(sources[number]).items()}


def by_name(path, sources):
    """Return the number of an exercise that stands in a file's name, None when there is none."""
    found = [number for number in re.findall(r"(?<!\d)\d\d(?!\d)", path.name) if number in sources]
    return found[0] if found else None


def which(notebook, path, sources):
    """Return the number of the exercise that a notebook answers: most of its grade ids, else its file name."""
    found = [str(exercises.name(cell))[:2] for cell in notebook.cells if exercises.name(cell)]
    found = [number for number in found if number in sources]
    if found:
        return max(sorted(set(found)), key=found.count)
    if by_name(path, sources) is None:
        raise ClassroomError("not graded: neither its cells nor its name (NN_….ipynb) say which exercise it answers")
    return by_name(path, sources)


def worth(source):
    """Return {task: points} of a source notebook, in its order; a task is named by its answer's grade id."""
    graded = [cell.metadata.nbgrader for cell in source.cells if cell.metadata.get("nbgrader", {}).get("grade")]
    return {data.grade_id.removesuffix("-check"): data.points for data in graded}


def restore(submitted, source):
    """Return (notebook to run, remarks): the student's cells, with every locked cell as the source has it.

    A locked cell that is missing is put back behind the cell it followed; an answer that is missing is said. nbgrader
    would give 0 for both without a word.
    """
    import nbformat

    wanted = {exercises.name(cell): cell for cell in source.cells if exercises.name(cell)}
    released = {exercises.name(cell): cell.source.strip() for cell in exercises.release(source).cells}
    remarks, cells = _about_kernel(submitted) + recognise(submitted, wanted, released), []
    for cell in submitted.cells:
        name = exercises.name(cell)
        if name in wanted and name in map(exercises.name, cells):
            remarks.append(f"{name} is there twice: the second is run, not graded")
            name = None
        if name not in wanted:
            cell.metadata.pop("nbgrader", None)
            cells.append(cell)
            continue
        cells.append(copy.deepcopy(wanted[name]))
        changed = cell.source.strip() != released[name]
        if cells[-1].metadata.nbgrader.solution:
            cells[-1].source = cell.source
            remarks += [] if changed else [f"{name} was not answered"]
        elif changed:
            remarks.append(f"{name} is locked and was changed: put back")
    for before, name in zip([None, *wanted], wanted, strict=False):
        if name not in map(exercises.name, cells):
            lost = copy.deepcopy(wanted[name])
            remarks.append(f"{name} was missing: put back")
            if lost.metadata.nbgrader.solution:
                lost.source = "pass  # This cell was missing." if lost.cell_type == "code" else released[name]
                remarks[-1] = f"{name}, an answer, is missing"
            at = next((i + 1 for i, cell in enumerate(cells) if before and exercises.name(cell) == before), 0)
            cells.insert(at, lost)
    for number, cell in enumerate(cells, start=1):
        cell.id = f"cell-{number:03d}"
    return nbformat.v4.new_notebook(cells=cells, metadata=source.metadata), remarks


def _about_kernel(submitted):
    kernel = submitted.metadata.get("kernelspec", {}).get("name", "python3")
    return [] if kernel == "python3" else [f"kernel {str(kernel)[:30]!r}: run with python3 all the same"]


def recognise(submitted, wanted, released):
    """Give cells back the names that an editor dropped with their metadata; return remarks.

    A locked cell is known by its text. The last unnamed code cell before a known test is the answer to it.
    """
    present = {exercises.name(cell) for cell in submitted.cells}
    found, last = [], None
    for cell in submitted.cells:
        if exercises.name(cell) or cell.cell_type != "code":
            continue
        same = [name for name in wanted if name not in present and released[name] == cell.source.strip()]
        locked = [name for name in same if not wanted[name].metadata.nbgrader.solution]
        if not locked:
            last = cell
            continue
        answer = locked[0].removesuffix("-check")
        for name, one in ((locked[0], cell), (answer, last)):
            if one is not None and name in wanted and name not in present:
                one.metadata["nbgrader"] = {"grade_id": name}
                present.add(name)
                found.append(name)
        last = None
    return [f"metadata lost, found again by their text: {', '.join(found)}"] if found else []


# Words that an answer to these exercises has no use for: how cells are run, other processes, the hidden tests.
ODD = ("HIDDEN TESTS", "run_cell", "input_transform", "ast_transform", "/proc/", "settrace", "_getframe")


def oddities(merged, done):
    """Return remarks on what a teacher should read: code that looks at how it is tested, limits that were reached."""
    own = "\n".join(c.source for c in merged.cells if c.cell_type == "code" and not exercises.hidden(c))
    remarks = [f"the code has {word!r} in it: read it" for word in ODD if word in own]
    secret = {line.strip() for c in merged.cells for line in exercises.hidden(c).splitlines() if len(line.strip()) > 20}
    late = [step for key, step in done.items() if key.endswith("-hidden")]
    # A failed test's own traceback shows its lines as a matter of course; what is printed or raised does not.
    late = json.dumps([[o for o in step["outputs"] if o["output_type"] != "error"] + [step["error"]] for step in late])
    if any(json.dumps(line)[1:-1] in late for line in secret):
        remarks.append("the code tried to show the hidden tests: what it showed was dropped")
    errors = [str((step["error"] or {}).get("value")) for step in done.values()]
    if any("Resource temporarily unavailable" in text or "can't start new thread" in text for text in errors):
        remarks.append("the code started more processes or threads than it may have")
    return remarks


def steps(merged, source, token):
    """Return the worker's steps: all cells with visible tests, each whole test again, a decoy that must fail."""
    first, second = [], []
    for cell in merged.cells:
        if cell.cell_type != "code":
            continue
        first.append({"key": cell.id, "source": exercises.HIDDEN.sub("", cell.source)})
        if exercises.hidden(cell) and cell.metadata.nbgrader.grade:
            second.append({"key": f"{cell.id}-hidden", "source": cell.source, "after": cell.id})
    decoy = {"key": "decoy", "source": f'assert 1 + 1 == 3, "{token}"'}
    return [*first, *second, decoy]


def _run(what, place, tool, user, limits):
    """Run the steps in a worker process; return its result. A worker that is not back in time is killed."""
    place.mkdir()
    os.chmod(place, 0o711)
    job, answer = place / "job.json", place / "result.json"
    job.write_text(
        json.dumps({"steps": what, "folder": str(place), "tool": tool, "user": user, "limits": asdict(limits)}),
        encoding="utf-8",
    )
    os.chmod(job, 0o600)  # it holds the hidden tests
    process = subprocess.Popen(
        [sys.executable, "-m", "busitools.worker", str(job), str(answer)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=limits.total * 2 + 120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise ClassroomError("stopped: the time for this submission was up") from None
    if not answer.is_file():
        last = (said.decode(errors="replace").strip().splitlines() or ["it ended without a word"])[-1]
        raise ClassroomError(f"stopped: what runs the notebook broke down ({last[:150]})")
    return json.loads(answer.read_text(encoding="utf-8"))


def settle(merged, source, done, token, result):
    """Give points from what the worker found; fill ``result``; return the notebook for the student."""
    from nbgrader.utils import determine_grade

    decoy = done.get("decoy", {})
    fooled = "decoy" in done and not decoy.get("stopped") and token not in str((decoy.get("error") or {}).get("value"))
    if fooled:
        result.remarks.append("a test that must fail did not: the code has tampered with Python. Read it; 0 points")
    if "start" in done:
        result.remarks.append(done["start"]["stopped"])
    result.remarks += oddities(merged, done)
    feedback = copy.deepcopy(merged)
    feedback.cells = []
    for cell in merged.cells:
        step = done.get(cell.id, {})
        shown = copy.deepcopy(cell)
        shown.source = exercises.HIDDEN.sub("", shown.source)
        if cell.cell_type == "code":
            shown.outputs = [_harmless(output) for output in step.get("outputs", [])]
        feedback.cells.append(shown)
        note = step.get("stopped")
        if note:
            result.remarks.append(f"{exercises.name(cell) or 'a cell'} was stopped: {note}")
        data = cell.metadata.get("nbgrader", {})
        if data.get("grade"):
            why = _failure(cell, step, done.get(f"{cell.id}-hidden"), fooled)
            graded = copy.deepcopy(cell)
            if cell.cell_type == "code":
                graded.outputs = [_error(why)] if why else []
            else:
                graded.metadata.nbgrader["checksum"] = _stub_checksum(source, exercises.name(cell))
            points, of = determine_grade(graded)
            result.tasks[exercises.name(cell).removesuffix("-check")] = (points, of)
            note = _sentence(points, of, why)
        if note:
            feedback.cells.append(_note(note))
    feedback.cells.insert(0, _note(_title(result)))
    return feedback


def _failure(cell, step, hidden, fooled):
    """Return why a test failed, in words that give nothing of a hidden test away; None when it passed."""
    if cell.cell_type != "code":
        return None
    if fooled:
        return "the code has tampered with Python"
    if not step:
        return "it was not reached"
    if step.get("stopped"):
        return f"stopped: {step['stopped']}"
    if step.get("error"):
        return f"{step['error']['name']}: {step['error']['value']}"[:500]
    if exercises.hidden(cell) and (hidden is None or hidden.get("stopped")):
        return "a check with other numbers did not come to an end"
    if hidden and hidden.get("error"):
        # The student's code can put anything into an error, the test's own source as well: only known words pass.
        known = hidden["error"]["value"] if hidden["error"]["value"] in messages(cell.source) else None
        return f"a check with other numbers fails: {known}" if known else "a check with other numbers fails"
    return None


def messages(source):
    """Return the plain texts that a test's asserts carry, as a set."""
    found = [node.msg for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]
    return {message.value for message in found if isinstance(message, ast.Constant)}


def _stub_checksum(source, name):
    return next(c for c in exercises.release(source).cells if exercises.name(c) == name).metadata.nbgrader.checksum


def _error(why):
    import nbformat

    return nbformat.v4.new_output("error", ename="Failed", evalue=why, traceback=[])


def _harmless(output):
    """Keep text and pictures of an output; drop what a browser would run."""
    import nbformat

    output = nbformat.from_dict(output)
    if "data" in output:
        output.data = {kind: value for kind, value in output.data.items() if kind in ("text/plain", "image/png")}
        output.metadata = {}
    return output


def _sentence(points, of, why):
    if points is None:
        return f"**Your teacher reads this answer: up to {of:g} points.**"
    sentence = f"**{points:g} of {of:g} points.**"
    return f"{sentence} {html.escape(why)}" if why else sentence


def _title(result):
    lines = [f"# {html.escape(result.student)}: exercise {result.exercise}", ""]
    lines += [f"**{result.points:g} of {result.of:g} points.**"]
    if result.by_hand:
        lines[-1] += f" {result.by_hand:g} more are given by your teacher."
    return "\n".join([*lines, "", *(f"* {html.escape(remark)}" for remark in result.remarks)])


def _note(text):
    import nbformat

    return nbformat.v4.new_markdown_cell(text)


def _write(grades, out, pages, tool):
    """Write the table, the log, and a page a submission."""
    columns = sorted({task for grade in grades for task in grade.tasks})
    head = ["student", "exercise", "file", "points", "of", "to_read", "seconds", *columns, "remarks"]
    part = out.with_suffix(".part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(head)
        for one in grades:
            shown = {task: "?" if points is None else f"{points:g}" for task, (points, _) in one.tasks.items()}
            table.writerow(
                [_cell(one.student), one.exercise, _cell(one.file), f"{one.points:g}", f"{one.of:g}"]
                + [f"{one.by_hand:g}", f"{one.seconds:.0f}"]
                + [shown.get(task, "") for task in columns]
                + [_cell("; ".join(one.remarks))]
            )
    os.replace(part, out)
    boxed = f"sandbox: {tool}" if tool else "NO sandbox (--trusted)"
    lines = [f"{len(grades)} submissions, {boxed}", sandbox.REMAINS if tool else "", ""]
    lines += [f"{one.student}\t{one.file}\t{one.points:g}/{one.of:g}\t{'; '.join(one.remarks)}" for one in grades]
    out.with_suffix(".log").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for one in bar(grades, "pages", unit="page"):
        folder = pages / re.sub(r"[^\w.-]", "_", one.student)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{Path(one.file).stem}.html").write_text(page(one), encoding="utf-8")


def _cell(text):
    """Return a text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def page(one):
    """Return a submission's feedback as a web page (str)."""
    import nbformat

    from busitools.notebooks import html_page

    notebook = one.notebook
    if notebook is None:  # it could not be run: only the words
        notebook = nbformat.v4.new_notebook(cells=[_note(_title(one))])
    return html_page(notebook, f"Exercise {one.exercise}", sanitize=True)
