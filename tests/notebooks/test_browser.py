"""JupyterLab in a real browser: a lesson is run through the menu, an exercise is solved and checked.

Marked ``browser``: needs Chromium on the PATH and the Python package playwright (extra ``browser``; it downloads no
browser of its own then). Screenshots go to the folder that BUSI_SCREENSHOTS names, else to pytest's own.
"""

import re
import shutil
import subprocess
import sys
import time

import pytest

from busitools import exercises, notebooks

pytestmark = [pytest.mark.browser, pytest.mark.slow]
RUN_ALL = ("Run", "Run All Cells")
MINUTES = 8


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on a copy of the lesson and the exercise; returns its address and folder."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(notebooks.lessons(["01"])[0], folder / "lesson.ipynb")
    shutil.copy(notebooks.folder() / "exercises" / "05_confusion_matrices.ipynb", folder / "exercise.ipynb")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root"]
    options = [
        "--IdentityProvider.token=secret",
        "--LabApp.extension_manager=readonly",
        f"--ServerApp.root_dir={folder}",
    ]
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen([*command, *options], stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(240):
            found = re.search(r"http://127\.0\.0\.1:(\d+)/lab", (folder / "lab.log").read_text())
            if found:
                break
            time.sleep(0.5)
        else:
            pytest.fail((folder / "lab.log").read_text()[-2000:])
        yield f"http://127.0.0.1:{found.group(1)}", folder
    finally:
        server.terminate()
        server.wait(timeout=30)


def opened(browser, lab, name):
    """A page with one notebook open in JupyterLab's simple view, its kernel started."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.goto(f"{lab[0]}/doc/tree/{name}?token=secret&reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    return page


def choose(page, menu, entry):
    """Choose an entry of JupyterLab's menu bar by mouse."""
    page.click(f".lm-MenuBar-itemLabel:text-is('{menu}')")
    page.click(f".lm-Menu-itemLabel:text-is('{entry}')")


def wait_until_run(page, folder, name, cells):
    """Wait until the kernel is idle again and the last code cell has its number; save; return the notebook."""
    import nbformat

    for _ in range(MINUTES * 60):
        labels = page.locator(".jp-Notebook .jp-CodeCell .jp-InputArea-prompt").all_inner_texts()
        busy = any("*" in label for label in labels)
        idle = page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").count()
        if idle and not busy and any(re.search(r"\[\d+\]", label) for label in labels):
            choose(page, "File", "Save Notebook")
            time.sleep(2)
            done = nbformat.read(folder / name, as_version=4)
            if sum(cell.get("execution_count") is not None for cell in done.cells) >= cells:
                return done
        time.sleep(1)
    raise AssertionError(f"{name} did not come to its end in {MINUTES} minutes")


def test_lesson_runs_to_the_end_through_the_menu(browser, lab, pictures):
    cells = cells_of(lab[1] / "lesson.ipynb")  # before it runs: with the stored pictures
    code, stored = sum(cell.cell_type == "code" for cell in cells), pictures_in(cells)
    page = opened(browser, lab, "lesson.ipynb")
    choose(page, "Edit", "Clear Outputs of All Cells")
    choose(page, *RUN_ALL)
    done = wait_until_run(page, lab[1], "lesson.ipynb", code)
    page.screenshot(path=pictures / "lesson.png")
    page.locator(".jp-OutputArea img").first.scroll_into_view_if_needed()
    page.screenshot(path=pictures / "lesson_figure.png")
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert pictures_in(done.cells) == stored > 0
    # JupyterLab itself drops a stored picture's alternative text: the caption below it is what its readers have.
    assert (
        page.locator(".jp-OutputArea .jp-RenderedMarkdown em", has_text="Figure. The steps of the two papers").count()
        == 1
    )


def cells_of(path):
    import nbformat

    return nbformat.read(path, as_version=4).cells


def pictures_in(cells):
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


def test_exercise_is_solved_and_its_check_passes(browser, lab, pictures):
    page = opened(browser, lab, "exercise.ipynb")
    stub = page.locator(".jp-CodeCell", has_text="def missed(matrix)").first
    stub.locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.type("def missed(matrix):\nreturn int(matrix[1].sum() - matrix[1, 1])")
    page.screenshot(path=pictures / "exercise_typed.png")
    choose(page, *RUN_ALL)
    done = wait_until_run(page, lab[1], "exercise.ipynb", 3)
    stub.scroll_into_view_if_needed()
    page.wait_for_timeout(1500)  # JupyterLab draws the cells around it when it has time
    page.screenshot(path=pictures / "exercise.png")
    test = next(cell for cell in done.cells if exercises.name(cell) == "05-missed-check")
    assert "Task 1: the checks that you can see pass." in "".join(output.get("text", "") for output in test.outputs)
    second = next(cell for cell in done.cells if exercises.name(cell) == "05-scores")
    assert not second.outputs  # Run All stops at the first task that is not answered
    choose(page, "File", "Save Notebook")
    locked = page.locator(".jp-CodeCell", has_text="Task 1: the checks that you can see pass.").first
    before = test.source
    locked.locator(".cm-content").first.click()
    page.keyboard.type("x")
    choose(page, "File", "Save Notebook")
    time.sleep(2)
    saved = next(c for c in cells_of(lab[1] / "exercise.ipynb") if exercises.name(c) == "05-missed-check")
    assert saved.source == before, "a locked test could be edited"


def test_nbgraders_button_names_the_tasks_that_fail(browser, lab, pictures):
    """Where a teacher's JupyterLab has nbgrader's button Validate: the solved task is not named, the next one is."""
    page = opened(browser, lab, "exercise.ipynb")
    page.locator(".jp-ToolbarButtonComponent-label", has_text="Validate").click()
    dialog = page.locator(".jp-Dialog", has_text="Validation Results")
    dialog.wait_for(timeout=MINUTES * 60_000)
    page.screenshot(path=pictures / "exercise_validated.png")
    said = dialog.inner_text()
    assert "failed" in said and "scores(A, 1)" in said
    assert "Task 1: the checks that you can see pass." not in said
