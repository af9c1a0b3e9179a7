"""What ``make bench`` runs: every measuring module, one table, benchmarks/results.json.

    python benchmarks/bench.py [--only NAME ...]

Each module runs in a process of its own, so that one that fails or runs out of memory takes no other with it. Rows that
were not measured stay in results.json as they were. A missed target is a result and no error; the exit status is 1 only
when a module failed.
"""

import argparse
import importlib
import json
import multiprocessing
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rows import COLUMNS

from busilib.cache import write_file

RESULTS = Path(__file__).with_name("results.json")
MODULES = ("start", "growth", "speed", "backbones", "backends", "gpu")
LONG = ("memory",)  # minutes: only when they are named


def main():
    """Run the modules, print the table of all results, return the exit status."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.split("\n")[0])
    names = f"of {', '.join(MODULES + LONG)} (default: not {LONG[0]})"
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=MODULES + LONG, default=MODULES, help=names)
    failed = []
    for module in parser.parse_args().only:
        try:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                rows = pool.submit(_measure, module).result()
            store(module, rows)
            print(f"{module}: {sum(row['ours'] is not None for row in rows)} of {len(rows)} rows measured", flush=True)
        except Exception as error:  # whatever a module raises, the others are measured
            failed.append(module)
            print(f"{module}: FAILED: {type(error).__name__}: {error}; its earlier rows are kept", flush=True)
    print("\n" + table(load()))
    return 1 if failed else 0


def _measure(module):
    return importlib.import_module(module).measure()


def load():
    """Return the rows of results.json."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def store(module, rows):
    """Replace a module's rows in results.json; one that was not measured leaves the earlier row of its name."""
    earlier = {row["name"]: row for row in load()}
    rows = [row | {"name": f"{module}: {row['name']}"} for row in rows]
    rows = [row if row["ours"] is not None else earlier.get(row["name"], row) for row in rows]
    others = [row for row in earlier.values() if not row["name"].startswith(f"{module}: ")]
    order = {name: k for k, name in enumerate(MODULES + LONG)}
    rows = sorted(others + rows, key=lambda row: order[row["name"].split(": ")[0]])
    with write_file(RESULTS) as temporary:
        temporary.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def table(rows):
    """Return the rows as text: one line per row, its note below it."""
    lines = [COLUMNS[:-1]] + [tuple(_text(row[key]) for key in COLUMNS[:-1]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line, note in zip(lines, [""] + [row["note"] for row in rows], strict=True):
        text.append("  ".join(f"{part:<{width}}" for part, width in zip(line, widths, strict=True)).rstrip())
        text += textwrap.wrap(note or "", 110, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(text)


def _text(value):
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
