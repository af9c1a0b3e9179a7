"""A class of forty made submissions, graded: time, table and log.

``python -m benchmarks.class_of_forty OUT [NUMBER]`` (in the checkout; Linux with bubblewrap): honest, broken
and hostile ones, see tests/classroom/submissions.py. The honest ones are graded alone first: what the others cost is
the difference. NUMBER grades so many honest ones only.
"""

import shutil
import sys
import time
from pathlib import Path

import psutil

from busitools import grading, sandbox
from tests.classroom import submissions as made


def main(out, number=0):
    """Grade the honest part alone, then the whole class; print both times and the table."""
    out, rest = Path(out), [*made.BROKEN, *made.HOSTILE]
    shutil.rmtree(out, ignore_errors=True)
    honest = [made.HONEST[i % len(made.HONEST)] for i in range(int(number) or 40 - len(rest))]
    limits = sandbox.Limits(seconds=30, total=150, memory=2, processes=64)
    for name, kinds in ({"honest": honest} | ({} if number else {"all": [*honest, *rest]})).items():
        for place, change in enumerate(kinds, start=1):
            made.hand_in(out / name, f"{place:02d}_{change.__name__}", change)
        began = time.perf_counter()
        grades = grading.grade(out / name, out / f"{name}.csv", limits=limits)
        print(f"{name}: {len(grades)} submissions in {time.perf_counter() - began:.0f} s, two at a time")
    for one in grades:
        print(f"{one.student:<24} {one.points:4g} of {one.of:<4g} {'; '.join(one.remarks)}")
    alive = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    print("kernels left running:", sum("busitools.sandbox" in line for line in alive))


if __name__ == "__main__":
    main(*sys.argv[1:])
