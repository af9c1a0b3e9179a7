"""What ``make bench`` runs: every measuring module, one table, benchmarks/results.json.

    python benchmarks/bench.py [--only NAME ...]

Each module runs in a process of its own, so that one that fails or runs out of memory takes no other with it. Rows that
were not measured stay in results.json as they were. A missed target is a result and no error; the exit status is 1 only
when a module failed.
"""

import argparse
import importlib
import json
import sys
import textwrap
from pathlib import Path

import pandas as pd
from rows import COLUMNS, apart

from busilib.cache import write_file

RESULTS = Path(__file__).with_name("results.json")
MODULES = ("start", "growth", "speed", "gpu")
LONG = ("memory",)  # minutes: only when they are named


def main():
    """Run the modules, print the table of all results, return the exit status."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=MODULES + LONG, default=MODULES, help=f"default: not {LONG[0]}")
    failed = []
    for module in parser.parse_args().only:
        try:
            rows = apart(_measure, module)
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
    shown = pd.DataFrame(rows, columns=COLUMNS[:-1]).set_index("name").rename_axis(None)
    shown["reached"] = shown["reached"].map({True: "yes", False: "NO"})
    head, *lines = shown.to_string(na_rep="", float_format="{:g}".format).splitlines()
    notes = [textwrap.indent(textwrap.fill(row["note"] or "", 110), "    ") for row in rows]
    return "\n".join([head, *(f"{line}\n{note}" for line, note in zip(lines, notes, strict=True))])


if __name__ == "__main__":
    sys.exit(main())
