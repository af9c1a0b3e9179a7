"""batch: parameters are checked before anything runs; a lesson that fails leaves its copy, its page and its name."""

import nbformat
import pytest
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from busilib.errors import LessonError
from busitools import notebooks

PARAMETERS = 'DATASET = "phantom"\nSEED = 0\nRATE = 0.5\nSHUFFLE = True\nFOLD = None\nSHIFT = -1'


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
        "FOLD": None,
        "SHIFT": -1,
    }
    bare = notebook(tmp_path / "02_bare.ipynb", parameters=None)
    with pytest.raises(LessonError, match="02_bare.ipynb has 0 cells tagged 'parameters'; it must have one"):
        notebooks.parameters(bare)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"SEEDS": 1}, "01_one has no parameter SEEDS. Did you mean SEED.? It has: DATASET, SEED, RATE"),
        ({"seed": 1}, "has no parameter seed. Did you mean SEED"),
        ({"XYZXYZ": 1}, "has no parameter XYZXYZ. It has: DATASET"),
        ({"SEED": "1"}, "01_one: SEED = '1' is of type str; it must be int, like 0"),
        ({"SEED": 1.0}, "it must be int, like 0"),
        ({"SEED": True}, "SEED = True is of type bool; it must be int"),
        ({"RATE": True}, "RATE = True is of type bool; it must be float"),
        ({"SHUFFLE": 1}, "it must be bool, like True"),
        ({"DATASET": 7}, "it must be str, like 'phantom'"),
    ],
)
def test_wrong_parameters_are_refused_before_the_start(given, message, lesson, no_kernel, tmp_path):
    with pytest.raises(LessonError, match=message):
        notebooks.check_parameters(lesson, given)
    with pytest.raises(LessonError, match=message):
        notebooks.execute(lesson, tmp_path / "out" / "01.ipynb", given)
    assert not (tmp_path / "out").exists()


def test_right_parameters_pass(lesson):
    found = notebooks.check_parameters(lesson, {"RATE": 1, "SEED": 3, "FOLD": "any", "DATASET": "busi"})
    assert found == {"RATE": 1.0, "SEED": 3, "FOLD": "any", "DATASET": "busi"}
    assert isinstance(found["RATE"], float) and isinstance(found["SEED"], int)


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
    with pytest.raises(LessonError, match="no parameter RATES. Did you mean RATE"):
        notebooks.run(out=folder / "out", given={"RATES": 1})
    with pytest.raises(LessonError, match="02_two: SEED = 'x' is of type str"):
        notebooks.run(["02"], out=folder / "out", given={"SEED": "x"})
    assert not (folder / "out").exists()


def test_one_lesson_runs_with_its_parameters_and_one_fails(folder, capfd):
    """The only two kernels of this file."""
    notebook(folder / "01_good.ipynb", "print(f'{SEED=} {RATE=}')")
    notebook(folder / "02_bad.ipynb", "print('before')", "raise ValueError('a < b')", parameters="SEED = 0")
    out = folder / "out"
    good, bad = notebooks.run(out=out, given={"SEED": 4, "RATE": 2})
    assert good.error is None and good.seconds > 0
    assert bad.error in ("cell 3: ValueError: a < b", "cell 4: ValueError: a < b")  # papermill adds a cell of its own
    texts = {path.stem: path.read_text(encoding="utf-8") for path in out.glob("*.ipynb")}
    assert "SEED=4 RATE=2.0" in texts["01_good"] and "before" in texts["02_bad"] and "a < b" in texts["02_bad"]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "failed: cell" in page and "ValueError: a &lt; b" in page and page.count("finished") == 1
    assert 'href="02_bad.html">Lesson 02_bad &amp; more</a>' in page
    assert {path.name for path in out.glob("*.html")} == {"index.html", "01_good.html", "02_bad.html"}
    assert "Warning" not in capfd.readouterr().err


def test_a_kernel_that_dies_is_an_error_of_the_lesson(lesson, tmp_path, monkeypatch):
    import papermill

    def die(*given, **named):
        raise DeadKernelError("Kernel died")

    monkeypatch.setattr(papermill, "execute_notebook", die)
    assert "the kernel died" in notebooks.execute(lesson, tmp_path / "out.ipynb").error


def test_refresh_replaces_only_what_worked(folder, monkeypatch):
    good, bad = notebook(folder / "01_good.ipynb"), notebook(folder / "02_bad.ipynb")
    before = bad.read_bytes()

    def execute(path, target, given=None):
        done = nbformat.read(path, as_version=4)
        done.cells[1].execution_count = 1
        done.metadata["papermill"] = {"duration": 1}
        nbformat.write(done, target)
        return notebooks.Execution(path, target, 1.0, "cell 1: no" if path == bad else None)

    monkeypatch.setattr(notebooks, "execute", execute)
    assert [item.error for item in notebooks.refresh()] == [None, "cell 1: no"]
    assert bad.read_bytes() == before
    assert nbformat.read(good, as_version=4).cells[1].execution_count == 1
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


def test_tidy_writes_the_public_address_into_badge_and_set_up_cell():
    badge = "https://colab.research.google.com/github/someone/fork/blob/main/notebooks/01_data_preparation.ipynb"
    setup = '%pip install -q "busi-notebooks @ git+https://github.com/someone/fork"'
    other = "https://github.com/fchollet/deep-learning-with-python-notebooks"
    cells = [nbformat.v4.new_markdown_cell(f"{badge} {other}"), nbformat.v4.new_code_cell(setup)]
    tidy = notebooks.tidy(nbformat.v4.new_notebook(cells=cells))
    home = notebooks.address().removeprefix("https://github.com/")
    assert tidy.cells[0].source == f"{badge.replace('someone/fork', home)} {other}"
    assert tidy.cells[1].source == setup.replace("someone/fork", home)
