"""``busi doctor``: what works here, and what to do where something does not."""

import importlib
import platform
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from busilib import cache, recipes
from busilib.data import fetch, phantom
from busilib.errors import ClassroomError
from busitools import exercises, notebooks, sandbox

PACKAGES = "busi-notebooks keras tensorflow jax numpy pandas scikit-learn matplotlib ipykernel jupyterlab ipywidgets"
FREE = 2e9  # bytes: a quick run of all lessons needs less


@dataclass(frozen=True)
class Finding:
    """One line of the report. A ``hint`` says what to do about something that will not work; "" when it works."""

    what: str
    value: str
    hint: str = ""


def examine(for_class=False):
    """Yield a Finding for each thing that was looked at; ``for_class`` adds what a teacher needs for the lesson."""
    yield Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("versions", ", ".join(f"{name} {_version(name)}" for name in PACKAGES.split() if _version(name)))
    yield _try("network library", _backend, "Install the package again: pip install --upgrade busi-notebooks")
    yield (place := _try("cache", _writes, "Name a folder that you may write to in the variable BUSILIB_CACHE"))
    if not place.hint:
        yield Finding(
            "in the cache", ", ".join(f"{kind} {n / 1e6:.0f} MB" for kind, n in cache.sizes().items()) or "nothing"
        )
        yield Finding("BUSI", str(fetch.find() or "not here: lessons run on phantoms; busi data get fetches it"))
        yield _try("free disk", _room, "Make room: busi cache clear removes what can be made again")
    yield _try("lessons", lambda: f"{len(notebooks.lessons())} in {notebooks.folder()}", "Install the package again")
    if for_class:
        yield _try("parameters", _parameters, "A lesson was edited: git checkout notebooks brings it back")
        yield _try("exercises", _exercises, "make exercises writes them again from notebooks/solutions")
        yield _try("phantoms", _phantoms, "busi cache clear phantoms, then try again")
        yield _try("sandbox", _sandbox, "On Linux: apt install bubblewrap; elsewhere see Grading in the guide")
    else:
        yield Finding("sandbox tool", shutil.which("bwrap") or "none: needed for grading alone")


def report(findings):
    """Print each Finding as it comes; return the exit status, 1 when something will not work."""
    hints = 0
    for finding in findings:
        print(f"{'!!' if finding.hint else 'ok'}  {finding.what:<16} {finding.value}", flush=True)
        if finding.hint:
            print(f"    {'':<16} → {finding.hint}", flush=True)
            hints += 1
    print("All of this works." if not hints else f"{hints} will not work: see the arrows.")
    return int(hints > 0)


def _try(what, examination, hint):
    """Return the Finding of an examination that returns a text, or fails with a sentence."""
    try:
        return Finding(what, examination())
    except Exception as error:  # whatever it is, it is what the doctor was asked for
        return Finding(what, f"{error}".strip() or type(error).__name__, hint)


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _backend():
    from busilib import runs

    importlib.import_module("busilib.learning")
    about = runs.environment()
    return f"Keras on {about['backend']}, {about['device']}"


def _writes():
    folder = cache.cache_dir()
    with tempfile.TemporaryDirectory(dir=folder):
        return str(folder)


def _room():
    free = shutil.disk_usage(cache.cache_dir()).free
    if free < FREE:
        raise OSError(f"{free / 1e9:.1f} GB")
    return f"{free / 1e9:.1f} GB"


def _parameters():
    for lesson in notebooks.lessons():
        recipes.check_parameters(notebooks.parameters(lesson))
    return "all lessons' are read"


def _exercises():
    with tempfile.TemporaryDirectory(prefix="busi-doctor-") as folder:
        for path in exercises.write(target=folder):
            there = notebooks.folder() / "exercises" / Path(path).name
            if not there.exists() or there.read_bytes() != Path(path).read_bytes():
                raise ClassroomError(f"{there.name} is not what its solution gives")
    return "current"


def _phantoms():
    count = recipes.profile_values("quick")["phantoms"]
    return f"{count} in {phantom.cached(count, 0)}"


def _sandbox():
    sandbox.check()
    return f"works, by {shutil.which('bwrap')}"
