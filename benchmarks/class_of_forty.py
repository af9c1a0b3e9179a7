"""A class of forty made submissions, graded: time, table and log.

``python -m benchmarks.class_of_forty OUT`` (in the checkout; Linux with bubblewrap or unshare). Twenty honest ones,
seven broken, thirteen hostile: see tests/classroom/submissions.py. The honest ones are graded alone first: what the
others cost is the difference.

2026-11-24, CPU with 2 cores, bubblewrap 0.8: twenty honest ones 50 s, all forty 198 s; no kernel left running.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from busitools import grading, sandbox
from tests.classroom import submissions as made


def class_of(kinds, folder):
    """Write one submission for each of ``kinds``, students numbered in order."""
    for number, change in enumerate(kinds, start=1):
        made.hand_in(folder, f"{number:02d}_{change.__name__}", change)


def main(out):
    """Grade the honest part alone, then the whole class; print both times and the table."""
    out = Path(out)
    shutil.rmtree(out, ignore_errors=True)
    honest = [made.HONEST[i % len(made.HONEST)] for i in range(40 - len(made.BROKEN) - len(made.HOSTILE))]
    limits = sandbox.Limits(seconds=30, total=150, memory=2, processes=64)
    for name, kinds in (("honest", honest), ("all", [*honest, *made.BROKEN, *made.HOSTILE])):
        class_of(kinds, out / name)
        began = time.perf_counter()
        grades = grading.grade(out / name, out / f"{name}.csv", limits=limits)
        print(f"{name}: {len(grades)} submissions in {time.perf_counter() - began:.0f} s, two at a time")
    for one in grades:
        print(f"{one.student:<24} {one.points:4g} of {one.of:<4g} {one.seconds:4.0f} s  {'; '.join(one.remarks)}")
    alive = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    print("kernels left running:", sum("busitools.kernel" in line for line in alive.splitlines()))


if __name__ == "__main__":
    main(*sys.argv[1:])
