"""A box for code that nobody has read: own processes, no network, nothing writable outside one folder, limits.

Linux only, with namespaces: by bubblewrap (``bwrap``) where it is installed, else by ``unshare`` of util-linux. What it
does not stop stands in `REMAINS`.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from busilib.errors import ClassroomError

TOOLS = ("bwrap", "unshare")
REMAINS = """\
What the sandbox does not stop: code that runs in the same kernel as its own tests can patch Python and fake a pass
(a decoy check finds the crude ways, and a fake is seen by whoever reads the notebook); it can read the installed
packages, the machine's name and its load, and use a processor until its time is up; a fault in Linux itself would let
it out. Each process has its own memory limit; the sum is watched twice a second, so it can be passed for a moment."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    seconds: int = 60  # a cell
    total: int = 300  # seconds for the whole notebook
    memory: int = 4  # GB, of all its processes together
    processes: int = 128  # threads count as well
    output: int = 2_000_000  # bytes of output, of all cells together
    disk: int = 200_000_000  # bytes in its folder

    def resources(self):
        """Return the limits that the operating system itself keeps, for each process, as {RLIMIT name: value}."""
        # Libraries reserve 2 GB of address space and more than they use; what is used is watched by the worker.
        return {
            "RLIMIT_AS": (3 * self.memory + 4) * 10**9,
            "RLIMIT_CPU": 2 * self.total,
            "RLIMIT_FSIZE": self.disk,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_CORE": 0,
        }


def find():
    """Return the first tool that makes a working box here; raise ClassroomError, which says why each one fails."""
    if sys.platform != "linux":
        raise ClassroomError(_without(f"this is {sys.platform}, and the sandbox needs Linux"))
    reasons = []
    for tool in TOOLS:
        reason = probe(tool)
        if reason is None:
            return tool
        reasons.append(f"{tool}: {reason}")
    raise ClassroomError(_without("; ".join(reasons)))


def probe(tool):
    """Return None when ``tool`` makes a working box here, else the reason in a line."""
    import tempfile

    if shutil.which(tool) is None:
        return "not installed"
    with tempfile.TemporaryDirectory(prefix="busi-box-") as place:
        os.chmod(place, 0o755)
        folder = make_folder(Path(place) / "inside", 61000)
        done = subprocess.run(
            command(tool, folder, [sys.executable, "-c", "import busilib, busitools, ipykernel; print('ok')"], 61000),
            env=environment(folder),
            capture_output=True,
            text=True,
            timeout=60,
        )
    if done.returncode == 0 and done.stdout.strip() == "ok":
        return None
    return (done.stderr.strip().splitlines() or ["it does not start"])[-1]


def make_folder(path, user):
    """Make the one folder that a box may write to, owned by the user number that the box runs as; return its Path."""
    path = Path(path)
    path.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(path, user, user)
    return path


def environment(folder):
    """Return the box's whole environment: nothing of the teacher's own goes in."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin",
        "PYTHONPATH": os.pathsep.join(_packages()),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "BUSILIB_CACHE": str(folder / "cache"),
        "BUSILIB_PROGRESS": "0",
        "IPYTHONDIR": str(folder / "ipython"),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow"),
        # As many threads as processors would be hundreds on a large machine, and each counts as a process.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }


def command(tool, folder, inside, user):
    """Return the command line that runs ``inside`` (a list) in a box; ``tool`` None runs it without one.

    ``folder`` is the one place to write. ``user``: the number that the box runs as when the teacher is root; an
    ordinary teacher's box runs as the teacher, without any privilege.
    """
    if tool is None:
        return list(inside)
    make = {"bwrap": _bwrap, "unshare": _unshare}[tool]
    return make(folder, _readable(), [*_drop(tool, user), *inside])


def _readable():
    """What can be read inside: the system's libraries, this Python, its packages and busilib. No home, no data."""
    import busilib
    import busitools

    places = ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/fonts", "/etc/localtime", "/etc/alternatives"]
    places += [sys.base_prefix, sys.prefix, *_packages()]
    places += [str(Path(package.__file__).parent) for package in (busilib, busitools)]
    found = []
    for place in places:
        inside = any(Path(place).is_relative_to(other) for other in found)
        if os.path.exists(place) and not inside:
            found.append(place)
    return found


def _packages():
    """Where packages are: a user's own lie in the home folder, which is not there inside."""
    return [place for place in sys.path if place.endswith(("site-packages", "dist-packages"))]


def _drop(tool, user):
    """Give up every privilege before the student's code starts."""
    if os.geteuid() != 0 and tool == "bwrap":
        return []  # there is none to give up
    gone = ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
    if os.geteuid() == 0:
        gone += [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return gone


def _bwrap(folder, readable, inside):
    line = ["bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    line += ["--die-with-parent", "--new-session", "--hostname", "exercise"]
    if os.geteuid() != 0:
        line += ["--unshare-user"]
    above = {str(parent) for place in [*readable, folder] for parent in Path(place).parents} - {"/"}
    for place in sorted(above - set(readable)):
        if not any(Path(place).is_relative_to(other) for other in readable):
            line += ["--perms", "0755", "--dir", place]  # bubblewrap would make it for root's eyes only
    for place in readable:
        kind = "--symlink" if os.path.islink(place) else "--ro-bind"
        line += [kind, os.readlink(place) if kind == "--symlink" else place, place]
    line += ["--proc", "/proc", "--dev", "/dev", "--bind", str(folder), str(folder)]
    return [*line, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(folder), *inside]


# Builds the box's own root from read-only pieces, then goes in. $1: its root, $2: the folder, $3: how many places.
_SCRIPT = """
set -e
root=$1 folder=$2 count=$3; shift 3
mount --make-rprivate /
mount -t tmpfs -o size=1m,mode=755 tmpfs "$root"
while [ "$count" -gt 0 ]; do
    if [ -L "$1" ]; then mkdir -p "$root$(dirname "$1")"; cp -d "$1" "$root$1"
    else
        if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$root$(dirname "$1")"; : > "$root$1"; fi
        mount --rbind "$1" "$root$1"; mount -o remount,bind,ro,nosuid,nodev "$root$1"
    fi
    shift; count=$((count - 1))
done
mkdir -p "$root$folder" "$root/proc" "$root/dev"
mount --bind "$folder" "$root$folder"
mount -t proc proc "$root/proc"
for device in null zero full random urandom; do
    : > "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
mount -o remount,bind,ro "$root"
cd "$root"
# No exec: this shell stays as the box's first process. It dies with its parent, and all others die with it.
chroot "$root" "$@" || exit $?
exit 0
"""


def _unshare(folder, readable, inside):
    line = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
    if os.geteuid() != 0:
        line += ["--user", "--map-root-user"]
    root = Path(folder).with_name(f"{Path(folder).name}.root")
    root.mkdir(exist_ok=True)
    return [*line, "sh", "-c", _SCRIPT, "box", str(root), str(folder), str(len(readable)), *readable, *inside]


def _without(why):
    return (
        f"No sandbox here ({why}). Submissions are code that nobody has read: grade them on Linux with bubblewrap "
        "(apt install bubblewrap), or in a machine that you can throw away. With --trusted they run as you, with your "
        "files and your network; only time and output are limited then."
    )
