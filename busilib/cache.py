"""Where busilib keeps what it can make or fetch again, how it writes there, and how it shows its progress."""

import errno
import json
import os
import secrets
import shutil
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from busilib.errors import DiskFullError


def cache_dir(*parts):
    """Return a folder of the user's cache as a Path, made when it is missing.

    The environment variable ``BUSILIB_CACHE`` moves the whole cache, to a disk with more room for instance.
    """
    import pooch

    root = os.environ.get("BUSILIB_CACHE") or pooch.os_cache("busilib")
    folder = Path(root).expanduser().joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# The folders that are made in the cache. It may stand on a disk beside folders of other people, which are left alone.
KINDS = "augmented busi catalogue downloads features gpus honest phantoms runs studies".split()


def sizes():
    """Return what the cache holds, as a dict: kind (one of `KINDS`) → bytes."""
    folders = [folder for folder in sorted(cache_dir().iterdir()) if folder.is_dir() and folder.name in KINDS]
    return {f.name: sum(file.lstat().st_size for file in f.rglob("*") if not file.is_dir()) for f in folders}


@contextmanager
def _room_for(target):
    """Say in words that the disk is full; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and "No space left" not in str(error):  # h5py has no number
            raise
        ways = "Make room (`busi cache` tells what can go), or name a place on another disk (RUNS, BUSILIB_CACHE)."
        raise DiskFullError(f"{target} cannot be written: No space left on device. {ways}") from error


@contextmanager
def write_file(target):
    """Yield a temporary path beside ``target``; rename it to ``target`` only when the block ends without error."""
    target = Path(target)
    working = target.with_name(f".{secrets.token_hex(4)}-{target.name}")
    try:
        with _room_for(target):
            yield working
        os.replace(working, target)
    finally:
        working.unlink(missing_ok=True)


@contextmanager
def write_folder(target):
    """Yield a temporary folder beside ``target``; rename it only when the block ends without error.

    A folder that exists is therefore finished. When another process was faster, its folder is kept.
    """
    target = Path(target)
    working = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        with _room_for(target):
            working.mkdir(parents=True)
            yield working
        try:
            os.rename(working, target)
        except OSError:
            if not any(target.glob("*")):
                raise
    finally:
        shutil.rmtree(working, ignore_errors=True)


def shown():
    """Say whether a person is watching: a terminal, JupyterLab, VS Code or Colab, but not papermill or nbval.

    ``BUSILIB_PROGRESS=0`` or ``=1`` decides it by hand.
    """
    if (choice := os.environ.get("BUSILIB_PROGRESS")) is not None:
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
    """Tell whoever executes this notebook how far it is: a line of JSON in ``BUSILIB_REPORT``.

    The variable names a file; `busitools.notebooks.execute` sets it for its kernels. Without it nothing happens.
    """
    if file := os.environ.get("BUSILIB_REPORT"):
        with suppress(OSError), open(file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(event) + "\n")
