"""A small class is graded: each kind of submission once; and what goes wrong before that is said.

Hostile submissions run in the sandbox only, with small limits. Where no sandbox can be made the tests say so and skip.
"""

import ast
import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest

from busilib.errors import ClassroomError
from busitools import cli, exercises, grading, sandbox
from tests.classroom import submissions as made

SMALL = sandbox.Limits(seconds=15, total=120, memory=1, processes=64, disk=50_000_000)
try:
    PROBLEM = sandbox.check()
except ClassroomError as error:
    PROBLEM = str(error)
needs_sandbox = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))

# What each one must get (of 10), and words that its remarks must have ("" for no remark).
CLASS = {
    made.right: (10, ""),
    made.wrong_on_hidden: (8, ""),
    made.endless_answer: (9, "05-missed-check was stopped: it took more than 15 seconds"),
    made.ends_the_kernel: (10, "a cell was stopped: the kernel died"),
    made.deleted_answer: (8, "metadata is lost (tests are put back): 05-scores"),
    made.lost_metadata: (10, "metadata is lost (tests are put back): 05-setup, 05-missed, 05-missed-check"),
    made.eased_test: (9, "05-missed-check is locked and was changed: put back"),
    made.renamed_kernel: (10, ""),
    made.empty: (0, "the file is no notebook"),
    made.spy: (9, "read it: its code has IPython, get_ipython, open"),
    made.skips_tests: (9, ""),
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The class, graded once: (folder, {student: row of the table}, {student: page})."""
    top = tmp_path_factory.mktemp("class")
    for change in CLASS:
        made.hand_in(top / "in", change.__name__, change)
    grading.grade(top / "in", top / "book.csv", limits=SMALL)
    with open(top / "book.csv", encoding="utf-8") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    pages = {path.parent.name: path.read_text(encoding="utf-8") for path in (top / "book_feedback").rglob("*.html")}
    return top, rows, pages


@needs_sandbox
@pytest.mark.parametrize("change", CLASS, ids=lambda change: change.__name__)
def test_each_gets_what_it_earned_and_is_named(graded, change):
    points, words = CLASS[change]
    row = graded[1][change.__name__]
    assert (float(row["points"]), row["of"], row["exercise"]) == (points, "10", "05")
    assert words in row["remarks"] and bool(words) == bool(row["remarks"]), row["remarks"]


@needs_sandbox
def test_pages_show_the_points_and_no_hidden_test(graded):
    _, rows, pages = graded
    assert set(pages) == set(rows)
    source = exercises.read(made.SOURCE)
    secret = {line.strip() for cell in source.cells for line in exercises.hidden(cell).splitlines()}
    for student, page in pages.items():
        shown = page.replace("&quot;", '"').replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">")
        assert [line for line in secret if len(line) > 12 and line in shown] == [], student
        assert f"{float(rows[student]['points']):g} of 10 points" in page
    assert "the weights come from the matrix" in pages["wrong_on_hidden"]  # the hint, though its test is hidden


@needs_sandbox
def test_log_names_the_sandbox_and_what_it_does_not_stop_and_nothing_is_left_running(graded):
    log = (graded[0] / "book.log").read_text(encoding="utf-8")
    assert "In the sandbox" in log and "can patch Python" in log
    assert all(change.__name__ in log for change in CLASS)
    lines = [
        p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline", "status"]) if p.info["status"] != "zombie"
    ]
    assert not [line for line in lines if "busitools.sandbox" in line and '"processes": 64' in " ".join(line)]


@needs_sandbox
def test_box_has_no_network_and_nothing_to_write_outside(tmp_path):
    for change in (made.writes_outside, made.calls_out):
        made.hand_in(tmp_path / "in", change.__name__, change)
    grades = grading.grade(tmp_path / "in", tmp_path / "book.csv", limits=SMALL)
    outputs = [output for one in grades for cell in one.notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "Network is unreachable" in {output.get("evalue", "").rpartition("] ")[2] for output in outputs}
    assert "pass." in printed and "REACHED" not in printed and "WROTE" not in printed
    assert [one.points for one in grades] == [10, 10]
    assert not any(Path(place, "mark").exists() for place in ("/", "/tmp", "/usr", "/dev/shm"))


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memfd_create is of Linux")
def test_what_no_folder_lists_counts_as_written(tmp_path):
    code = "import os, sys; f = os.memfd_create('x'); os.write(f, bytes(30_000_000)); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        few, many = (sandbox.Limits(memory=64, processes=1000, disk=disk) for disk in (20_000_000, 50_000_000))
        assert sandbox._too_much(os.getpid(), tmp_path, few) == "it wrote more than 20 MB"
        assert sandbox._too_much(os.getpid(), tmp_path, many) is None
        child.stdin.close()


@needs_sandbox
@pytest.mark.slow
def test_more_hostile_ones_cost_only_their_own_cell(tmp_path):
    words = {
        made.much_memory: "used more than 1 GB of memory",
        made.much_disk: "wrote more than 50 MB",
        made.one_huge_output: "stopped",
        made.endless: "took more than 15 seconds",
        made.flood: "far too much output",
        made.many_processes: "",
        made.script_in_output: "",
    }
    for change in words:
        made.hand_in(tmp_path / "in", change.__name__, change)
    expected = {change.__name__: word for change, word in words.items()}
    for one in grading.grade(tmp_path / "in", tmp_path / "book.csv", limits=SMALL):
        assert one.points == 10 and expected[one.student] in " ".join(one.remarks), one
        assert "<script>alert(1)" not in grading.page(one)


@needs_sandbox
@pytest.mark.slow  # about ten minutes: each endless cell waits for its limit
def test_a_class_with_twenty_one_hostile_submissions_costs_nobody_else_a_point(tmp_path, record_property):
    named = {made.skips_tests: "", made.deep: "no notebook", made.endless_answer: "05-missed-check was stopped"}
    points = dict.fromkeys((made.endless_answer, made.spy, made.skips_tests), 9) | {made.deep: 0}
    for change in (made.right, *made.HOSTILE, made.keeps_a_secret):
        made.hand_in(tmp_path / "in", change.__name__, change)
    grades = {one.student: one for one in grading.grade(tmp_path / "in", tmp_path / "book.csv", limits=SMALL)}
    assert len(made.HOSTILE) == 21 and len(grades) == 23
    for change in (made.right, made.keeps_a_secret):
        assert (grades[change.__name__].points, grades[change.__name__].remarks) == (10, [])
    for change in made.HOSTILE:
        one = grades[change.__name__]
        assert one.points == points.get(change, 10), (one.student, one.points, one.remarks)
        assert named.get(change, "read it" if "stopped" not in str(one.remarks) else "stopped") in str(one.remarks), one
        assert "SECRET" not in grading.page(one) and not Path("/tmp/mark").exists()


@needs_sandbox
@pytest.mark.slow
def test_every_lesson_can_be_solved_within_the_limits(tmp_path):
    """The references, in the sandbox, with the limits that a class has: full points, and nothing to remark."""
    (tmp_path / "in").mkdir()
    for source in exercises.sources():
        nbformat.write(made.answered(source), tmp_path / "in" / source.name)
    for one in grading.grade(tmp_path / "in", tmp_path / "book.csv"):
        assert one.points + one.by_hand == one.of and not one.remarks, one


def test_second_cell_of_one_name_is_not_graded():
    notebook = made.answered()
    metadata = made.cell(notebook, "05-missed").metadata
    notebook.cells.append(nbformat.v4.new_code_cell("def missed(m): return 0", metadata=metadata))
    merged, remarks = grading.restore(notebook, exercises.read(made.SOURCE))
    assert [exercises.name(cell) for cell in merged.cells].count("05-missed") == 1
    assert remarks == ["05-missed is there twice: the second is run, not graded"]


def test_hidden_hints_are_plain_texts():
    """Only a plain text can be told from what a student's code says; an f-string would never be shown."""
    for path in exercises.sources():
        for cell in exercises.read(path).cells:
            for node in ast.walk(ast.parse(exercises.hidden(cell))):
                if isinstance(node, ast.Assert):
                    assert isinstance(node.msg, ast.Constant), f"{path.stem}: {ast.unparse(node)}"


def test_page_keeps_markup_and_drops_scripts():
    text = "# Mine\n\n**bold** <script>alert(1)</script> <img src='https://example.org/x.png' onerror='alert(2)'>"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    page = grading.page(grading.Grade("ada", "05.ipynb", "05", notebook=notebook))
    assert "<strong>bold</strong>" in page and '<h1 id="Mine' in page
    assert "alert(2)" not in page and "<script>alert(1)" not in page and "example.org" not in page


def test_files_of_a_class_are_listed_by_student(tmp_path):
    for name in ("ada/05_x.ipynb", "ada/.ipynb_checkpoints/05_x.ipynb", "grace/work/05.ipynb", "alan_05.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [student for student, _ in grading.find(tmp_path)] == ["ada", "alan_05", "grace"]


def hand_in_oddly(top):
    """A class as a learning platform gives it: one level deeper, in other encodings, under other names."""
    text = json.dumps(made.answered())
    odd = {"Mia/05.ipynb": text.encode("utf-8-sig"), "mia/05.ipynb": text.encode("utf-16"), "a b/05.ipynb.txt": b"{}"}
    odd |= {"a_b/05.ipynb.json": text.encode(), "a_b/05.IPYNB": text.encode("utf-16-le"), "Леа/work/05.ipynb": b"[]"}
    odd |= {"zoe/05.zip": b"PK", "zoe/report.pdf": b"%PDF", "../readme.txt": b"", "__MACOSX/mia/05.ipynb": b""}
    for name, data in odd.items():
        place = (top / "lms" / "week5" / name).resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    (top / "lms" / "week5" / os.fsdecode(b"\xff.ipynb")).mkdir()
    (top / "lms" / "week5" / os.fsdecode(b"\xff.ipynb") / "x.ipynb").write_text("{", encoding="utf-8")
    return top


@pytest.mark.skipif(sys.platform != "linux", reason="names that differ in case only, or hold any bytes")
def test_everybody_who_handed_in_has_a_row_and_pages_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "_autograde", lambda one, *_: setattr(one, "notebook", None))
    grades = grading.grade(hand_in_oddly(tmp_path / "in"), tmp_path / "book.csv", trusted=True)
    rows = [(one.student, one.exercise, " ".join(one.remarks)) for one in grades]
    assert [row[:2] for row in rows if not row[2]] == [("Mia", "05"), ("a_b", "05"), ("a_b", "05"), ("mia", "05")]
    refused = {student: words for student, _, words in rows if words}
    assert sorted(refused) == ["a b", "lms", "zoe", "Леа", "\ufffd.ipynb"]
    assert "no .ipynb was handed in, and 05.zip is no notebook" in refused["zoe"]
    with open(tmp_path / "book.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(grades) == 9
    pages = list((tmp_path / "book_feedback").rglob("*.html"))
    assert len(pages) == 9 and {path.parent.name.casefold() for path in pages} >= {"mia", "mia-2", "a_b", "a_b-2"}
    for path in pages:
        assert (
            sum(f"{name}: exercise" in path.read_text(encoding="utf-8") for name in {one.student for one in grades})
            == 1
        )


def test_half_a_character_can_be_graded_and_written(tmp_path):
    path = made.hand_in(
        tmp_path, "ada", lambda notebook: json.dumps(notebook).replace('"source": "', '"source": "\\ud83d ', 1)
    )
    notebook = grading.read(path)
    assert notebook.cells[0].source.startswith("? ") and nbformat.writes(notebook).encode("utf-8")


def test_pages_of_earlier_marks_stay(tmp_path):
    (tmp_path / "book_feedback").mkdir()
    made.hand_in(tmp_path / "in", "ada", made.right)
    with pytest.raises(ClassroomError, match="book_feedback exists already: marks are not overwritten"):
        grading.grade(tmp_path / "in", tmp_path / "book.csv", trusted=True)


@pytest.mark.parametrize("text", ["", "hello", "[]", '{"cells": 3}', None, "x" * 20_000_001], ids=range(6))
def test_what_is_no_notebook_is_refused_in_words(text, tmp_path):
    path = tmp_path / "05.ipynb"
    path.symlink_to(made.SOURCE) if text is None else path.write_text(text)
    with pytest.raises(ClassroomError, match="^the file (is|has)"):
        grading.read(path)


def test_marks_are_never_overwritten(tmp_path, capsys):
    made.hand_in(tmp_path / "in", "ada", made.right)
    (tmp_path / "book.csv").write_text("earlier marks")
    assert cli.main(["grade", str(tmp_path / "in"), "--out", str(tmp_path / "book.csv")]) == 1
    assert "marks are not overwritten" in capsys.readouterr().err
    assert (tmp_path / "book.csv").read_text() == "earlier marks"


def test_without_a_sandbox_it_wants_trusted(tmp_path, monkeypatch, capsys):
    made.hand_in(tmp_path / "in", "ada", made.right)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert cli.main(["grade", str(tmp_path / "in"), "--out", str(tmp_path / "book.csv")]) == 1
    said = capsys.readouterr().err
    assert "No sandbox here (bubblewrap is not installed)" in said and "--trusted" in said
    assert not (tmp_path / "book.csv").exists()


def test_trusted_grades_files_and_keeps_formulas_out_of_the_table(tmp_path, capsys):
    made.hand_in(tmp_path / "other", "ada", made.right).rename(tmp_path / "=HYPERLINK(05).ipynb")
    (tmp_path / "bare").mkdir()
    assert cli.main(["grade", str(tmp_path / "bare"), "--out", str(tmp_path / "book.csv"), "--trusted"]) == 1
    shutil.move(tmp_path / "=HYPERLINK(05).ipynb", tmp_path / "bare")
    assert cli.main(["grade", str(tmp_path / "bare"), "--out", str(tmp_path / "book.csv"), "--trusted"]) == 0
    assert "1 submissions." in capsys.readouterr().out
    assert "'=HYPERLINK(05)," in (tmp_path / "book.csv").read_text(encoding="utf-8")
    assert "NO sandbox" in (tmp_path / "book.log").read_text(encoding="utf-8")
    assert os.listdir(tmp_path / "book_feedback") == ["_HYPERLINK_05_"]
