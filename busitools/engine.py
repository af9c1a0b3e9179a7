"""papermill's engine with a watch on it: how far a notebook is, how long it may take, when it must stop.

Slow to import (papermill, nbclient), so batch imports it when a notebook is executed.
"""

import json
import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.log import logger

INTERVAL = 0.5  # seconds between two looks


@dataclass(frozen=True)
class State:
    """How far an execution is: ``cell`` (from 1) of ``cells`` code cells; ``epoch`` of ``epochs``, 0 when none runs.

    ``seconds`` have passed; ``share`` in [0, 1] is what is done.
    """

    cell: int
    cells: int
    epoch: int
    epochs: int
    seconds: float
    share: float


class Stopped(Exception):
    """The watch had the kernel killed; the message says why."""


class WatchedEngine(NBClientEngine):
    """Execute a notebook; twice a second ``watch(State)`` is called, and what it returns (a reason) stops the kernel.

    ``env`` is the kernel's environment, ``folder`` where it starts, ``report`` the file in which
    `busilib.cache.report` writes, ``weights`` the seconds that each cell took last time, or None.
    """

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, *, env, folder, watch, report, weights, config, **_):
        client = PapermillNotebookClient(
            nb_man, kernel_name=kernel_name, startup_timeout=180, config=config, log=logger,
            extra_arguments=["--IPKernelApp.log_level=50"],  # else it speaks of the interrupt that ends it
        )  # fmt: skip
        over, why = threading.Event(), []
        look = threading.Thread(target=_look, args=(client, watch, report, weights, over, why), daemon=True)
        look.start()
        try:
            client.execute(env=env, cwd=folder)
        except Exception as error:
            if why:
                raise Stopped(why[0]) from error
            raise
        finally:
            over.set()
            look.join()


papermill_engines.register("busilib", WatchedEngine)
logger.setLevel(logging.ERROR)  # papermill warns of comments in the parameters cell that it cannot read


def _look(client, watch, report, weights, over, why):
    began, at, seen = time.monotonic(), None, 0
    code = [i for i, cell in enumerate(client.nb.cells) if cell.cell_type == "code"]
    if weights is None or len(weights) != len(client.nb.cells):
        weights = [1.0] * len(client.nb.cells)
    total = sum(weights[i] for i in code)
    while not over.wait(INTERVAL):
        done = [i for i in code if client.nb.cells[i].metadata.papermill["status"] in ("completed", "failed")]
        if len(done) != at:  # a new cell: the epochs of the one before are not its own
            at, seen = len(done), _size(report)
        epoch, epochs = _epoch(report, seen)
        within = weights[code[at]] * epoch / epochs if epochs and at < len(code) else 0
        share = (sum(weights[i] for i in done) + within) / (total or 1)
        state = State(min(at + 1, len(code)), len(code), epoch, epochs, time.monotonic() - began, share)
        reason = watch(state)
        if reason and not why:
            why.append(reason)
        if why:
            _kill(client)


def _kill(client):
    """Kill the kernel and what it started, however busy it is: nbclient then finds it dead."""
    pid = getattr(getattr(client.km, "provisioner", None), "pid", None)  # None: not started yet
    if pid is None:
        return
    try:
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)  # the kernel leads a process group of its own
        else:
            os.kill(pid, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended by itself


def _size(report):
    return report.stat().st_size if report.exists() else 0


def _epoch(report, start):
    """Return the last (epoch, epochs) that was reported after byte ``start``; (0, 0) when there is none."""
    for event in reversed(events(report, start)):
        if "epoch" in event:
            return event["epoch"], event["epochs"]
    return 0, 0


def events(report, start=0):
    """Return what `busilib.cache.report` wrote into a file after byte ``start``: a list of dicts."""
    if not Path(report).exists():
        return []
    with open(report, "rb") as file:
        file.seek(start)
        lines = file.read().split(b"\n")[:-1]  # what follows the last newline is not whole yet
    return [json.loads(line) for line in lines if line]
