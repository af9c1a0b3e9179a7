"""Runs one submission, in a process of its own: ``python -m busitools.worker JOB RESULT`` (two JSON files).

This process is trusted and the kernel in the box is not: cells go in one at a time, what comes back is counted. A job:
``{"steps": [{"key", "source", "after"}], "folder", "tool", "user", "limits"}``; a step with ``after`` runs only when
that step went well. The result: ``{key: {"outputs", "error", "stopped"}}``; a step that did not run is not in it.

A cell that has to be stopped (an endless loop, far too much output, a killed kernel) is left out, and the notebook is
run again without it: its other tasks keep their points.
"""

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from busitools import sandbox

START = 90  # seconds that a kernel may take to start, on a machine that is busy with others
RESTARTS = 4  # so many cells are left out; then the run ends


class Stopped(Exception):
    """The kernel had to be stopped; the message is the reason, for the student."""


class Kernel:
    """A kernel in a box, from its start to its end (a context manager)."""

    def __init__(self, job):
        self.limits = sandbox.Limits(**job["limits"])
        self.tool, self.user, self.place = job["tool"], job["user"], Path(job["folder"])
        self.reason = None

    def __enter__(self):
        from jupyter_client import BlockingKernelClient
        from jupyter_client.connect import write_connection_file

        self.folder = sandbox.make_folder(self.place / "box", self.user)
        connection = str(self.folder / "k.json")
        how = {"transport": "ipc", "ip": str(self.folder / "k")} if os.name == "posix" else {}
        write_connection_file(connection, **how)
        if os.geteuid() == 0:
            os.chown(connection, self.user, self.user)
        inside = [sys.executable, "-m", "busitools.kernel", json.dumps(self.limits.resources()), connection]
        environment = sandbox.environment(self.folder) if self.tool else dict(os.environ)
        self.process = subprocess.Popen(
            sandbox.command(self.tool, self.folder, inside, self.user),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.client = BlockingKernelClient(connection_file=connection)
        self.client.load_connection_file()
        self.client.start_channels()
        threading.Thread(target=self._watch, daemon=True).start()
        self._wait()
        return self

    def _wait(self):
        """Wait until the kernel answers on both channels: what it says before we listen is lost."""
        end = time.monotonic() + START
        while time.monotonic() < end and self.process.poll() is None:
            self.client.kernel_info()
            try:
                self.client.get_iopub_msg(timeout=1)
                return
            except queue.Empty:
                continue
        self.__exit__()
        raise Stopped(self.reason or "the kernel did not start")

    def __exit__(self, *_):
        import psutil

        try:
            box = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            box = []
        self.process.kill()
        for process in box:  # without a box nothing else ends them
            try:
                process.kill()
            except psutil.Error:
                pass
        self.process.wait()
        psutil.wait_procs(box, timeout=10)
        self.client.stop_channels()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _watch(self):
        """Kill the box when all its processes together use too much memory, or its folder too much disk."""
        import psutil

        box = psutil.Process(self.process.pid)
        while self.process.poll() is None:
            used = 0
            try:
                for process in box.children(recursive=True):
                    used += _memory(process)
            except psutil.Error:
                pass
            if used > self.limits.memory * 10**9:
                self._kill(f"it used more than {self.limits.memory} GB of memory")
            if _size(self.folder) > self.limits.disk:
                self._kill(f"it wrote more than {self.limits.disk // 10**6} MB")
            time.sleep(0.5)

    def _kill(self, reason):
        self.reason = reason
        self.process.kill()

    def run(self, source, seconds, room):
        """Run one cell; return (outputs, error or None, bytes used). Raise Stopped when it must not go on."""
        import nbformat

        deadline, used, outputs, error = time.monotonic() + seconds, 0, [], None
        sent = self.client.execute(source, allow_stdin=False, stop_on_error=False)
        while True:
            message = self._next(self.client.get_iopub_msg, deadline, seconds)
            kind = message["msg_type"]
            used += len(json.dumps(message["content"], default=str))
            if used > room:
                raise Stopped(f"far too much output: all cells together may print {self.limits.output // 10**6} MB")
            if message["parent_header"].get("msg_id") != sent:
                continue
            if kind == "status" and message["content"]["execution_state"] == "idle":
                return outputs, error, used
            if kind in ("stream", "display_data", "execute_result", "error"):
                outputs.append(nbformat.v4.output_from_msg(message))
            if kind == "error":
                error = {"name": str(message["content"]["ename"]), "value": str(message["content"]["evalue"])}

    def _next(self, get, deadline, seconds):
        while True:
            if time.monotonic() > deadline:
                raise Stopped(f"it took more than {seconds:.0f} seconds")
            try:
                return get(timeout=0.5)
            except queue.Empty:
                if self.process.poll() is not None:
                    raise Stopped(self.reason or "the kernel died: too much memory, or the code ended it") from None
            except Exception as error:  # a forged or broken message: anything can be in it
                raise Stopped(f"the kernel sent something that is no message ({type(error).__name__})") from error


def _memory(process):
    """Return a process's memory in bytes; what several share is counted once, where the system tells."""
    import psutil

    try:
        return process.memory_full_info().pss
    except (AttributeError, psutil.AccessDenied):
        return process.memory_info().rss


def _size(folder):
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                pass  # just removed
    return total


def run(job):
    """Run a job's steps, again without the cell that had to be stopped; return the result."""
    limits = sandbox.Limits(**job["limits"])
    end, left_out = time.monotonic() + limits.total, {}
    while True:
        result = {key: {"outputs": [], "error": None, "stopped": why} for key, why in left_out.items()}
        current = None
        try:
            with Kernel(job) as kernel:
                room = limits.output
                for step in job["steps"]:
                    current = step["key"]
                    if current in left_out or not _may(step, result):
                        continue
                    seconds = min(limits.seconds, end - time.monotonic())
                    if seconds <= 0:
                        result[current] = {"outputs": [], "error": None, "stopped": "the time for all cells was up"}
                        continue
                    outputs, error, used = kernel.run(step["source"], seconds, room)
                    room -= used
                    result[current] = {"outputs": outputs, "error": error, "stopped": None}
                return result
        except Stopped as stop:
            last = len(left_out) >= RESTARTS or time.monotonic() > end or current is None
            result[current or "start"] = {"outputs": [], "error": None, "stopped": str(stop)}
            if last:
                return result
            left_out[current] = str(stop)


def _may(step, result):
    """A hidden test runs only after its visible part passed."""
    before = result.get(step["after"]) if step.get("after") else None
    return not step.get("after") or (before is not None and not before["error"] and not before["stopped"])


def main(job, result):
    """Read the job, run it, write the result under a temporary name and rename it."""
    try:
        import resource

        # A kernel can send more than this process can hold: then this process ends, and only this submission with it.
        resource.setrlimit(resource.RLIMIT_AS, (8 * 10**9, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, ValueError):
        pass  # Windows, or a lower limit is set already
    done = run(json.loads(Path(job).read_text(encoding="utf-8")))
    part = Path(f"{result}.part")
    part.write_text(json.dumps(done), encoding="utf-8")
    os.replace(part, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
