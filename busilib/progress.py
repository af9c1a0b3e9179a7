"""Progress bars for people, and none in stored outputs or logs."""

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
