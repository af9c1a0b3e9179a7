"""Put what was measured into busilib/results, and show it as the README and docs/results.md do.

python benchmarks/store.py NAME RUN_FOLDER      take in a finished run; several: the test sets of their folds as a table
python benchmarks/store.py                      print the README's table, then those of docs/results.md
"""

import json
import sys
from pathlib import Path

import pandas as pd

from busilib import metrics, runs, studies
from busilib.cache import write_file
from busilib.recipes import CLASSES, PROBABILITIES

RESULTS = Path(runs.__file__).parent / "results"


def write(name, run):
    """Store a run under a name: run.json, the epochs, and for each set the scores and the confusion matrix."""
    parts = {}
    for part in sorted(run.predictions["split"].unique()):
        matrix = run.confusion(part)
        table = metrics.per_class(matrix, CLASSES).reset_index().astype(object)
        parts[part] = {
            "confusion": matrix.tolist(),
            "summary": run.summary(part),
            "per_class": table.where(table.notna(), None).to_dict("records"),
        }
    left_out = ("key", "scores", "started_from", "base")
    content = {key: value for key, value in run.info.items() if key not in left_out}
    content |= {"history": run.history.round(4).to_dict("records"), "parts": parts}
    return _write(RESULTS / f"{name}.json", content)


def write_table(name, rows, about):
    """Store a study's table (DataFrame); ``about`` (dict) says on what it was measured. Versions and date are added."""
    content = {"about": about | runs.environment(), "rows": json.loads(rows.to_json(orient="records"))}
    return _write(RESULTS / "tables" / f"{name}.json", content)


def write_folds(name, folders):
    """Store the test predictions of several runs on BUSI, the folds of the clean protocol, as a table."""
    rows = []
    for run in map(runs.open_run, folders):
        fold = {"recipe": run.info["recipe"]["name"], "fold": run.info["split"]["fold"], "seed": run.info["seed"]}
        rows.append(run.part("test")[["file_id", "label", *PROBABILITIES]].assign(**fold))
    groups = runs.stored_table("clean-ResNet50")[["file_id", "group"]].drop_duplicates()
    return write_table(name, pd.concat(rows).merge(groups), {key: run.info[key] for key in ("dataset", "weights")})


def _write(target, content):
    with write_file(target) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return target


def about(recipe, weights, scans, seeds):
    """Return on what a study was measured, for `write_table`."""
    source = {"kind": weights.kind, "sha256": weights.sha256, "sentence": weights.sentence}
    return {"dataset": scans.identity(), "recipe": recipe.as_dict(), "weights": source, "seeds": list(seeds)}


def stored_runs():
    """Return all stored runs as a table in Markdown: one line per run, accuracy with its 95 % interval."""
    lines = []
    for name in runs.stored_names():
        result = runs.stored(name)
        s = result["parts"]["test"]["summary"]
        scores = _interval(s, "accuracy"), _interval(s, "macro_f1"), f"{s['majority']:.3f}"
        lines.append([name, s["n"], *scores, result["weights"]["kind"]])
    return _markdown(["run", "test files", "accuracy [95 %]", "macro F1 [95 %]", "majority", "weights"], lines)


def ways():
    """Return what the papers print beside what was measured here: one line per network."""
    table = studies.three_ways()
    return _markdown(table.columns, table.to_numpy().tolist())


def leaks():
    """Return what each leak is worth on the real BUSI, from the stored tables: one line per leak."""
    tables = {name: studies.worth(runs.stored_table(f"leaks-{name}")) for name in ("MobileNetV2", "ResNet50")}
    lines = []
    for kind, what in studies.LEAKS.items():
        lines.append([what, *(_cell(*t.loc[kind, ["mean", "low", "high"]], "+.1f") for t in tables.values())])
    return _markdown(["leak", *(f"{name}, points [95 %]" for name in tables)], lines)


def clean():
    """Return the clean protocol's scores on the real BUSI, first seed: one line per backbone."""
    columns = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1"}
    columns |= {"auc": "AUC", "sensitivity_1": "sensitivity, malignant"}
    first, lines = "part == 'test' and seed == 0", []
    tables = {name: runs.stored_table(f"clean-{name}").query(first) for name in ("MobileNetV2", "ResNet50")}
    for base, table in (("ResNet50, lesson 03", "folds-A"), ("Inception-ResNet-v2, lesson 04", "folds-B")):
        phases = runs.stored_table(table).groupby("recipe", sort=False)
        tables |= {f"{base}, {phase}": rows for phase, rows in phases}
    for name, rows in tables.items():
        scores = metrics.with_intervals(studies.codes(rows["label"]), rows[PROBABILITIES].to_numpy(), rows["group"])
        lines.append([name, len(rows), *(_cell(*scores.loc[key, ["value", "low", "high"]]) for key in columns)])
    return _markdown(["clean protocol", "scans", *columns.values()], lines)


def backbones():
    """Return two tables from the stored table "backbones": linear probes, and scans never seen."""
    table, probes, unseen = runs.stored_table("backbones"), [], []
    for r in table.query("question == 'probe'").itertuples():
        gain = _cell(100 * r.gain, 100 * r.gain_low, 100 * r.gain_high, "+.1f") if r.weights != "random" else ""
        probes.append([r.network, r.weights, _cell(r.accuracy, r.low, r.high), gain])
    for r in table.query("question == 'never seen'").itertuples():
        unseen.append([r.network, r.scans, _cell(r.accuracy, r.low, r.high), *map("{:.2f}".format, r.sensitivities)])
    first = ["network", "weights", "probe: accuracy [95 %]", "gain over random weights, points [95 %]"]
    second = ["network, trained on phantoms alone", "BUSI scans", "balanced accuracy [95 %]", *CLASSES]
    return f"{_markdown(first, probes)}\n\n{_markdown(second, unseen)}"


def comparators():
    """Return the stored table "comparators", one line per system."""
    lines = []
    for r in runs.stored_table("comparators").to_dict("records"):
        gap = _interval(r, "difference", "+.3f") if r["difference"] else "the best"
        line = [r["title"], _interval(r, "accuracy"), _interval(r, "macro_f1"), f"{r['malignant']:.2f}", gap]
        lines.append([*line, r["backbone"], f"{r['cpu_seconds']:.0f} s", f"{r['memory_mb']:.0f} MB"])
    columns = ["system", "accuracy [95 %]", "macro F1 [95 %]", "malignant found", "difference to the best", "base"]
    return _markdown([*columns, "CPU time", "memory"], lines)


def _markdown(columns, lines):
    lines = [f"| {' | '.join(map(str, line))} |" for line in (columns, *lines)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def _interval(row, key, form=".3f"):
    return _cell(row[key], row[f"{key}_low"], row[f"{key}_high"], form)


def _cell(value, low, high, form=".3f"):
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


TABLES = (stored_runs, leaks, clean, backbones, comparators)

if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(write(sys.argv[1], runs.open_run(sys.argv[2])))
    elif len(sys.argv) > 3:
        print(write_folds(sys.argv[1], sys.argv[2:]))
    else:
        print("\n\n".join(table() for table in (ways, *TABLES)))
