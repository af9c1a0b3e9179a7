"""Many executions of lessons: a grid, whoever carries them out, and one folder for each execution.

OUT/NAME/         a finished execution: execution.json, the executed notebook, and in runs/ the runs that it trained
OUT/failed/NAME/  one that failed: execution.json, the notebook as far as it came, with the traceback
OUT/lessons/      the lessons as they were when the sweep started; executions.csv: one row per execution

NAME is the lesson's number and a hash of its parameters and code. A folder that exists is finished and is not done
again, whoever stopped the rest; what was cut short was in a hidden folder, which the next start removes. The work is
done by any `concurrent.futures.Executor`, by default Dask's. All machines must see OUT and
the folder where the sweep starts.
"""

import hashlib
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import nbformat
import pandas as pd
import yaml
from distributed import Client
from filelock import FileLock, Timeout

from busilib import runs
from busilib.cache import bar, cache_dir, write_file, write_folder
from busilib.errors import LessonError
from busitools import notebooks

KEYS = {"lessons", "parameters", "seeds", "folds", "runs", "minutes", "slurm"}
FAILED = "failed"
LOST = "the scheduler was lost; start it again and give the same command: it goes on from here"
# Read by BLAS and oneDNN, TensorFlow and JAX. A Dask nanny sets OMP_NUM_THREADS=1 for all that it starts.
THREADS = "OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS TF_NUM_INTRAOP_THREADS TF_NUM_INTEROP_THREADS NPROC"


@dataclass(frozen=True)
class Plan:
    """One execution to be done: its name, the lesson, its parameters, and how. It travels to the worker."""

    name: str
    lesson: Path
    parameters: dict
    out: Path
    minutes: float
    env: dict
    cwd: str
    running: str = "."  # a folder that the sweep removes as it ends: whoever misses it ends its kernel
    share: int = 1  # how many executions share the cores of a machine

    def finished(self):
        """Return the `busitools.notebooks.Execution` that the plan's folder tells of; None when there is none."""
        folder = self.out / self.name
        if folder.is_dir():
            info = json.loads((folder / "execution.json").read_text(encoding="utf-8"))
            return notebooks.Execution(self.lesson, folder / self.lesson.name, info["seconds"])

    def failed(self, error, seconds=0.0):
        """Return the Execution of a plan that failed."""
        return notebooks.Execution(self.lesson, self.out / FAILED / self.name / self.lesson.name, seconds, error)

    def over(self, state):
        """Return why the kernel must end now, or None: the watch of `notebooks.execute`."""
        if state.seconds > 60 * self.minutes:
            return f"it ran past its time of {self.minutes:g} minutes (cell {state.cell} of {state.cells})"
        return None if Path(self.running).exists() else "the sweep was stopped"


