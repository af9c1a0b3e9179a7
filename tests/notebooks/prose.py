"""Numbers in the prose of lessons 07, 08, 11 and 12: each decimal or percentage names the stored result it comes from.

In the text stands ``93.16 %<!-- A table 1 -->``: the name is a key of `values`, and the number must be that value to
the places that are written. What comes from no result says so: ``<!-- an example -->``, ``<!-- a convention -->``.
"""

import re

from busilib import published, runs, studies

FREE = ("an example", "a convention")
NUMBER = re.compile(r"(?<![\w.,-])[-+−]?\d+(?:\.\d+(?:\s?%)?|\s?%)(?!\.?\d)(<!--\s*(?P<name>.*?)\s*-->)?")
# What is no prose: code, formulas, the targets of links, DOIs.
NO_PROSE = re.compile(r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)|doi 10\.\S+|arXiv \S+")


def values():
    """Return name → value of all numbers that the prose may quote; percentages in per cent."""
    tests = published.A_SCORES.query("part == 'test'").reset_index(drop=True)
    numbers = {"A table 1": tests["accuracy"][0], "A table 2": tests["accuracy"][1], "A test share": 15}
    numbers |= {f"A table 1 {score}": tests[score][0] for score in ("precision", "f1")}
    numbers |= dict(zip(("A cites forest", "A cites SECS"), published.A_CITED["accuracy"], strict=True))
    badawy = published.COMPARISON.set_index("system").loc["Inception-ResNet-v2, plain head", "accuracy"]
    numbers["B gain"] = 90 - badawy  # the text rounds to 90 %
    numbers |= {f"B epoch {row.epoch} accuracy": row.accuracy for row in published.B_EPOCHS.itertuples()}
    for name in runs.stored_names("results/tables"):
        if name.startswith("leaks-"):
            table = studies.worth(runs.stored_table(name))
            numbers |= {f"{name} {kind} mean": mean for kind, mean in table["mean"].items()}
        if name.startswith("clean-"):
            first = runs.stored_table(name).query("seed == 0")
            numbers[f"{name} accuracy"] = studies.accuracy(first)
        if name.startswith("inputs-"):
            means = runs.stored_table(name).groupby("inputs")["accuracy"].mean()
            numbers |= {f"{name} {inputs}": value for inputs, value in means.items()}
    honest = runs.stored_table("honest-BUSI").set_index("rung")
    numbers |= {f"honest {rung} {score}": honest[score][rung] for rung in honest.index for score in ("accuracy", "auc")}
    for row in runs.stored_table("hospitals").itertuples():
        name = f"hospitals {row.setting} {row.measure}"
        numbers |= {name: row.score, f"{name} percent": 100 * row.score, f"{name} gain": row.gain}
        numbers[f"{name} loss"] = -row.gain
    return numbers


def check_prose(notebook, numbers):
    """Return complaints about decimals and percentages in text cells; ``numbers`` is what `values` gives."""
    complaints = []
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "markdown":
            continue
        for match in NUMBER.finditer(NO_PROSE.sub(" ", cell.source)):
            text, name = re.sub(r"<!--.*", "", match.group()), match["name"]
            if name is None:
                complaints.append(f"cell {number}: {text!r} names no stored result: write {text}<!-- name -->")
            elif name not in numbers and name not in FREE:
                complaints.append(f"cell {number}: {text!r} names {name!r}, which does not exist")
            elif name in numbers and not agrees(text, numbers[name]):
                complaints.append(f"cell {number}: {text!r} is not what {name!r} holds, {numbers[name]:.5g}")
    return complaints


def agrees(text, value):
    """Say whether a written number is a value, to the places that are written."""
    digits = text.replace("−", "-").rstrip("% ")
    places = len(digits.partition(".")[2])
    return abs(float(digits) - value) <= 0.5 * 10**-places + 1e-9
