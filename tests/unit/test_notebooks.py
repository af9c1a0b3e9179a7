"""notebooks: parameters are checked before anything runs; a lesson that fails leaves its copy and page."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from busilib.errors import LessonError
from busitools import notebooks

PARAMETERS = 'DATASET = "phantom"\nSEED = 0\nRATE = 0.5\nSHUFFLE = True\nANY = None\nSHIFT = -1'


def notebook(path, *code, parameters=PARAMETERS):
    cells = [new_markdown_cell(f"# Lesson {path.stem} & more")]
    if parameters is not None:
        cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [new_code_cell(source) for source in code]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    return path


@pytest.fixture
def lesson(tmp_path):
    return notebook(tmp_path / "01_one.ipynb")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of lessons in the place of the real ones."""
    monkeypatch.setattr(notebooks, "folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def no_kernel(monkeypatch):
    import papermill

    monkeypatch.setattr(papermill, "execute_notebook", lambda *given, **named: pytest.fail("a kernel was started"))


def test_parameters_are_read(lesson, tmp_path):
    assert notebooks.parameters(lesson) == {
        "DATASET": "phantom",
        "SEED": 0,
        "RATE": 0.5,
        "SHUFFLE": True,
        "ANY": None,
        "SHIFT": -1,
    }
    bare = notebook(tmp_path / "02_bare.ipynb", parameters=None)
    with pytest.raises(LessonError, match="02_bare.ipynb has 0 cells tagged 'parameters'; it must have one"):
        notebooks.parameters(bare)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"SEEDS": 1}, "01_one has no parameter SEEDS. It has: DATASET, SEED, RATE"),
        ({"seed": 1}, "has no parameter seed. It has: DATASET"),
        ({"XYZXYZ": 1}, "has no parameter XYZXYZ. It has: DATASET"),
        ({"SEED": "one"}, "SEED is 'one'; it must be a whole number from 0 to"),
        ({"SEED": 1.0}, "SEED is 1.0; it must be a whole number"),
        ({"SEED": True}, "SEED is True; it must be a whole number"),
        ({"DATASET": 7}, "DATASET is 7; it must be a text"),
        ({"SEED": -1}, "SEED is -1; it must be a whole number from 0 to"),
    ],
)
def test_wrong_parameters_are_refused_before_the_start(given, message, lesson, no_kernel, tmp_path):
    with pytest.raises(LessonError, match=message):
        notebooks.check_parameters(lesson, given)
    with pytest.raises(LessonError, match=message):
        notebooks.execute(lesson, tmp_path / "out" / "01.ipynb", given)
    assert not (tmp_path / "out").exists()


def test_right_parameters_pass(lesson):
    given = {"RATE": 1, "SEED": 3, "ANY": "any", "DATASET": "busi"}
    assert notebooks.check_parameters(lesson, given) == given


def test_lessons_are_found_by_number_name_and_path(folder, tmp_path):
    one, two = notebook(folder / "01_one.ipynb"), notebook(folder / "02_two.ipynb")
    notebook(folder / "draft.ipynb")
    assert notebooks.lessons() == [one, two]
    assert notebooks.lessons(["02", "01_one", "01_one.ipynb"]) == [two, one, one]
    assert notebooks.lessons([str(folder / "draft.ipynb")]) == [folder / "draft.ipynb"]
    with pytest.raises(LessonError, match="Lesson '07' does not exist. There are: 01_one, 02_two"):
        notebooks.lessons(["07"])


def test_a_parameter_that_no_lesson_has_stops_the_whole_run(folder, no_kernel):
    notebook(folder / "01_one.ipynb")
    notebook(folder / "02_two.ipynb", parameters="SEED = 0")
    with pytest.raises(LessonError, match="no parameter RATES. It has"):
        list(notebooks.run(out=folder / "out", given={"RATES": "1"}))
    with pytest.raises(LessonError, match="SEED is 'x'; it must be a whole number"):
        list(notebooks.run(["02"], out=folder / "out", given={"SEED": "x"}))
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("SEED", "3", 3),
        ("RATE", "0.5", 0.5),
        ("RATE", "1e-3", 1e-3),
        ("SHUFFLE", "False", False),
        ("ANY", "None", None),
        ("ANY", "seven", "seven"),
        ("DATASET", "2024_05", "2024_05"),
        ("DATASET", "None", "None"),
        ("DATASET", "/a b/c", "/a b/c"),
    ],
)
def test_a_text_is_read_as_python_does_but_stays_as_typed_where_the_default_is_one(name, text, value, lesson):
    read = notebooks.check_parameters(lesson, {name: text})[name]
    assert read == value and type(read) is type(value)


