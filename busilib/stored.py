"""What was measured on the real BUSI at full profile: kept in the package as JSON, no picture and no path in it.

results/NAME.json is one run: ``python -m busilib.stored NAME RUN_FOLDER`` takes in a finished one, from a checkout.
results/tables/NAME.json is a study over many runs: ``about`` says on what it was measured, ``rows`` is its table.
"""

import json
import sys
from importlib.resources import files

import pandas as pd

from busilib import metrics, runs
from busilib.cache import write_file
from busilib.errors import RunError
from busilib.recipes import CLASSES


def load(name):
    """Return a stored result as a dict; raise RunError, with the names there are, when it does not exist."""
    file = files("busilib") / "results" / f"{name}.json"
    if not file.is_file():
        raise RunError(f"There is no stored result {name!r}; there are: {', '.join(names()) or 'none yet'}")
    return json.loads(file.read_text(encoding="utf-8"))


def names():
    """Return the names of all stored results, sorted."""
    return sorted(file.name[:-5] for file in (files("busilib") / "results").iterdir() if file.name.endswith(".json"))


def tables():
    """Return the names of all stored tables, sorted."""
    folder = files("busilib") / "results" / "tables"
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".json")) if folder.is_dir() else []


def table(name):
    """Return the rows of a stored table as a DataFrame; raise RunError when it does not exist."""
    return pd.DataFrame(_table(name)["rows"])


def about(name):
    """Return on what a stored table was measured: a dict of data, weights, seeds, device, date and versions."""
    return _table(name)["about"]


def _table(name):
    file = files("busilib") / "results" / "tables" / f"{name}.json"
    if not file.is_file():
        raise RunError(f"There is no stored table {name!r}; there are: {', '.join(tables()) or 'none yet'}")
    return json.loads(file.read_text(encoding="utf-8"))


def write_table(name, rows, about):
    """Store a study's table (DataFrame) in the checkout's busilib/results/tables; return the file.

    ``about`` (dict) says on what it was measured: data, weights, seeds, script. Device, versions and date are added.
    """
    target = files("busilib") / "results" / "tables" / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    content = {"about": about | runs.environment(), "rows": json.loads(rows.to_json(orient="records"))}
    with write_file(target) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return target


def sentence(result):
    """Say in a line on what a stored result was measured: data, weights, device, seed, date."""
    return (
        f"Measured on {result['dataset']['name']} ({result['split']['name']}), {result['recipe']['image_size']} px, "
        f"seed {result['seed']}, {result['device']}, {result['date']}. {result['weights']['sentence']}"
    )


def history(result):
    """Return a stored result's epochs as a table."""
    return pd.DataFrame(result["history"])


def markdown():
    """Return all stored results as the table of the README: one line a run, accuracy with its 95 % interval."""
    lines = [
        "| run | test files | accuracy [95 %] | macro F1 [95 %] | majority | weights |",
        "|---|---|---|---|---|---|",
    ]
    for name in names():
        result = load(name)
        s = result["parts"]["test"]["summary"]
        lines.append(
            f"| {name} | {s['n']} | {s['accuracy']:.3f} [{s['accuracy_low']:.3f}, {s['accuracy_high']:.3f}] "
            f"| {s['macro_f1']:.3f} [{s['macro_f1_low']:.3f}, {s['macro_f1_high']:.3f}] | {s['majority']:.3f} "
            f"| {result['weights']['kind']} |"
        )
    return "\n".join(lines)


def digest(run):
    """Return what is stored of a run: run.json, the epochs, and for each part the scores and the confusion matrix."""
    parts = {}
    for part in sorted(run.predictions["split"].unique()):
        matrix = run.confusion(part)
        table = metrics.per_class(matrix, CLASSES).reset_index().astype(object)
        parts[part] = {
            "confusion": matrix.tolist(),
            "summary": run.summary(part),
            "per_class": table.where(table.notna(), None).to_dict("records"),
        }
    epochs = run.history.round(4).to_dict("records")
    left_out = ("key", "scores", "started_from")
    return {key: value for key, value in run.info.items() if key not in left_out} | {"history": epochs, "parts": parts}


def write(name, run):
    """Store a run under a name, in the checkout's busilib/results; return the file."""
    target = files("busilib") / "results" / f"{name}.json"
    with write_file(target) as temporary:
        temporary.write_text(json.dumps(digest(run), indent=1) + "\n", encoding="utf-8")
    return target


if __name__ == "__main__":
    print(write(sys.argv[1], runs.open_run(sys.argv[2])))
