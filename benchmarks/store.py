"""Put what was measured into busilib/results, and show it as the README does.

python benchmarks/store.py NAME RUN_FOLDER      take in a finished run
python benchmarks/store.py                      print all tables of the README
"""

import json
import sys
from pathlib import Path

from busilib import metrics, runs, studies
from busilib.cache import write_file
from busilib.recipes import CLASSES, PROBABILITIES

RESULTS = Path(runs.__file__).parent / "results"


def write(name, run):
    """Store a run under a name: run.json, the epochs, and for each part the scores and the confusion matrix."""
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
    return _write(
        RESULTS / f"{name}.json", content | {"history": run.history.round(4).to_dict("records"), "parts": parts}
    )


def write_table(name, rows, about):
    """Store a study's table (DataFrame); ``about`` (dict) says on what it was measured. Versions and date are added."""
    content = {"about": about | runs.environment(), "rows": json.loads(rows.to_json(orient="records"))}
    return _write(RESULTS / "tables" / f"{name}.json", content)


def _write(target, content):
    with write_file(target) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return target


def about(recipe, weights, scans, seeds):
    """Return on what a study was measured, for `write_table`."""
    return {
        "dataset": scans.identity(),
        "recipe": recipe.as_dict(),
        "weights": {"kind": weights.kind, "sha256": weights.sha256, "sentence": weights.sentence},
        "seeds": list(seeds),
    }


def stored_runs():
    """Return all stored runs as a table in Markdown: one line per run, accuracy with its 95 % interval."""
    lines = [
        "| run | test files | accuracy [95 %] | macro F1 [95 %] | majority | weights |",
        "|---|---|---|---|---|---|",
    ]
    for name in runs.stored_names():
        result = runs.stored(name)
        s = result["parts"]["test"]["summary"]
        lines.append(
            f"| {name} | {s['n']} | {_cell(s['accuracy'], s['accuracy_low'], s['accuracy_high'])} "
            f"| {_cell(s['macro_f1'], s['macro_f1_low'], s['macro_f1_high'])} | {s['majority']:.3f} "
            f"| {result['weights']['kind']} |"
        )
    return "\n".join(lines)


def leaks():
    """Return what each leak is worth on the real BUSI, from the stored tables: one line per leak."""
    tables = {name: studies.worth(runs.stored_table(f"leaks-{name}")) for name in ("MobileNetV2", "ResNet50")}
    lines = [f"| leak | {' | '.join(f'{name}, points [95 %]' for name in tables)} |", "|---" * (len(tables) + 1) + "|"]
    for kind, what in studies.LEAKS.items():
        cells = (_cell(*t.loc[kind, ["mean", "low", "high"]], "+.1f") for t in tables.values())
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def clean():
    """Return the clean protocol's scores on the real BUSI, first seed: one line per backbone."""
    columns = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1"}
    columns |= {"auc": "AUC", "sensitivity_1": "sensitivity, malignant"}
    lines = [f"| clean protocol | scans | {' | '.join(columns.values())} |", "|---" * (len(columns) + 2) + "|"]
    for name in ("MobileNetV2", "ResNet50"):
        rows = runs.stored_table(f"clean-{name}").query("part == 'test' and seed == 0")
        scores = metrics.with_intervals(studies.codes(rows["label"]), rows[PROBABILITIES].to_numpy(), rows["group"])
        cells = (_cell(*scores.loc[column, ["value", "low", "high"]]) for column in columns)
        lines.append(f"| {name} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def backbones():
    """Return two tables from the stored table "backbones": linear probes, and scans never seen."""
    table = runs.stored_table("backbones")
    lines = [
        "| network | weights | probe: accuracy [95 %] | gain over random weights, points [95 %] |",
        "|---|---|---|---|",
    ]
    for r in table.query("question == 'probe'").itertuples():
        gain = _cell(100 * r.gain, 100 * r.gain_low, 100 * r.gain_high, "+.1f") if r.weights != "random" else ""
        lines.append(f"| {r.network} | {r.weights} | {_cell(r.accuracy, r.low, r.high)} | {gain} |")
    lines += [
        "",
        f"| network, trained on phantoms alone | BUSI scans | balanced accuracy [95 %] | {' | '.join(CLASSES)} |",
    ]
    lines.append("|---" * (3 + len(CLASSES)) + "|")
    for r in table.query("question == 'never seen'").itertuples():
        shares = " | ".join(f"{value:.2f}" for value in r.sensitivities)
        lines.append(f"| {r.network} | {r.scans} | {_cell(r.accuracy, r.low, r.high)} | {shares} |")
    return "\n".join(lines)


def comparators():
    """Return the stored table "comparators", one line per system."""
    lines = [
        "| system | accuracy [95 %] | macro F1 [95 %] | malignant found | difference to the best | base "
        "| CPU time | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in runs.stored_table("comparators").itertuples():
        gap = _cell(r.difference, r.difference_low, r.difference_high, "+.3f") if r.difference else "the best"
        lines.append(
            f"| {r.title} | {_cell(r.accuracy, r.accuracy_low, r.accuracy_high)} "
            f"| {_cell(r.macro_f1, r.macro_f1_low, r.macro_f1_high)} | {r.malignant:.2f} | {gap} | {r.backbone} "
            f"| {r.cpu_seconds:.0f} s | {r.memory_mb:.0f} MB |"
        )
    return "\n".join(lines)


def _cell(value, low, high, form=".3f"):
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


TABLES = (stored_runs, leaks, clean, backbones, comparators)

if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(write(sys.argv[1], runs.open_run(sys.argv[2])))
    else:
        print("\n\n".join(table() for table in TABLES))