BUSY = """
import subprocess, sys, time
loop = "import time\\nend = time.process_time() + 0.7\\nwhile time.process_time() < end: pass"
subprocess.run([sys.executable, "-c", loop])
"""


def test_one_lesson_runs_with_its_parameters_and_one_fails(folder, capfd):
    notebook(folder / "01_good.ipynb", BUSY, "print(f'{SEED=} {RATE=} {DATASET=}')")
    notebook(folder / "02_bad.ipynb", "print('before')", "raise ValueError('a < b')", parameters="SEED = 0")
    out = folder / "out"
    executions = notebooks.run(out=out, given={"SEED": "4", "RATE": "2", "DATASET": "2024_05"})
    good = next(executions)
    assert not (out / "02_bad.ipynb").exists()  # one is told of before the next starts
    (bad,) = executions
    assert good.error is None and good.seconds > 0
    assert good.processor > 0.7  # what the kernel started is counted
    assert bad.error in ("cell 3: ValueError: a < b", "cell 4: ValueError: a < b")  # papermill adds a cell of its own
    texts = {path.stem: path.read_text(encoding="utf-8") for path in out.glob("*.ipynb")}
    assert "SEED=4 RATE=2 DATASET='2024_05'" in texts["01_good"]
    assert "before" in texts["02_bad"] and "a < b" in texts["02_bad"]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "failed: cell" in page and "ValueError: a &lt; b" in page and page.count("finished") == 1
    assert 'href="02_bad.html">02_bad</a>' in page
    assert {path.name for path in out.glob("*.html")} == {"index.html", "01_good.html", "02_bad.html"}
    assert "Warning" not in capfd.readouterr().err
    assert [done.error for done in notebooks.run(["01"], out)] == [None]  # the other page is still listed
    assert 'href="02_bad.html">02_bad</a>' in (out / "index.html").read_text(encoding="utf-8")


def test_links_of_a_page_lead_somewhere(folder, monkeypatch):
    text = (
        "[next](02_b.ipynb), [exercise](exercises/02_b.ipynb), [word](../docs/glossary.md#seed), [net](https://a.b/c)"
    )
    path = notebook(folder / "01_a.ipynb", "1")
    whole = nbformat.read(path, as_version=4)
    nbformat.write(new_notebook(cells=[new_markdown_cell(text), *whole.cells]), path)

    def links():
        page = notebooks.page(path, {"01_a", "02_b"}).read_text(encoding="utf-8")
        return re.findall(r'href="([^"#][^"]*)"', page)

    monkeypatch.setattr(notebooks, "address", lambda: "https://github.com/OWNER/it")
    assert links() == ["index.html", "02_b.html", "https://a.b/c"]
    monkeypatch.setattr(notebooks, "address", lambda: "https://github.com/me/it")
    home = "https://github.com/me/it/blob/main"
    pages = [f"{home}/notebooks/exercises/02_b.ipynb", f"{home}/docs/glossary.md#seed"]
    assert links() == ["index.html", "02_b.html", *pages, "https://a.b/c"]


def test_a_watch_sees_cell_and_epoch_and_may_stop_the_kernel(lesson, tmp_path):
    code = (
        'import time; from busilib.cache import report; report(epoch=2, epochs=4); open("here", "w"); time.sleep(600)'
    )
    slow, seen = notebook(tmp_path / "02_slow.ipynb", "report = 1", code), []

    def watch(progress):
        seen.append((progress.cell, progress.cells, progress.epoch, progress.epochs, progress.share))
        return "it took too long" if progress.epoch == 2 else None

    done = notebooks.execute(slow, tmp_path / "out.ipynb", watch=watch, env={"MORE": "1"}, cwd=tmp_path)
    assert done.error == "it took too long" and (tmp_path / "here").exists()
    assert seen[-1] == (3, 3, 2, 4, pytest.approx(2.5 / 3))


def test_a_lesson_is_not_overwritten_by_its_own_output(lesson):
    before = lesson.read_bytes()
    with pytest.raises(LessonError, match="would be overwritten by its own output"):
        notebooks.execute(lesson, lesson)
    assert lesson.read_bytes() == before


def test_a_broken_line_of_the_report_is_passed_over(tmp_path):
    (tmp_path / "report.jsonl").write_text('{"epoch": 1}{"epo\n{"epoch": 2, "epochs": 3}\n{"epoch"', encoding="utf-8")
    progress = notebooks.Progress(tmp_path / "report.jsonl", 3, lambda progress: None)
    assert progress.events() == [{"epoch": 2, "epochs": 3}]


def test_a_kernel_that_dies_is_an_error_of_the_lesson(tmp_path):
    dying = notebook(tmp_path / "02_dying.ipynb", "import os; os.kill(os.getpid(), 9)")
    assert "the kernel died" in notebooks.execute(dying, tmp_path / "out.ipynb").error


