"""A box for code that nobody has read: own processes, no network, nothing writable outside one folder, limits.

Linux only, by bubblewrap (``bwrap``). A Jupyter kernel starts in it by its spec:
``python -m busitools.sandbox BOX CONNECTION_FILE`` makes the box, starts IPython's kernel inside, and watches what it
uses.

What the sandbox does not stop: code that runs in the same kernel as its own tests can patch Python and fake a pass, and
it can look at a hidden test while that runs (nothing that it then prints or writes comes out). Whoever reads the
notebook sees it; the remarks name some words to look for. It can read the installed packages, the machine's name and
its load, and use a processor until its time is up; a fault in Linux itself would let it out. Each process has its own
memory limit; the sum is watched twice a second, so it can be passed for a moment.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

import busilib
from busilib.errors import ClassroomError

REMAINS = __doc__[__doc__.index("What the sandbox does not stop") :].strip()
USER = 61000  # the number of the first user that a box runs as, when the teacher is root


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    seconds: int = 60  # per cell
    total: int = 300  # seconds for the whole notebook
    memory: int = 4  # GB, of all its processes together
    processes: int = 128  # threads count as well
    output: int = 2_000_000  # characters of output, of all cells together
    disk: int = 200_000_000  # bytes in its folder


def check():
    """Raise ClassroomError, with the reason, unless a box works here."""
    reason = "bubblewrap is not installed"
    if shutil.which("bwrap"):
        with tempfile.TemporaryDirectory(prefix="busi-box-") as place:
            os.chmod(place, 0o755)
            folder = make_folder(Path(place) / "inside", USER)
            line = command(folder, [sys.executable, "-c", "import busilib, ipykernel"], USER, Limits())
            done = subprocess.run(line, env=environment(folder), capture_output=True, text=True, timeout=60)
        reason = done.returncode and f"{done.stderr}, exit status {done.returncode}"
    if reason:
        raise ClassroomError(
            f"No sandbox here ({reason}). Submissions are code that nobody has read: grade them on Linux with "
            "bubblewrap (apt install bubblewrap), or in a machine that you can throw away. With --trusted they run as "
            "you, with your files and your network; only time and output are limited then."
        )


def make_folder(path, user):
    """Make the one folder that a box may write to, owned by the user number that the box runs as; return its Path."""
    path.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(path, user, user)
    return path


# No history file: the folder is thrown away.
KERNEL = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
KERNEL += ["--HistoryManager.enabled=False", "--IPKernelApp.log_level=ERROR"]


def kernel_spec(trusted, user, limits):
    """Return the kernel spec (dict) of a Python kernel in a box, or without one when it is ``trusted``.

    The folder of the connection file is the one that the box can write to; `make_folder` makes it.
    """
    box = json.dumps({"user": user, "limits": asdict(limits)})
    boxed = [sys.executable, "-m", "busitools.sandbox", box, "{connection_file}"]
    return {"argv": KERNEL if trusted else boxed, "display_name": "Submission", "language": "python"}


# What can be read inside, beside this Python, its packages and busilib: the system. No home, no data.
SYSTEM = "/usr /bin /lib /lib64 /etc/ld.so.cache /etc/fonts /etc/localtime /etc/alternatives".split()
# As many threads as processors would be hundreds on a large machine, and each counts as a process.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def environment(folder):
    """Return the box's whole environment: nothing of the teacher's own goes in."""
    return dict.fromkeys(THREADS, "1") | {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin",
        "PYTHONPATH": os.pathsep.join([str(Path(busilib.__file__).parents[1]), *_packages()]),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "BUSILIB_PROGRESS": "0",
        "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def _packages():
    """Return where packages are: a user's own lie in the home folder, which is not there inside."""
    return [place for place in sys.path if place.endswith(("site-packages", "dist-packages"))]


def command(folder, inside, user, limits):
    """Return the command line that runs ``inside`` (a list) in a box.

    ``folder`` is the one place to write. ``user``: the number that the box runs as when the teacher is root; an
    ordinary teacher's box runs as the teacher, without any privilege.
    """
    line = "bwrap --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup-try --hostname exercise"
    line = [*line.split(), "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"]
    readable = [*SYSTEM, sys.base_prefix, sys.prefix, *_packages(), os.path.dirname(busilib.__file__)]
    above = {str(parent) for place in [*readable, folder] for parent in Path(place).parents} - {"/"}
    for place in sorted(above):
        line += ["--perms", "0755", "--dir", place]  # bubblewrap would make it for root's eyes only
    for place in readable:
        line += ["--ro-bind-try", place, place]
    line += ["--bind", str(folder), str(folder), "--chdir", str(folder), "--remount-ro", "/dev", "--remount-ro", "/"]
    if os.geteuid() == 0:
        line += ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--clear-groups"]
        line += [f"--reuid={user}", f"--regid={user}"]
    else:
        line.insert(1, "--unshare-user")
    # Libraries reserve 2 GB of address space and more than they use; what is used is watched by `main`.
    line += ["prlimit", f"--as={(3 * limits.memory + 4) * 10**9}", f"--cpu={2 * limits.total}", "--core=0"]
    return [*line, f"--fsize={limits.disk}", f"--nproc={limits.processes}", *inside]


def main(box, connection):
    """Run a kernel in a box until it ends or uses too much; then the reason is written into FOLDER.reason."""
    box, folder, teacher = json.loads(box), Path(connection).parent, os.getppid()
    limits = Limits(**box["limits"])
    if os.geteuid() == 0:
        os.chown(connection, box["user"], box["user"])
    inside = [part.format(connection_file=connection) for part in KERNEL]
    line, nothing = command(folder, inside, box["user"], limits), subprocess.DEVNULL
    with subprocess.Popen(line, env=environment(folder), stdin=nothing, stdout=nothing, stderr=nothing) as kernel:
        while kernel.poll() is None:
            reason = _too_much(kernel.pid, folder, limits)
            if reason:
                folder.with_suffix(".reason").write_text(reason)
            if reason or os.getppid() != teacher:
                kernel.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                kernel.wait(timeout=0.5)


def _too_much(pid, folder, limits):
    """Return why a box must be killed, None while it keeps to its limits."""
    used = written = 0
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            used += process.memory_info().rss
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # just removed
                written += os.lstat(os.path.join(place, name)).st_size
    if used > limits.memory * 10**9:
        return f"it used more than {limits.memory} GB of memory"
    return f"it wrote more than {limits.disk // 10**6} MB" if written > limits.disk else None


if __name__ == "__main__":
    main(*sys.argv[1:])
