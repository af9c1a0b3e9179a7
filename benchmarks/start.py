"""Seconds until the command line answers and the library is imported, beside the bare interpreter's start.

The files are in the system's cache, as at any start but the first one after the machine's.
"""

import subprocess
import sys
from pathlib import Path

from rows import row, seconds

STARTS = {
    "busi --help": [str(Path(sys.executable).with_name("busi")), "--help"],
    "import busilib": [sys.executable, "-c", "import busilib"],
    "import busilib.data": [sys.executable, "-c", "import busilib.data"],
}


def measure():
    """Return one row per start: the median of 11, in turns with the interpreter's own."""
    *taken, bare = seconds(*map(starter, [*STARTS.values(), [sys.executable, "-c", "pass"]]), repeats=11)
    note = "other: python -c pass; medians of 11 starts in turns"
    return [
        row(name, ours, "s", other=bare, better="lower", target="ours <= 0.3", note=note)
        for name, ours in zip(STARTS, taken, strict=True)
    ]


def starter(command):
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
