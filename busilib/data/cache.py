"""Where busilib keeps what it can make or fetch again, and how it writes there."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import platformdirs


def cache_dir(*parts):
    """Return a folder of the user's cache as a Path, made when it is missing.

    The environment variable ``BUSILIB_CACHE`` moves the whole cache, to a disk with more room for instance.
    """
    root = os.environ.get("BUSILIB_CACHE") or platformdirs.user_cache_dir("busilib")
    folder = Path(root).expanduser().joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def write_file(target):
    """Yield a temporary path beside ``target``; rename it to ``target`` only when the block ends without error."""
    target = Path(target)
    handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def write_folder(target):
    """Yield a temporary folder beside ``target``; rename it only when the block ends without error.

    A folder that exists is therefore finished. When another process was faster, its folder is kept.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    working = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield working
        os.chmod(working, 0o755)
        try:
            os.rename(working, target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(working, ignore_errors=True)
