"""How much memory each lesson needs: the peak of its kernel and of all that it starts.

    python benchmarks/memory.py [LESSON ...]            at profile quick on phantoms
    python benchmarks/memory.py --full [LESSON ...]     at profile full on the real BUSI (environment: BUSI_DIR)

At quick a lesson gets an empty cache and an empty folder of
runs, so that it makes its phantoms and trains its models itself. At full the lessons of one call share both, in their
order, as a user's do: training 03 and 04 takes minutes on two cores, and lesson 05 shows their models.
The resident memory of all processes is added up, so pages that they share count in each: an upper bound.
Targets: 6 GB at quick and 12 GB at full, what a laptop with 8 GB and one with 16 GB have beside their system.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
from bench import store
from rows import not_measured, row

from busitools import notebooks

TARGETS = {"quick": "ours <= 6000", "full": "ours <= 12000"}  # MB


def measure(profile="quick", chosen=()):
    """Return a row for each lesson and profile; only the ``chosen`` lessons (all when empty) at one are measured."""
    names = [(f"{path.stem[:2]} at {each}", target) for each, target in TARGETS.items() for path in notebooks.lessons()]
    rows = {name: not_measured(name, "not asked for", target) for name, target in names}
    with tempfile.TemporaryDirectory(prefix="busilib-memory-") as folder:
        for path in notebooks.lessons(chosen):
            name = f"{path.stem[:2]} at {profile}"
            rows[name] = lesson(name, path, profile, folder if profile == "full" else f"{folder}/{path.stem}")
            print(rows[name]["name"], rows[name]["ours"], "MB,", rows[name]["note"], flush=True)
    return list(rows.values())


def lesson(name, path, profile, home):
    """Execute a lesson, its cache and runs in the folder ``home``, and return the row of its peak.

    One that fails gives a row that says so.
    """
    data = os.environ["BUSI_DIR"] if profile == "full" else "phantom"
    given = {"PROFILE": profile, "DATASET": data, "RUNS": f"{home}/runs"}
    given = {key: value for key, value in given.items() if key in notebooks.parameters(path)}
    peak, home_cache = 0, {"BUSILIB_CACHE": f"{home}/cache"}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(notebooks.execute, path, f"{home}/{path.name}", given, env=home_cache)
        while not running.done():
            time.sleep(0.02)
            with suppress(psutil.Error):  # one ended while it was asked: the next look sees the others
                peak = max(peak, sum(one.memory_info().rss for one in psutil.Process().children(recursive=True)) / 1e6)
    done = running.result()
    if done.error is not None:
        return not_measured(name, f"it failed, {done.error}", TARGETS[profile])
    note = f"on {'phantoms' if data == 'phantom' else 'the real BUSI'}, {done.seconds:.0f} s"
    return row(name, peak, "MB", target=TARGETS[profile], note=note)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lessons", nargs="*", metavar="LESSON")
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    if options.full and not os.environ.get("BUSI_DIR"):
        parser.error("BUSI_DIR does not name the folder of the real BUSI")
    store("memory", measure("full" if options.full else "quick", options.lessons))
