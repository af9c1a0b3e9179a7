"""How much memory each lesson needs: the peak of its kernel and of all that it starts.

    python benchmarks/memory.py [LESSON ...]            at profile quick on phantoms
    python benchmarks/memory.py --full [LESSON ...]     at profile full on the real BUSI (environment: BUSI_DIR)

Each figure goes into results.json as soon as it is there. At quick a lesson gets an empty cache and an empty folder of
runs, so that it makes its phantoms and trains its models itself. At full the lessons of one call share both, in their
order, as a user's do: training 03 and 04 takes ten minutes on two cores, and lesson 05 shows their models.
The resident memory of all processes is added up, so pages that they share count in each: an upper bound.
Targets: 6 GB at quick and 12 GB at full, what a laptop with 8 GB and one with 16 GB have beside their system.
"""

import argparse
import os
import tempfile

from bench import store
from rows import not_measured, row, with_peak

from busitools import notebooks

TARGETS = {"quick": "ours <= 6000", "full": "ours <= 12000"}  # MB


def measure(profile="quick", chosen=(), done=lambda rows: None):
    """Return a row for each lesson and profile; only the ``chosen`` lessons (all when empty) at one are measured.

    ``done`` is called with all rows so far after each lesson.
    """
    rows = {}
    for each, target in TARGETS.items():
        names = [name(path, each) for path in notebooks.lessons()]
        rows |= {one: not_measured(one, "not asked for", target) for one in names}
    with tempfile.TemporaryDirectory(prefix="busilib-memory-") as folder:
        for path in notebooks.lessons(chosen):
            home = folder if profile == "full" else f"{folder}/{path.stem}"
            rows[name(path, profile)] = lesson(path, profile, home)
            done(list(rows.values()))
    return list(rows.values())


def name(path, profile):
    """Return a row's name, "01 at quick"."""
    return f"{path.stem[:2]} at {profile}"


def lesson(path, profile, home):
    """Execute a lesson, its cache and runs in the folder ``home``, and return the row of its peak.

    One that fails gives a row that says so.
    """
    data = os.environ["BUSI_DIR"] if profile == "full" else "phantom"
    given = {"PROFILE": profile, "DATASET": data, "RUNS": f"{home}/runs"}
    given = {key: value for key, value in given.items() if key in notebooks.parameters(path)}
    cache = {"BUSILIB_CACHE": f"{home}/cache"}
    done, peak = with_peak(lambda: notebooks.execute(path, f"{home}/{path.name}", given, env=cache), children=True)
    if done.error is not None:
        return not_measured(name(path, profile), f"it failed, {done.error}", TARGETS[profile])
    on = "the real BUSI" if profile == "full" else "phantoms"
    return row(name(path, profile), peak, "MB", target=TARGETS[profile], note=f"on {on}, {done.seconds:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lessons", nargs="*", metavar="LESSON")
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    if options.full and not os.environ.get("BUSI_DIR"):
        parser.error("BUSI_DIR does not name the folder of the real BUSI")
    for one in measure("full" if options.full else "quick", options.lessons, lambda rows: store("memory", rows)):
        if one["ours"] is not None:
            print(f"{one['name']}: {one['ours']} MB, {one['note']}")
