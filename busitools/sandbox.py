"""A box for code that nobody has read: own processes, no network, nothing writable outside one folder, limits.

Linux only, with namespaces: by bubblewrap (``bwrap``) where it is installed, else by ``unshare`` of util-linux. A
Jupyter kernel starts in it by its spec: ``python -m busitools.sandbox BOX CONNECTION_FILE`` makes the box, starts
IPython's kernel inside, and watches what it uses.

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

import busilib
from busilib.errors import ClassroomError

TOOLS = ("bwrap", "unshare")
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


def find():
    """Return the first tool that makes a working box here; raise ClassroomError, which says why each one fails."""
    reasons = []
    for tool in TOOLS:
        reason = probe(tool)
        if reason is None:
            return tool
        reasons.append(f"{tool}: {reason}")
    raise ClassroomError(
        f"No sandbox here ({'; '.join(reasons)}). Submissions are code that nobody has read: grade them on Linux with "
        "bubblewrap (apt install bubblewrap), or in a machine that you can throw away. With --trusted they run as you, "
        "with your files and your network; only time and output are limited then."
    )


def probe(tool):
    """Return None when ``tool`` makes a working box here, else the reason in a line."""
    if sys.platform != "linux" or shutil.which(tool) is None:
        return "not installed" if sys.platform == "linux" else f"needs Linux, and this is {sys.platform}"
    with tempfile.TemporaryDirectory(prefix="busi-box-") as place:
        os.chmod(place, 0o755)
        folder = make_folder(Path(place) / "inside", 61000)
        line = command(tool, folder, [sys.executable, "-c", "import busilib, ipykernel"], 61000, Limits())
        done = subprocess.run(line, env=environment(folder), capture_output=True, text=True, timeout=60)
    return (done.stderr.strip().splitlines() or ["it does not start"])[-1] if done.returncode else None


def make_folder(path, user):
    """Make the one folder that a box may write to, owned by the user number that the box runs as; return its Path."""
    path = Path(path)
    path.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(path, user, user)
    return path


# No history file: the folder is thrown away.
KERNEL = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
KERNEL += ["--HistoryManager.enabled=False", "--IPKernelApp.log_level=ERROR"]


def kernel_spec(tool, user, limits):
    """Return the kernel spec (dict) of a Python kernel in a box, or without one when ``tool`` is None.

    The folder of the connection file is the one that the box can write to; `make_folder` makes it.
    """
    box = json.dumps({"tool": tool, "user": user, "limits": asdict(limits)})
    boxed = [sys.executable, "-m", "busitools.sandbox", box, "{connection_file}"]
    return {"argv": boxed if tool else KERNEL, "display_name": "Submission", "language": "python"}


def environment(folder):
    """Return the box's whole environment: nothing of the teacher's own goes in."""
    # As many threads as processors would be hundreds on a large machine, and each counts as a process.
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    return dict.fromkeys(threads, "1") | {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin",
        "PYTHONPATH": os.pathsep.join([str(Path(busilib.__file__).parents[1]), *_packages()]),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "BUSILIB_PROGRESS": "0",
        "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def command(tool, folder, inside, user, limits):
    """Return the command line that runs ``inside`` (a list) in a box.

    ``folder`` is the one place to write. ``user``: the number that the box runs as when the teacher is root; an
    ordinary teacher's box runs as the teacher, without any privilege.
    """
    import resource

    root, make = os.geteuid() == 0, {"bwrap": _bwrap, "unshare": _unshare}[tool]
    drop = ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"] if root or tool == "unshare" else []
    drop += [f"--reuid={user}", f"--regid={user}", "--clear-groups"] if root else []
    # Libraries reserve 2 GB of address space and more than they use; what is used is watched by `main`.
    most = {"as": (3 * limits.memory + 4) * 10**9, "cpu": 2 * limits.total, "fsize": limits.disk, "core": 0}
    for name, value in (most | {"nproc": limits.processes}).items():
        _, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
        most[name] = value if hard == resource.RLIM_INFINITY else min(value, hard)
    limited = ["prlimit", *(f"--{name}={value}" for name, value in most.items())]
    return [*make(folder, _readable(), root), *drop, *limited, "env", f"--chdir={folder}", *inside]


def _packages():
    """Return where packages are: a user's own lie in the home folder, which is not there inside."""
    return [place for place in sys.path if place.endswith(("site-packages", "dist-packages"))]


def _readable():
    """Return what can be read inside: the system, this Python, its packages and busilib. No home, no data."""
    places = "/usr /bin /lib /lib64 /etc/ld.so.cache /etc/fonts /etc/localtime /etc/alternatives".split()
    shown = []
    for place in [*places, sys.base_prefix, sys.prefix, *_packages(), os.path.dirname(busilib.__file__)]:
        if os.path.exists(place) and not any(Path(place).is_relative_to(other) for other in shown):
            shown.append(place)
    return shown


def _bwrap(folder, readable, root):
    line = ["bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    line += ["--die-with-parent", "--new-session", "--hostname", "exercise"]
    line += [] if root else ["--unshare-user"]
    above = {str(parent) for place in [*readable, folder] for parent in Path(place).parents} - {"/"}
    for place in sorted(above - set(readable)):
        if not any(Path(place).is_relative_to(other) for other in readable):
            line += ["--perms", "0755", "--dir", place]  # bubblewrap would make it for root's eyes only
    for place in readable:
        link = os.path.islink(place)
        line += ["--symlink", os.readlink(place), place] if link else ["--ro-bind", place, place]
    line += ["--proc", "/proc", "--dev", "/dev", "--bind", str(folder), str(folder)]
    return [*line, "--remount-ro", "/dev", "--remount-ro", "/"]


# Builds the root of the box from read-only pieces and goes in. $1: its root, $2: the folder, $3: places, with | between
# No exec at the end: this shell stays as the box's first process. It dies with its parent, and all others die with it.
_SCRIPT = """
set -e; root=$1 folder=$2 places=$3; shift 3
mount --make-rprivate /; mount -t tmpfs -o size=1m,mode=755 tmpfs "$root"
IFS='|'; for place in $places; do
    mkdir -p "$root$(dirname "$place")"
    if [ -L "$place" ]; then cp -d "$place" "$root$place"; continue; fi
    if [ -d "$place" ]; then mkdir -p "$root$place"; else : > "$root$place"; fi
    mount --rbind "$place" "$root$place"; mount -o remount,bind,ro,nosuid,nodev "$root$place"
done
mkdir -p "$root$folder" "$root/proc" "$root/dev"
for device in null zero full random urandom; do
    : > "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
mount --bind "$folder" "$root$folder"; mount -t proc proc "$root/proc"; mount -o remount,bind,ro "$root"; cd "$root"
chroot "$root" "$@" || exit $?
exit 0
"""


def _unshare(folder, readable, root):
    line = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
    line += [] if root else ["--user", "--map-root-user"]
    inside = Path(folder).with_name(f"{Path(folder).name}.root")
    inside.mkdir(exist_ok=True)
    return [*line, "sh", "-c", _SCRIPT, "box", str(inside), str(folder), "|".join(readable)]


def main(box, connection):
    """Run a kernel in a box until it ends or uses too much; then the reason is written into FOLDER.reason."""
    box, folder, teacher = json.loads(box), Path(connection).parent, os.getppid()
    limits = Limits(**box["limits"])
    if os.geteuid() == 0:
        os.chown(connection, box["user"], box["user"])
    inside = [part.format(connection_file=connection) for part in KERNEL]
    line, nothing = command(box["tool"], folder, inside, box["user"], limits), subprocess.DEVNULL
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
    import psutil

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
