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
FEWEST, MOST = 25, 60  # cells of a lesson
WIDEST = 100  # characters of a code line: more is clipped on a page
ANSWER = r"<details>\s*<summary>.*?</summary>.*?</details>"


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


def check_cells(notebook):
    """25–60 cells, a text cell before each code cell; these are short, but for one definition per section."""
    complaints, longer = [], 0
    if not FEWEST <= len(notebook.cells) <= MOST:
        complaints.append(f"{len(notebook.cells)} cells; a sitting is {FEWEST} to {MOST}")
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code":
            longer = 0 if re.search(r"^## ", cell.source, re.MULTILINE) else longer
            continue
        lines = [line for line in cell.source.splitlines() if line.strip()]
        wide = [line for line in lines if len(line) > WIDEST]
        complaints += [f"cell {number} has a line of {len(line)} characters; {WIDEST} is the limit" for line in wide]
        defines = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in parsed(cell.source))
        longer += defines and len(lines) > 9
        limit = 20 if defines and longer <= 1 else 9
        if len(lines) > limit and number > 2 and "parameters" not in tags(cell):
            complaints.append(f"cell {number} has {len(lines)} lines; 3 to 6 is the rule, {limit} the limit here")
        if notebook.cells[number - 2].cell_type != "markdown":
            complaints.append(f"cell {number} has no text cell before it: say what it does")
    return complaints


def parsed(source):
    """The statements of a code cell; IPython's own lines do nothing here."""
    return ast.parse(re.sub(r"^(\s*)%.*", r"\1pass", source, flags=re.MULTILINE)).body


def check_ending(notebook, name):
    """It ends with what was learned, a quiz whose wrong answers have reasons, and links forward and to the exercise."""
    texts = [cell.source for cell in notebook.cells[-3:]]
    titles = ("## What you learned", "## Quiz", "## Where next")
    complaints = [
        f"the last cells must begin with {', '.join(titles)}: {title!r} is not in its place"
        for title, text in zip(titles, texts, strict=True)
        if not text.startswith(title)
    ]
    quiz, links = texts[1], texts[2]
    questions = re.split(r"^\*\*\d\.\*\* ", quiz, flags=re.MULTILINE)[1:]
    if len(questions) != 3:
        complaints.append(f"the quiz has {len(questions)} questions that begin with '**1.** '; it must have three")
    for number, question in enumerate(questions, start=1):
        options = re.findall(r"^[*-] \**([a-d])\)", question, re.MULTILINE)
        answer = "".join(re.findall(ANSWER, question, re.DOTALL))
        silent = [option for option in options if f"{option})" not in answer and f"**{option}" not in answer]
        if len(options) < 3 or not answer or silent:
            complaints.append(f"question {number} needs three options '* a) …' and a <details> answer on each of them")
    for label, folder in (("**Next**", ""), ("**Exercises**", "exercises/")):
        target = re.search(re.escape(label) + r": \[[^]]+\]\(([^)#]+)\)", links)
        if not target or not target[1].startswith(folder):
            complaints.append(f"the last cell lacks {label}: [NN · Title]({folder}NN_name.ipynb)")
        elif not (ROOT / "notebooks" / target[1]).is_file():
            complaints.append(f"{label} links to {target[1]}, which does not exist")
        elif folder and target[1] != f"exercises/{name}":
            complaints.append(f"{label} links to {target[1]}, not to exercises/{name}")
    return complaints


def check_questions(notebook):
    """A result is predicted before it is shown, and the answer stands below, collapsed."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    asked, answered = text.count("**Predict first.**"), len(re.findall(ANSWER, text, re.DOTALL))
    complaints = [] if asked else ["no question '**Predict first.** …' stands before a result"]
    if answered < asked + 3:  # the quiz has three
        complaints.append(f"{answered} <details> answers for {asked} predictions and three quiz questions")
    if text.count("<details>") != text.count("</details>"):
        complaints.append("a <details> block is not closed")
    return complaints


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
        *check_cells(notebook),
        *check_ending(notebook, name),
        *check_questions(notebook),
        *check_outputs(notebook),
        *check_exact(notebook, name),
    ]
