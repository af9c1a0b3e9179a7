"""What ``make bench`` runs: every measuring module, one table, benchmarks/results.json.

    python benchmarks/bench.py [--only NAME ...]

Each module runs in a process of its own, so that one that fails or runs out of memory takes no other with it. Rows of
modules that were not run, that failed or that cannot run here stay in results.json as they were. A missed target is a
result and no error; the exit status is 1 only when a module failed.
"""

import argparse
import importlib
import importlib.util
import json
import multiprocessing
import sys
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rows import COLUMNS, Skipped

from busilib.cache import write_file

RESULTS = Path(__file__).with_name("results.json")
MODULES = ("start", "growth", "speed", "backbones", "backends", "gpu")
LONG = ("memory",)  # minutes: only when they are named


def main(arguments=None, results=RESULTS):
    """Run the modules, print the table of all results, return the exit status."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.split("\n")[0])
    names = f"of {', '.join(MODULES + LONG)} (default: not {LONG[0]})"
    parser.add_argument("--only", nargs="+", metavar="NAME", default=MODULES, help=names)
    chosen = parser.parse_args(arguments).only
    failed = []
    for module in chosen:
        print(f"{module}: ", end="", flush=True)
        start = time.perf_counter()
        try:
            rows = measure(module)
            said = store(module, rows, results)
        except Skipped as reason:
            kept = len(of(module, load(results)))
            print(f"skipped: {reason}; {f'{kept} earlier rows are kept' if kept else 'there are no earlier rows'}")
        except Exception as error:  # whatever a module raises, the others are measured
            failed.append(module)
            print(f"FAILED: {type(error).__name__}: {error}; its earlier rows are kept")
        else:
            print("; ".join([f"{len(rows)} rows in {time.perf_counter() - start:.0f} s", *said]))
    print("\n" + table(load(results)))
    return 1 if failed else 0


def measure(module):
    """Return the rows of a module, measured in a fresh process."""
    if importlib.util.find_spec(module) is None:
        raise Skipped(f"benchmarks/{module}.py is not there")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, module).result()


def _measure(module):
    return importlib.import_module(module).measure()


def load(results=RESULTS):
    """Return the rows of results.json; none when it does not exist yet."""
    return json.loads(results.read_text(encoding="utf-8")) if results.exists() else []


def of(module, rows):
    """Return the rows of one module: those whose names begin with "MODULE: "."""
    return [row for row in rows if row["name"].startswith(f"{module}: ")]


def store(module, rows, results=RESULTS):
    """Replace a module's rows in results.json; return sentences on the figures that could not be measured here."""
    earlier = load(results)
    rows = [row | {"name": f"{module}: {row['name']}"} for row in rows]
    if len({row["name"] for row in rows}) < len(rows) or any(set(row) != set(COLUMNS) for row in rows):
        raise ValueError(f"{module}: two rows share a name, or a row has not the columns {', '.join(COLUMNS)}")
    measured = [row["ours"] is not None for row in rows]
    if not any(measured) and any(row["ours"] is not None for row in of(module, earlier)):
        return [f"nothing could be measured here ({rows[0]['note']}), the earlier rows are kept"]
    before, new, said = {row["name"]: row for row in earlier}, [], []
    for row in rows:
        if row["ours"] is None:
            kept = before.get(row["name"], row)["ours"] is not None
            said.append(f"{row['name']} {row['note']}, " + ("the earlier row is kept" if kept else "no earlier row"))
            new.append(before[row["name"]] if kept else row)
        else:
            new.append(row)
    others = [row for row in earlier if row not in of(module, earlier)]
    with write_file(results) as temporary:
        text = json.dumps(sorted(others + new, key=_order), indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return said


def _order(row):
    """Sort by module as `MODULES` has it; the rows of a module stay in their order."""
    names = MODULES + LONG
    module = row["name"].split(": ")[0]
    return names.index(module) if module in names else len(names)


def table(rows):
    """Return the rows as text: a line a row, its note below it."""
    head = ("what", "ours", "other", "ratio", "unit", "target", "reached", "device")
    lines = [head] + [tuple(_text(row[key]) for key in COLUMNS[:-1]) for row in rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    text = []
    for line, note in zip(lines, [""] + [row["note"] for row in rows], strict=True):
        text.append("  ".join(f"{part:<{width}}" for part, width in zip(line, widths, strict=True)).rstrip())
        text += textwrap.wrap(note or "", 110, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(text)


def markdown(rows):
    """Return the rows that have a target as a table in Markdown, as the README shows it, measured or not."""
    lines = ["| what | ours | other | ratio | target | reached | device |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        if row["target"] is None:
            continue
        ours, other = (
            f"{_text(row[key])} {row['unit']}".strip() if row[key] is not None else "" for key in ("ours", "other")
        )
        reached = "not measured" if row["ours"] is None else _text(row["reached"])
        cells = (row["name"], ours, other, _text(row["ratio"]), row["target"], reached, row["device"] or "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _text(value):
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
