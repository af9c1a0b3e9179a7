"""Many executions of lessons: a grid, the machines that do it, and one folder for each execution.

OUT/NAME/         a finished execution: execution.json, the executed notebook, and in runs/ the runs that it trained
OUT/failed/NAME/  one that failed: execution.json, the notebook as far as it came, the traceback
OUT/lessons/      the lessons as they were when the sweep started; executions.csv: one row an execution

NAME is the lesson's number and a hash of its parameters and code. A folder that exists is finished and is not done
again, whoever stopped the rest; what was cut short was in a hidden folder, which the next start removes. All machines
must see OUT.
"""

import collections
import difflib
import getpass
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

import busilib
from busilib import runs
from busilib.cache import bar, write_file, write_folder
from busilib.errors import LessonError
from busitools import notebooks

KEYS = ("lessons", "parameters", "seeds", "folds", "runs", "minutes", "slurm")
SLURM_KEYS = ("queue", "account", "gpus", "cores", "memory", "time", "jobs", "prologue")
FAILED = "failed"
STOP = ".stop"  # a file in OUT: whoever sees it ends its kernels
CONNECT = "10s"  # how long a scheduler may take to answer
# Ctrl-C in a terminal reaches the workers too: they leave it to the process that started them.
DEAF = ["import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"]
MISSING = "{} is not installed. Sweeps need the extra 'sweep': pip install \"busi-notebooks[sweep]\""


@dataclass(frozen=True)
class Plan:
    """One execution to be done: its name, the lesson, its parameters, and how. It travels to the worker."""

    name: str
    lesson: str  # path of the notebook
    parameters: dict
    out: str
    minutes: float | None = None
    threads: int | None = None  # of the kernel; None: a fair share of the worker's machine
    slots: dict = field(default_factory=dict)  # executions at a time of each host
    env: dict = field(default_factory=dict)
    cwd: str = ""

    @property
    def target(self):
        return Path(self.out) / self.name


def read(grid):
    """Return a grid as a checked dict: from a YAML file, or as it is.

    A grid has ``lessons`` with ``parameters`` (name → value or list), ``seeds`` and ``folds``, whose product is taken;
    or ``runs``, a list of {lesson, NAME: value, …}; or both. ``minutes`` is the longest that one execution may take,
    ``slurm`` what a job asks for. Raises LessonError for anything else.
    """
    import yaml

    if not isinstance(grid, dict):
        file = Path(grid)
        if not file.is_file():
            raise LessonError(f"There is no grid {file}. docs/examples/sweep_quick.yaml is one to begin with.")
        try:
            grid = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise LessonError(f"{file} is not valid YAML: {error}") from error
        if not isinstance(grid, dict):
            raise LessonError(f"{file} must hold names with values, like 'lessons: [\"03\"]'")
    _known("grid", grid, KEYS)
    _known("slurm section", grid.get("slurm") or {}, SLURM_KEYS)
    minutes = grid.get("minutes")
    if minutes is not None and (isinstance(minutes, bool) or not isinstance(minutes, int | float) or minutes <= 0):
        raise LessonError(f"minutes: {minutes!r} must be a number above 0: the longest that one execution may take")
    if not grid.get("lessons") and not grid.get("runs"):
        raise LessonError("The grid names neither 'lessons' nor 'runs': there is nothing to do")
    if not grid.get("lessons") and any(grid.get(key) for key in ("parameters", "seeds", "folds")):
        raise LessonError("The grid has parameters but no 'lessons' that could take them")
    return grid