def test_a_page_needs_no_network_and_shows_formulas_and_descriptions():
    picture = nbformat.v4.new_output("display_data", {"image/png": "AAAA"}, metadata={"image/png": {"alt": "a & b"}})
    text = "So $\\hat p_1$, and `$HOME/$X`:\n\n$$\\frac{a}{b} < 1$$\n\n```\n$x$\n```\n\n$\\left($ for \\$5."
    cells = [new_markdown_cell(text), new_code_cell("print('$1 $2')", outputs=[picture], execution_count=1)]
    page = notebooks.html_page(new_notebook(cells=cells), "One")
    assert page.count("<math") == 2 and "<mfrac>" in page and 'display="block"' in page and "&lt;</mo>" in page
    assert "\\hat" not in page
    assert "<code>$HOME/$X</code>" in page and "$x$" in page and "$1 $2" in page.replace("&#39;", "'")
    assert "<code>\\left(</code>" in page  # it cannot be read, so it stands as it is
    assert 'alt="a &amp; b"' in page
    links = re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:|#)([^"'\s>]+)|import\(\s*"?([^"')]+)""", page)
    assert links == [] and "cdn" not in page.lower() and "@import" not in page


def test_a_page_of_a_submission_has_formulas_but_nothing_that_runs():
    text = "$\\frac12$ $\\text{<script>a()</script>}$ $\\href{javascript:a()}{x}$ <script>b()</script> # one"
    script = "<script>c()</script>"
    shown = {"text/html": script, "application/javascript": "c()", "text/vnd.mermaid": script, "text/plain": "plain"}
    code = new_code_cell("1", outputs=[nbformat.v4.new_output("display_data", shown)])
    page = notebooks.html_page(new_notebook(cells=[new_markdown_cell(text), code]), "One", sanitize=True)
    assert "plain" in page and "c()" not in page
    assert "<mfrac>" in page and "<script" not in page and "javascript" not in page


def test_refresh_replaces_only_what_worked(folder):
    good, bad = notebook(folder / "01_good.ipynb", "1 + 1"), notebook(folder / "02_bad.ipynb", "1 / 0")
    before = bad.read_bytes()
    assert [item.error for item in notebooks.refresh()] == [None, "cell 2: ZeroDivisionError: division by zero"]
    assert bad.read_bytes() == before
    done = nbformat.read(good, as_version=4)
    assert done.cells[2].outputs[0].data["text/plain"] == "2" and "papermill" not in done.metadata
    assert sorted(path.name for path in folder.iterdir()) == ["01_good.ipynb", "02_bad.ipynb"]


def test_tidy_leaves_nothing_of_the_machine(lesson):
    done = nbformat.read(lesson, as_version=4)
    done.metadata["papermill"] = {"input_path": "/home/someone"}
    done.cells[1].metadata |= {"papermill": {"duration": 3.1}, "execution": {"iopub": "2026"}}
    tidy = notebooks.tidy(done)
    assert set(tidy.metadata) == {"kernelspec", "language_info"}
    assert [dict(cell.metadata) for cell in tidy.cells] == [{}, {"tags": ["parameters"]}]
    assert [cell.id for cell in tidy.cells] == ["cell-01", "cell-02"]
    nbformat.validate(tidy)


def test_a_widget_becomes_a_sentence(lesson):
    done = nbformat.read(lesson, as_version=4)
    view = {notebooks.WIDGET: {"model_id": "1"}, "text/plain": "VBox(children=())"}
    done.cells[1].outputs = [nbformat.v4.new_output("display_data", view)]
    page = notebooks.html_page(nbformat.from_dict(done), "widgets")
    assert "buttons and sliders stand here" in page and "model_id" not in page and "VBox" not in page
    (output,) = notebooks.tidy(done).cells[1].outputs
    assert set(output.data) == {"text/plain"}


def test_tidy_writes_the_public_address_into_badge_and_set_up_cell():
    badge = "https://colab.research.google.com/github/someone/fork/blob/main/notebooks/01_data_preparation.ipynb"
    setup = '%pip install -q "busi-notebooks @ git+https://github.com/someone/fork"'
    other = "https://github.com/fchollet/deep-learning-with-python-notebooks"
    cells = [nbformat.v4.new_markdown_cell(f"{badge} {other}"), nbformat.v4.new_code_cell(setup)]
    tidy = notebooks.tidy(nbformat.v4.new_notebook(cells=cells))
    home = notebooks.address().removeprefix("https://github.com/")
    assert tidy.cells[0].source == f"{badge.replace('someone/fork', home)} {other}"
    assert tidy.cells[1].source == setup.replace("someone/fork", home)
