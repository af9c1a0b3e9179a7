"""Checks of one notebook against the lessons' skeleton. Each returns a list of complaints that say what to do."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIRST = ("DATASET", "PROTOCOL", "PROFILE", "WEIGHTS", "SEED", "RUNS")
PURPOSE = "For teaching and research, not for diagnosis."
CHECK = "from busilib import recipes\nrecipes.check_parameters(globals())"  # what follows the parameters cell
EXACT = {"01": 5, "07": 5}  # cells whose output is compared; 2 in every other lesson
MOST = {"09": 60}  # cells: 09 has eight systems to show; 40 in every other lesson


def address():
    """The repository's public address, from the only place that names it."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]["urls"]["Repository"]


def tags(cell):
    return cell.metadata.get("tags", [])


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def check_title(notebook, name):
    """Title, goals, minutes, the sentence on its purpose, and the badge stand in the first cell."""
    cell = notebook.cells[0]
    wanted = {
        "a title '# NN · …' with its own number": rf"^# {name[:2]} · \S",
        "the heading **You will be able to**": r"\*\*You will be able to\*\*",
        "the minutes: 'Reading: N minutes. Running: N minute(s) …'": r"Reading: \d+ minutes?\. Running: \d+ minutes? ",
        f"the sentence {PURPOSE!r}": re.escape(PURPOSE),
    }
    complaints = [
        f"cell 1 lacks {what}" for what, pattern in wanted.items() if not re.search(pattern, cell.source, re.MULTILINE)
    ]
    target = address().replace("https://github.com/", "https://colab.research.google.com/github/")
    if f"({target}/blob/main/notebooks/{name})" not in cell.source:
        complaints.append(f"cell 1 lacks a Colab badge that opens {target}/blob/main/notebooks/{name}")
    return complaints


def check_setup(notebook):
    """The second cell installs on Colab only, only what is missing, from the public address, and tells the minutes."""
    source = notebook.cells[1].source
    minutes = re.search(r"Running: (\d+) minute", notebook.cells[0].source)
    start = f"colab.start(minutes={minutes.group(1)}," if minutes else "colab.start(minutes="
    wanted = ('if importlib.util.find_spec("busilib") is None:', f"git+{address()}", start)
    return [f"cell 2, the set-up cell, lacks {text!r}" for text in wanted if text not in source]


def check_address(notebook):
    """No other public address than the project's own."""
    home = address().removeprefix("https://github.com/")
    text = "\n".join(cell.source for cell in notebook.cells)
    addresses = re.findall(r"github(?:\.com)?/([\w.-]+/busi-notebooks)", text)
    return [f"address {other!r} is not the project's own, {home!r}" for other in addresses if other != home]


def check_parameters(notebook):
    """One parameters cell: plain assignments, the common six first, then at most six more; then they are checked."""
    cells = [cell for cell in code(notebook) if "parameters" in tags(cell)]
    if len(cells) != 1:
        return [f"{len(cells)} cells are tagged 'parameters'; there must be one"]
    names = []
    for statement in ast.parse(cells[0].source).body:
        plain = isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        if not plain or not isinstance(statement.targets[0], ast.Name):
            return [f"parameters line {statement.lineno} is no plain assignment of a number, a text or True/False"]
        names.append(statement.targets[0].id)
    complaints = []
    if tuple(names[:6]) != FIRST:
        complaints.append(f"the parameters must begin with {', '.join(FIRST)}")
    if len(names) > 12:
        complaints.append(f"{len(names) - 6} parameters of the lesson's own; at most six")
    for number, line in enumerate(cells[0].source.splitlines(), start=1):
        if "=" in line.partition("#")[2]:
            complaints.append(f"parameters line {number} has a comment with '=': papermill cannot read that line")
    following = code(notebook)[code(notebook).index(cells[0]) + 1 :]
    if not following or not following[0].source.startswith(CHECK):
        complaints.append(f"the first code cell after the parameters does not begin with {CHECK!r}")
    return complaints


def check_cells(notebook, name):
    """20–40 cells (`MOST` may allow more), short code cells, a text cell before each."""
    complaints, most = [], MOST.get(name[:2], 40)
    if not 20 <= len(notebook.cells) <= most:
        complaints.append(f"{len(notebook.cells)} cells; a sitting is 20 to {most}")
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code":
            continue
        lines = [line for line in cell.source.splitlines() if line.strip()]
        if len(lines) > 9 and number > 2 and "parameters" not in tags(cell):
            complaints.append(f"cell {number} has {len(lines)} lines; 3 to 6 is the rule, 9 the limit")
        if notebook.cells[number - 2].cell_type != "markdown":
            complaints.append(f"cell {number} has no text cell before it: say what it does")
    return complaints


def check_ending(notebook):
    """It ends with what was learned, where next, and exercises."""
    text = notebook.cells[-1].source
    wanted = ("## What you learned", "**Next**", "## Exercises")
    return [f"the last cell lacks {what!r}" for what in wanted if what not in text]


def check_outputs(notebook):
    """Stored outputs come from one clean run: counted 1..n, no errors, warnings, machine paths or progress bars."""
    cells = code(notebook)
    complaints = []
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        complaints.append("the cells are not counted 1..n: run `make notebooks`")
    bad = {
        "a machine path": r"/(home|root|tmp|work|Users|usr|private)/|[A-Z]:\\\\",
        "a progress bar": r"\d+%\|[█▏▎▍▌▋▊▉ ]|━━━|\d+/\d+ \[",
        "a warning": r"Warning\b|WARNING",
    }
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", []):
            if output.output_type == "error" or output.get("name") == "stderr":
                complaints.append(f"cell {number} stored an error or something on stderr")
            data = output.get("data", {})
            text = output.get("text", "") + "".join(str(data.get(kind, "")) for kind in ("text/plain", "text/html"))
            complaints += [f"cell {number} stored {what}" for what, mark in bad.items() if re.search(mark, text)]
            if "image/png" in data and not output.metadata.get("image/png", {}).get("alt"):
                complaints.append(f"cell {number} stored a picture without a description")
            if len(str(data.get("image/png", ""))) > 400_000:
                complaints.append(f"cell {number} stored a picture of more than 300 KB")
    return complaints


def check_exact(notebook, name):
    """Enough cells are compared exactly, and each has an output to compare."""
    exact = [cell for cell in code(notebook) if "nbval-check-output" in tags(cell)]
    least = EXACT.get(name[:2], 2)
    complaints = [f"{len(exact)} cells are tagged 'nbval-check-output'; at least {least}"] if len(exact) < least else []
    return complaints + ["a cell tagged 'nbval-check-output' has no output" for cell in exact if not cell.outputs]


def check_all(notebook, name):
    """All complaints about one notebook."""
    return [
        *check_title(notebook, name),
        *check_setup(notebook),
        *check_address(notebook),
        *check_parameters(notebook),
        *check_cells(notebook, name),
        *check_ending(notebook),
        *check_outputs(notebook),
        *check_exact(notebook, name),
    ]