def _known(what, given, keys):
    if not isinstance(given, dict):
        raise LessonError(f"The {what} must hold names with values, not {given!r}")
    for key in given:
        if key not in keys:
            close = difflib.get_close_matches(str(key), keys, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise LessonError(f"The {what} has no {key!r}.{hint} It has: {', '.join(keys)}")


def combinations(grid):
    """Return (lesson's path, parameters) of every execution that a grid asks for, checked, each once.

    A parameter goes to the lessons that have it; one that none has is refused. With PROTOCOL "paper" there is no fold
    but 0, so ``folds`` asks for the others only with "clean".
    """
    grid, found = read(grid), []
    if grid.get("lessons"):
        names = grid.get("parameters") or {}
        _known("parameters", names, names)
        axes = {name: _list(values) for name, values in names.items()}
        for short, name in (("seeds", "SEED"), ("folds", "FOLD")):
            if grid.get(short) is not None:
                if name in axes:
                    raise LessonError(f"The grid gives both {short!r} and the parameter {name}: choose one")
                axes[name] = _list(grid[short])
        lessons = notebooks.lessons([_number(name) for name in _list(grid["lessons"])])
        chosen = [(path, notebooks.parameters(path)) for path in lessons]
        for name in axes:
            if not any(name in known for _, known in chosen):
                notebooks.check_parameters(chosen[0][0], {name: axes[name]})
        for path, known in chosen:
            own = {name: values for name, values in axes.items() if name in known}
            for values in itertools.product(*own.values()):
                given = dict(zip(own, values, strict=True))
                protocol = given.get("PROTOCOL", known.get("PROTOCOL"))
                if grid.get("folds") is not None and given.get("FOLD") and protocol == "paper":
                    continue
                found.append((path, given))
    for one in grid.get("runs") or []:
        if not isinstance(one, dict) or "lesson" not in one:
            raise LessonError(f"In 'runs', {one!r} must be like {{lesson: \"03\", SEED: 3}}")
        path = notebooks.lessons([_number(one["lesson"])])[0]
        found.append((path, {name: value for name, value in one.items() if name != "lesson"}))
    unique = {}
    for path, given in found:
        given = notebooks.check_parameters(path, _floats(path, given))
        unique.setdefault((path, json.dumps(given, sort_keys=True)), (path, given))
    return list(unique.values())


def _list(values):
    return list(values) if isinstance(values, list | tuple | range) else [values]


def _number(lesson):
    # YAML reads 03 as the number 3.
    return f"{lesson:02d}" if isinstance(lesson, int) else str(lesson)


def _floats(path, given):
    """YAML 1.1 reads 1e-3 as a text: make a number of it where the lesson has one."""
    known, given = notebooks.parameters(path), dict(given)
    for name, value in given.items():
        if isinstance(known.get(name), float) and isinstance(value, str):
            with suppress(ValueError):
                given[name] = float(value)
    return given


def plans(grid, out):
    """Return the Plans of a grid; the lessons are copied into OUT/lessons, so that nobody edits what is running."""
    import nbformat

    out, grid, found = Path(out).absolute(), read(grid), []
    env = {name: os.environ[name] for name in ("KERAS_BACKEND",) if name in os.environ}
    for path, given in combinations(grid):
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        code = [cell.source for cell in cells if "parameters" not in cell.metadata.get("tags", [])]
        # All parameters count, those left as they are too: a default may be another tomorrow.
        parts = json.dumps([path.stem, notebooks.parameters(path) | given, code, runs.CODE, env], sort_keys=True)
        name = f"{path.stem.split('_')[0][:20]}-{hashlib.sha256(parts.encode()).hexdigest()[:12]}"
        lesson = out / "lessons" / path.name
        found.append(Plan(name, str(lesson), given, str(out), minutes=grid.get("minutes"), env=env, cwd=os.getcwd()))
        if not lesson.exists() or lesson.read_bytes() != path.read_bytes():
            lesson.parent.mkdir(parents=True, exist_ok=True)
            with write_file(lesson) as temporary:
                shutil.copyfile(path, temporary)
    return found


def carry_out(plan):
    """Do one Plan, on whatever machine this is, and return its `busitools.notebooks.Execution`; it never raises.

    What is finished is not done again. A failure leaves OUT/failed/NAME and nothing else.
    """
    lesson, worker, began = Path(plan.lesson), _worker(), time.monotonic()
    if plan.target.is_dir():
        return recorded(plan)
    for left in plan.target.parent.glob(f".{plan.name}-*"):  # its worker was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        with write_folder(plan.target) as working:
            given = dict(plan.parameters)
            if "RUNS" in notebooks.parameters(lesson):
                given.setdefault("RUNS", str(working / "runs"))
            with one_gpu(plan) as gpu:
                done = notebooks.execute(
                    lesson, working / lesson.name, given, watch=_watch(plan, worker),
                    env=plan.env | _threads(plan, worker) | gpu, cwd=plan.cwd if Path(plan.cwd).is_dir() else None,
                )  # fmt: skip
            _record(working, plan, done)
            if done.error is not None:
                _keep_failed(plan, working)
                raise LessonError(done.error)
    except Exception as failure:  # whatever it is, it is this execution's own: the others go on
        error = str(failure) if isinstance(failure, LessonError) else f"{type(failure).__name__}: {failure}"
        return notebooks.Execution(lesson, _failed(plan) / lesson.name, time.monotonic() - began, error)
    shutil.rmtree(_failed(plan), ignore_errors=True)
    return recorded(plan)


def _watch(plan, worker):
    stop = Path(plan.out) / STOP

    def watch(state):
        if plan.minutes is not None and state.seconds > 60 * plan.minutes:
            return f"it ran past its time of {plan.minutes:g} minutes (cell {state.cell} of {state.cells})"
        if worker and worker.status.name in ("closing", "closed", "failed"):  # it has lost its scheduler, for instance
            return "its worker was closed"
        return "the sweep was stopped" if stop.exists() else None

    return watch


def _worker():
    """Return the Dask worker that this runs on, or None."""
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


def _record(folder, plan, done):
    content = {
        "lesson": done.lesson.stem,
        "parameters": plan.parameters,
        "seconds": round(done.seconds, 1),
        "error": done.error,
        "runs": list(done.runs),
        "busi-notebooks": busilib.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    (folder / "execution.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def recorded(plan):
    """Return the Execution that a finished folder tells of."""
    info = json.loads((plan.target / "execution.json").read_text(encoding="utf-8"))
    lesson = Path(plan.lesson)
    return notebooks.Execution(lesson, plan.target / lesson.name, info["seconds"], info["error"], tuple(info["runs"]))


def _failed(plan):
    return Path(plan.out) / FAILED / plan.name


def _keep_failed(plan, working):
    """Keep what tells of a failure; the runs of a failed execution may be large, and are trained again anyway."""
    with suppress(OSError):  # on a full disk even this may fail; the message still comes back
        shutil.rmtree(_failed(plan), ignore_errors=True)
        with write_folder(_failed(plan)) as kept:
            for file in working.iterdir():
                if file.is_file():
                    shutil.copy2(file, kept)


def _threads(plan, worker):
    """Return the environment that makes the kernels of a machine share its cores."""
    slots = plan.slots.get(worker.ip, worker.state.nthreads) if worker else 1
    # TensorFlow, oneDNN and BLAS, JAX. A Dask nanny sets OMP_NUM_THREADS=1 for all that it starts.
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    threads = plan.threads or max(1, cores() // slots)
    return dict.fromkeys((*names, "TF_NUM_INTEROP_THREADS", "NPROC"), str(threads))


def cores():
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus():
    """Return the identities (UUID) of the NVIDIA GPUs that this process may use."""
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = dict(re.findall(r"^GPU (\d+): .*\(UUID: (GPU-[\w-]+)\)", told, re.MULTILINE))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(found.values())
    names = [name.strip() for name in visible.split(",")]
    return [uuid for index, uuid in found.items() if index in names or uuid in names]


@contextmanager
def one_gpu(plan):
    """Wait for a GPU of this machine that no other execution has; yield the environment that names it.

    A lock a GPU, held while the kernel runs; it opens by itself when the process dies. Without GPUs: nothing.
    """
    found = gpus()
    while found:
        for uuid in found:
            lock = FileLock(Path(tempfile.gettempdir()) / f"busilib-{getpass.getuser()}-{uuid}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                yield {"CUDA_VISIBLE_DEVICES": uuid}
            finally:
                lock.release()
            return
        if (Path(plan.out) / STOP).exists():
            raise LessonError("the sweep was stopped")
        time.sleep(1)
    yield {}


def sweep(grid, out="runs/sweep", *, client=None, workers=None, scheduler=None, slurm=False):
    """Do all executions of a grid that are not finished yet, and return one `busitools.notebooks.Execution` each.

    ``grid`` is a YAML file or a dict (see `read`), ``out`` the folder that all machines see. The work is done by the
    Dask ``client`` that is given; else by the cluster whose ``scheduler`` (an address) is named; else by SLURM jobs,
    as the grid's ``slurm`` section says; else by ``workers`` processes here (one a GPU, or 1). A failed execution is
    reported and the rest goes on; of the models only the best by validation are kept. The same call again does what
    is missing. Raises LessonError for a grid, a parameter or a cluster that does not fit, before anything runs.
    """
    out = Path(out)
    todo = plans(grid, out)
    try:
        lock = FileLock(out / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise LessonError(f"Another sweep is at work in {out}: wait for it, or choose another folder") from None
    with ExitStack() as stack:
        stack.callback(lock.release)
        tidy(out)
        stack.callback(tidy, out)
        missing = [plan for plan in todo if not plan.target.is_dir()]
        done = {plan.name: recorded(plan) for plan in todo if plan.target.is_dir()}
        stack.callback(lambda: _table(todo, done, out))
        if missing:
            client, setting = stack.enter_context(_cluster(client, workers, scheduler, slurm, grid))
            ended = stack.enter_context(closing(_all(client, [replace(plan, **setting) for plan in missing], out)))
            for plan, execution in ended:
                done[plan.name] = execution
        return [done[plan.name] for plan in todo]


def tidy(out):
    """Remove from a sweep's folder what was cut short, and the sign to stop."""
    (Path(out) / STOP).unlink(missing_ok=True)
    for left in Path(out).glob(".*-*"):
        if re.fullmatch(r"\..+-[0-9a-f]{12}-.+", left.name):
            shutil.rmtree(left, ignore_errors=True)


def _all(client, missing, out):
    """Yield (plan, execution) as the executions end; on Ctrl-C, or whatever else, end the kernels first."""
    from distributed import as_completed

    token = f"{time.time_ns():x}"  # a key that the scheduler has not seen: it would give the old answer
    futures = {client.submit(carry_out, plan, key=f"{plan.name}-{token}", pure=False): plan for plan in missing}
    failed = 0
    try:
        with bar(total=len(missing), description="executions", unit="execution") as line:
            for future in as_completed(list(futures)):
                execution = _result(future, futures[future], client)
                failed += execution.error is not None
                line.set_postfix_str(f"{failed} failed", refresh=False)
                line.update()
                keep_best(out)
                yield futures.pop(future), execution
    finally:
        if futures:
            _stop(client, list(futures), out)


def _result(future, plan, client):
    """Return a future's Execution; where Dask has none, one that says why."""
    lesson = Path(plan.lesson)
    try:
        return future.result()
    except Exception as failure:  # KilledWorker, a lost connection, an answer that cannot be read, …
        kind = type(failure).__name__
        if plan.target.is_dir():  # it had finished; only the answer was lost
            return recorded(plan)
        if future.cancelled() or future.status in ("lost", "cancelled"):
            error = "the scheduler was lost; start it again and give the same command: it goes on from here"
        elif kind == "KilledWorker":
            error = "its worker was killed again and again, perhaps for want of memory"
        else:
            error = f"{kind}: {failure}"
        return notebooks.Execution(lesson, _failed(plan) / lesson.name, 0.0, error)


def _stop(client, futures, out):
    """End what runs: cancelling a future does not stop its kernel, so the workers look for a file."""
    (Path(out) / STOP).touch()
    with suppress(Exception):  # the cluster may be gone already
        client.cancel(futures, force=True)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and any(Path(out).glob(".*-*/")):
        time.sleep(0.2)


def keep_best(out):
    """Delete the models of a folder of runs, or of a sweep, but the best by validation of each recipe and protocol.

    A model with a whole backbone takes 100 to 400 MB. Everything else of a run stays. Two data sets are two matters.
    """
    models = [*runs.files(out, "model.keras"), *runs.files(out, "model.joblib")]
    if len(models) < 2:
        return  # no choice
    table = pd.DataFrame([runs.row(file.parent) for file in models]).assign(file=models)
    best = table.groupby(["name", "dataset_kind", "protocol"])["validation_accuracy"].idxmax()
    for file in table["file"].drop(index=best):
        file.unlink(missing_ok=True)


def _table(todo, done, out):
    """Write executions.csv: what each is, how it ended, how long it took."""
    rows = []
    for plan in todo:
        one = done.get(plan.name)
        state = "not done" if one is None else "finished" if one.error is None else "failed"
        seconds, error = (round(one.seconds, 1), one.error) if one else (None, None)
        about = {"execution": plan.name, "lesson": Path(plan.lesson).stem, "state": state, "seconds": seconds}
        rows.append(about | {"error": error} | plan.parameters)
    with suppress(OSError), write_file(Path(out) / "executions.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


@contextmanager
def _cluster(client, workers, scheduler, slurm, grid):
    """Yield (client, what each plan must know) of the machines that were named."""
    try:
        import distributed
    except ImportError as error:
        raise LessonError(MISSING.format("Dask")) from error
    if sum(bool(choice) for choice in (client, workers, scheduler, slurm)) > 1:
        raise LessonError("Choose one of a client, workers, a scheduler and SLURM")
    log, level = logging.getLogger("distributed.client"), logging.getLogger("distributed.client").level
    with ExitStack() as stack:
        stack.callback(log.setLevel, level)
        log.setLevel(logging.CRITICAL)  # a lost scheduler is reported in our own words
        setting = {}
        if slurm:
            if shutil.which("sbatch") is None:
                raise LessonError("There is no sbatch here: start it on a login node, or add --dry-run to see the jobs")
            cluster = slurm_cluster(grid)
            stack.callback(close, cluster)
            cluster.adapt(minimum=0, maximum_jobs=_slurm(grid)["jobs"])
            setting = {"threads": _slurm(grid)["cores"]}
        elif scheduler or client is not None:
            cluster = scheduler
        else:
            cluster = local_cluster(workers)
            stack.callback(close, cluster)
            setting = {"threads": max(1, cores() // len(cluster.workers))}
        if client is None:
            try:
                client = distributed.Client(cluster, timeout=CONNECT)
                stack.callback(close, client)
            except (OSError, ValueError) as error:
                raise LessonError(f"No Dask scheduler answers at {scheduler}: {error}") from error
        slots = collections.Counter()
        for worker in client.scheduler_info(n_workers=-1)["workers"].values():
            slots[worker["host"]] += worker["nthreads"]
        yield client, setting | {"slots": dict(slots)}


def close(*parts):
    """Close clients and clusters; on a machine so busy that a worker does not end in time, go on all the same."""
    for part in parts:
        with suppress(OSError):  # a TimeoutError is one
            part.close()


def local_cluster(workers=None):
    """Return a Dask cluster of processes on this machine, with its dashboard: one execution at a time each.

    Without a number it has a worker for each GPU, or one. `close` it in the end.
    """
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=workers or len(gpus()) or 1,
        threads_per_worker=1,
        memory_limit=0,  # it would not see the kernels
        preload=DEAF,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    )


def _slurm(grid):
    return {"gpus": 0, "cores": 4, "memory": "16GB", "time": "04:00:00", "jobs": 4} | (read(grid).get("slurm") or {})


def job_script(grid):
    """Return the script that each SLURM job is submitted with; only the scheduler's address in it is not yet real."""
    with slurm_cluster(grid, host="127.0.0.1") as cluster:
        return cluster.job_script()


def slurm_cluster(grid, host=None):
    """Return a Dask cluster of SLURM jobs, one worker and one execution at a time each, by the grid's slurm section.

    ``host`` is the address at which the jobs reach the scheduler, which runs here; None: this machine's own.
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise LessonError(MISSING.format("dask-jobqueue")) from error
    asked = _slurm(grid)
    return SLURMCluster(
        cores=1,  # Dask's word for executions at a time
        job_cpu=asked["cores"],
        memory=str(asked["memory"]),
        walltime=str(asked["time"]),
        queue=asked.get("queue"),
        account=asked.get("account"),
        job_name="busi-sweep",
        job_extra_directives=[f"--gres=gpu:{asked['gpus']}"] if asked["gpus"] else [],
        job_script_prologue=[str(line) for line in _list(asked.get("prologue") or [])],
        worker_extra_args=["--memory-limit", "0"],
        scheduler_options={"dashboard_address": "127.0.0.1:0"} | ({"host": host} if host else {}),
    )
