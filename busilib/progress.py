"""Progress bars for people, and none in stored outputs or logs; a report to whoever executes a notebook."""

import contextlib
import json
import os
import sys


def shown():
    """Say whether a person is watching: a terminal, JupyterLab, VS Code or Colab, but not papermill or nbval.

    ``BUSILIB_PROGRESS=0`` or ``=1`` decides it by hand.
    """
    choice = os.environ.get("BUSILIB_PROGRESS")
    if choice is not None:
        return choice != "0"
    live_notebook = "JPY_SESSION_NAME" in os.environ or "VSCODE_PID" in os.environ or "google.colab" in sys.modules
    return live_notebook or (sys.stderr is not None and sys.stderr.isatty())


def bar(iterable=None, description="", total=None, unit="it", **options):
    """Return a tqdm bar over ``iterable``; silent when nobody is watching (see `shown`).

    ``options`` go to tqdm (``unit_scale=True`` for bytes, for instance).
    """
    from tqdm.auto import tqdm

    return tqdm(iterable, desc=description, total=total, unit=unit, disable=not shown(), **options)


def report(**event):
    """Tell whoever executes this notebook how far it is, or which run it made: a line of JSON in ``BUSILIB_REPORT``.

    The variable names a file; `busilib.batch.execute` sets it for its kernels. Without it nothing happens.
    """
    file = os.environ.get("BUSILIB_REPORT")
    if file:
        with contextlib.suppress(OSError), open(file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(event) + "\n")
