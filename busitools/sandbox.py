"""A box for code that nobody has read: own processes, no network, nothing writable outside one folder, limits.

Linux only, by bubblewrap (``bwrap``). A Jupyter kernel starts in it by its spec:
``python -m busitools.sandbox LIMITS CONNECTION_FILE`` makes the box, starts IPython's kernel inside, and watches what
it uses.

What the sandbox does not stop: code that runs in the same kernel as its own tests can patch Python and fake a pass, and
it can look at a hidden test while that runs (nothing that it then prints or writes comes out). Whoever reads the
notebook sees it. It can read the installed packages, the machine's name and its load, and use a processor until its
time is up; a fault in Linux itself would let it out. Each process has its own memory limit; the sums of memory and disk
are watched twice a second, so they can be passed for a moment, and a folder that it has locked is not looked into.
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
        with tempfile.TemporaryDirectory(prefix="busi-box-") as folder:
            line = command(folder, [sys.executable, "-c", "import busilib, ipykernel"], Limits())
            done = subprocess.run(line, env=environment(folder), capture_output=True, text=True, timeout=60)
        reason = done.returncode and f"{done.stderr}, exit status {done.returncode}"
    if reason:
        raise ClassroomError(
            f"No sandbox here ({reason}), and submissions are code that nobody has read: grade on Linux with bwrap "
            "(apt install bubblewrap), or, with --trusted, where they may do all that you may."
        )


# No history file: the folder is thrown away.
KERNEL = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
KERNEL += ["--HistoryManager.enabled=False", "--IPKernelApp.log_level=ERROR"]


def kernel_spec(trusted, limits):
    """Return the kernel spec (dict) of a Python kernel in a box, or without one when it is ``trusted``.

    The folder of the connection file is the one that the box can write to.
    """
    boxed = [sys.executable, "-m", "busitools.sandbox", json.dumps(asdict(limits)), "{connection_file}"]
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
        "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow"),
        **{"LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder)},
        **{"BUSILIB_PROGRESS": "0", "TF_CPP_MIN_LOG_LEVEL": "3"},
    }


def _packages():
    """Return where packages are: a user's own lie in the home folder, which is not there inside."""
    return [place for place in sys.path if place.endswith(("site-packages", "dist-packages"))]


def command(folder, inside, limits):
    """Return the command line that runs ``inside`` (a list) in a box, as the teacher but without any privilege.

    ``folder`` is the one place to write.
    """
    line = "bwrap --unshare-user --uid 61000 --gid 61000 --unshare-pid --unshare-net --unshare-ipc --unshare-uts "
    line += "--unshare-cgroup-try --cap-drop ALL --hostname exercise --die-with-parent --new-session --proc /proc "
    line = [*line.split(), "--dev", "/dev"]
    for place in [*SYSTEM, sys.base_prefix, sys.prefix, *_packages(), os.path.dirname(busilib.__file__)]:
        line += ["--ro-bind-try", place, place]
    line += ["--bind", str(folder), str(folder), "--chdir", str(folder), "--remount-ro", "/dev", "--remount-ro", "/"]
    # Libraries reserve 2 GB of address space and more than they use; what is used is watched by `main`.
    line += ["prlimit", f"--as={(3 * limits.memory + 4) * 10**9}", f"--cpu={2 * limits.total}", "--core=0"]
    return [*line, f"--fsize={limits.disk}", f"--nproc={limits.processes}", *inside]


def main(limits, connection):
    """Run a kernel in a box until it ends or uses too much; then the reason is written into FOLDER.reason."""
    limits, folder, teacher = Limits(**json.loads(limits)), Path(connection).parent, os.getppid()
    inside = [part.format(connection_file=connection) for part in KERNEL]
    line, nothing = command(folder, inside, limits), subprocess.DEVNULL
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
    used, unseen, processes = 0, 0, psutil.Process(pid).children(recursive=True)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, OSError):  # it has just ended, or closed a file
            used += process.memory_info().rss
            opened = (link.stat() for link in Path(f"/proc/{process.pid}/fd").glob("*"))  # some are in no folder
            unseen += sum(512 * file.st_blocks for file in opened if not file.st_nlink)
    if len(processes) > limits.processes:  # the kernel's own limit does not hold for root
        return f"it started more than {limits.processes} processes"
    written = subprocess.run(["du", "-sb", folder], capture_output=True, text=True).stdout.split()[0]
    if used > limits.memory * 10**9:
        return f"it used more than {limits.memory} GB of memory"
    return f"it wrote more than {limits.disk // 10**6} MB" if int(written) + unseen > limits.disk else None


if __name__ == "__main__":
    main(*sys.argv[1:])