def read(grid):
    """Return a grid as a checked dict: from a YAML file, or as it is.

    A grid has ``lessons`` with ``parameters`` (name → value or list), ``seeds`` and ``folds``, whose product is taken;
    or ``runs``, a list of {lesson, NAME: value, …}; or both. ``minutes`` is the longest that one execution may take
    (none: no limit), ``slurm`` what a job asks for, in the words of dask_jobqueue.SLURMCluster, and how many ``jobs``
    there are at a time. Raises LessonError for anything else.
    """
    if not isinstance(grid, dict):
        try:
            grid = yaml.safe_load(Path(grid).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise LessonError(f"{error}. A grid to begin with: docs/examples/sweep_quick.yaml") from error
    blocks = isinstance(grid, dict) and [grid.get(k, {}) for k in ("parameters", "slurm")] + _list(grid.get("runs", []))
    if not blocks or grid.keys() - KEYS or not all(isinstance(block, dict) for block in blocks):
        raise LessonError(f"A grid has {', '.join(KEYS)}; parameters, slurm and each run name their values: {grid!r}")
    return grid


def combinations(grid):
    """Return (lesson's path, parameters) of every execution that a grid asks for, checked, each once.

    A parameter goes to the lessons that have it; one that none has is refused. With PROTOCOL "paper" there is no fold
    but 0, so the others are asked for only with "clean".
    """
    grid, asked = read(grid), {}
    names = {"lessons": "lesson", "seeds": "SEED", "folds": "FOLD"}
    product = grid.get("parameters", {}) | {name: grid[key] for key, name in names.items() if key in grid}
    for block in [*([product] if product else []), *grid.get("runs", [])]:
        if "lesson" not in block:
            raise LessonError("The grid needs 'lessons' that take its parameters, or 'runs' alone with a lesson each")
        chosen = notebooks.lessons([str(name).zfill(2) for name in _list(block["lesson"])])  # YAML reads 03 as 3
        values = {name: _list(value) for name, value in block.items() if name != "lesson"}
        for path, used in notebooks.share(values, chosen).items():
            for combination in itertools.product(*used.values()):
                given = notebooks.check_parameters(path, dict(zip(used, combination, strict=True)))
                if "FOLD" in given and (notebooks.parameters(path) | given).get("PROTOCOL") == "paper":
                    given["FOLD"] = 0
                asked[path, json.dumps(given, sort_keys=True)] = path, given
    return list(asked.values())


def _list(values):
    return list(values) if isinstance(values, list | tuple | range) else [values]


def plans(grid, out):
    """Return the Plans of a grid; nothing is written."""
    minutes, todo = float(read(grid).get("minutes", "inf")), []
    env = {name: os.environ[name] for name in ("KERAS_BACKEND",) if name in os.environ}
    for path, given in combinations(grid):
        code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        # All parameters count, those left as they are too: a default may be another tomorrow.
        parts = json.dumps([path.stem, notebooks.parameters(path) | given, code, runs.CODE, env], sort_keys=True)
        name = f"{path.stem.split('_')[0][:20]}-{hashlib.sha256(parts.encode()).hexdigest()[:12]}"
        todo.append(Plan(name, path, given, Path(out).absolute(), minutes, env, os.getcwd()))
    return todo


def carry_out(plan):
    """Do one Plan, on whatever machine this is, and return its `busitools.notebooks.Execution`; it never raises.

    What is finished is not done again. A failure leaves OUT/failed/NAME and nothing else.
    """
    began, failed = time.monotonic(), plan.out / FAILED / plan.name
    try:
        if execution := plan.finished():
            return execution
        with write_folder(plan.out / plan.name) as working, one_gpu(plan) as gpu:
            has_runs = "RUNS" in notebooks.parameters(plan.lesson)
            given = {"RUNS": str(working / "runs")} | plan.parameters if has_runs else plan.parameters
            env = plan.env | dict.fromkeys(THREADS.split(), str(max(1, joblib.cpu_count() // plan.share))) | gpu
            output = working / plan.lesson.name
            done = notebooks.execute(plan.lesson, output, given, watch=plan.over, env=env, cwd=plan.cwd)
            about = {"lesson": plan.lesson.stem, "parameters": plan.parameters, "seconds": round(done.seconds, 1)}
            text = json.dumps(about | {"error": done.error}, indent=1)
            (working / "execution.json").write_text(text + "\n", encoding="utf-8")
            shutil.rmtree(failed, ignore_errors=True)
            if done.error is not None:
                shutil.rmtree(working / "runs", ignore_errors=True)  # large, and trained again anyway
                failed.parent.mkdir(exist_ok=True)
                working.rename(failed)
                raise LessonError(done.error)
        return plan.finished()
    except Exception as failure:  # whatever it is, it is this execution's own: the others go on
        return plan.failed(str(failure) or repr(failure), time.monotonic() - began)


def gpus():
    """Return the identities (UUID) of the NVIDIA GPUs that this process may use."""
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True).stdout if shutil.which(command[0]) else ""
    visible = set(os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(" ", "").split(","))
    return [line.split(", ")[1] for line in listed.splitlines() if visible & {"all", *line.split(", ")}]


@contextmanager
def one_gpu(plan):
    """Wait for a GPU of this machine that no other execution has; yield the environment that names it.

    One lock per GPU, held while the kernel runs; it opens by itself when the process dies. Without GPUs: nothing.
    """
    locks = {uuid: FileLock(cache_dir("gpus") / f"{uuid}.lock", timeout=0) for uuid in gpus()}
    while locks and Path(plan.running).exists():  # when the sweep is over, the watch ends the kernel
        for uuid, lock in locks.items():
            with suppress(Timeout), lock:
                yield {"CUDA_VISIBLE_DEVICES": uuid}
                return
        time.sleep(1)
    yield {}


def sweep(grid, out="runs/sweep", *, executor=None, workers=None, scheduler=None, slurm=False):
    """Do all executions of a grid that are not finished yet; of their models only the best by validation are kept.

    A failed execution is reported and the rest goes on. The same call again does what is missing.

    Args:
        grid: a YAML file or a dict, see `read`.
        out: the folder that all machines see.
        executor: any `concurrent.futures.Executor`, ``client.get_executor()`` of Dask for instance.
        workers: how many processes to start here when nothing else is named (default: one per GPU, or 1); with an
            ``executor``, how many of its workers share a machine's cores.
        scheduler: the address of a Dask scheduler that is running.
        slurm: submit SLURM jobs, as the grid's ``slurm`` section says.

    Returns:
        One `busitools.notebooks.Execution` per combination of the grid.

    Raises:
        LessonError: for a grid, a parameter or a cluster that does not fit, before anything runs; or when another
            sweep is at work in ``out``.
    """
    out, todo = Path(out).absolute(), plans(grid, out)
    lessons, futures = out / "lessons", {}
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(out / ".lock", timeout=0))
        except Timeout:
            raise LessonError(f"Another sweep is at work in {out}: wait for it, or choose another folder") from None
        tidy(out)
        stack.callback(tidy, out)
        done = {plan.name: plan.finished() for plan in todo}
        stack.callback(_write_table, todo, done, out)
        missing = [plan for plan in todo if not done[plan.name]]
        if missing and executor is None:
            executor, workers = stack.enter_context(_dask(grid, workers, scheduler, slurm))
        running = stack.enter_context(tempfile.TemporaryDirectory(prefix=".running-", dir=out))
        stack.callback(lambda: [future.cancel() for future in futures])  # this alone would not stop their kernels
        lessons.mkdir(exist_ok=True)
        for path in {plan.lesson for plan in missing}:  # a copy: nobody edits what is running
            (lessons / path.name).write_bytes(path.read_bytes())
        for plan in missing:
            ready = replace(plan, lesson=lessons / plan.lesson.name, running=running, share=workers or 1)
            futures[executor.submit(carry_out, ready)] = plan
        for future in bar(as_completed(futures), "executions", len(missing), "execution"):
            plan, fault = futures[future], LOST if future.cancelled() else future.exception()  # KilledWorker, …
            done[plan.name] = plan.finished() or (plan.failed(f"{fault}") if fault else future.result())
            keep_best(out)
    return [done[plan.name] for plan in todo]


def tidy(out):
    """Remove from a sweep's folder what was cut short: what `Plan` and `sweep` name, and no other hidden folder."""
    for left in [*out.glob(".running-????????"), *out.glob(".*-????????????-????????")]:
        shutil.rmtree(left, ignore_errors=True)


def keep_best(out):
    """Delete the models of a sweep but the best by validation of each recipe and protocol; runs beside it stay whole.

    A model with a whole backbone takes 100 to 400 MB. Everything else of a run stays. Two data sets are two matters.
    A frozen base that no model needs any more goes as well.
    """
    models = [file for file in runs.model_files(out) if file.parents[1] != out]
    if len(models) > 1:
        table = pd.DataFrame([runs.row(file.parent) for file in models]).assign(file=models)
        best = table.groupby(["name", "dataset_kind", "protocol"])["validation_accuracy"].idxmax()
        for file in table["file"].drop(index=best):
            file.unlink(missing_ok=True)
    needed = {runs.Run(file.parent).info.get("base", {}).get("sha256", "")[:32] for file in runs.model_files(out)}
    for base in out.glob("[!.]*/runs/bases/*"):
        if base.name.partition(".")[0] not in needed:
            base.unlink(missing_ok=True)


def _write_table(todo, done, out):
    """Write executions.csv: what each is, how it ended, how long it took."""
    rows = []
    for plan in todo:
        ended = done[plan.name] or plan.finished()  # it may have finished while the sweep was being stopped
        one = ended or plan.failed(None)
        state = "not done" if ended is None else "finished" if one.error is None else "failed"
        row = {"execution": plan.name, "lesson": plan.lesson.stem, "state": state, "seconds": round(one.seconds, 1)}
        rows.append(row | {"error": one.error} | plan.parameters)
    with suppress(OSError), write_file(out / "executions.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


@contextmanager
def _dask(grid, workers, scheduler, slurm):
    """Yield (Dask's executor, the most executions that one machine does at a time)."""
    logging.getLogger("distributed.client").setLevel("CRITICAL")  # a lost scheduler is reported in our own words
    local = {
        # A memory limit would not see the kernels.
        "n_workers": workers or len(gpus()) or 1, "threads_per_worker": 1, "memory_limit": 0,
        # Ctrl-C in a terminal reaches the workers too: they leave it to this process.
        "preload": ["import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"],
        "silence_logs": "CRITICAL", "dashboard_address": "127.0.0.1:0",
    }  # fmt: skip
    try:
        client = Client(slurm_cluster(grid) if slurm else scheduler, **({} if slurm or scheduler else local))
    except (OSError, ValueError, TypeError) as error:  # TypeError: a word in the slurm section
        raise LessonError(f"No Dask scheduler answers at {scheduler or 'this machine'}: {error}") from error
    try:
        hosts = [address.rpartition(":")[0] for address in client.nthreads()]
        yield client.get_executor(), max(map(hosts.count, hosts), default=1)
    finally:
        with suppress(OSError):  # a machine so busy that a worker does not end in time
            client.close() if scheduler else client.shutdown()


def slurm_cluster(grid):
    """Return a Dask cluster of SLURM jobs, each with one worker that does one execution at a time."""
    if shutil.which("sbatch") is None:
        raise LessonError("There is no sbatch here: start it on a login node, or add --dry-run to see the jobs")
    from dask_jobqueue import SLURMCluster

    signal.signal(signal.SIGINT, signal.default_int_handler)  # the import has put another one in its place
    cluster = SLURMCluster(**_job(grid), scheduler_options={"dashboard_address": "127.0.0.1:0"})
    cluster.adapt(minimum=0, maximum_jobs=read(grid).get("slurm", {}).get("jobs", 4))
    return cluster


def job_script(grid):
    """Return the script that each SLURM job is submitted with; only the scheduler's address in it is not yet real."""
    from dask_jobqueue.slurm import SLURMJob

    return SLURMJob(scheduler="tcp://HOST:PORT", name="busi-sweep", **_job(grid)).job_script()


def _job(grid):
    """Return what a SLURM job asks for, in dask_jobqueue's words."""
    asked = {"job_cpu": 4, "memory": "16GiB", "walltime": "04:00:00"} | read(grid).get("slurm", {})
    asked.pop("jobs", None)
    # joblib.cpu_count() then says so many, on clusters too that do not bind a job to its cores
    prologue = [f"export LOKY_MAX_CPU_COUNT={asked['job_cpu']}", *asked.pop("job_script_prologue", [])]
    worker = {"cores": 1, "worker_extra_args": ["--memory-limit", "0"]}  # one execution at a time
    return {"job_name": "busi-sweep"} | asked | worker | {"job_script_prologue": prologue}
