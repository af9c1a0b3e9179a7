"""sweep: what a grid asks for, and that no fault of one execution, worker or scheduler loses what is finished.

The notebooks here are tiny, without Keras: a second each. Threads carry them out, or real processes where those matter.
"""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import dask
import joblib
import nbformat
import pandas as pd
import pytest
from filelock import FileLock

from busilib.errors import LessonError
from busitools import cli, sweep

PARAMETERS = 'MODE = "ok"\nSEED = 0\nFOLD = 0\nPROTOCOL = "paper"\nRATE = 0.5\nPLACE = ""\nRUNS = "auto"'
CODE = """
import os, pathlib, signal, time
place = pathlib.Path(PLACE)
(place / f"{MODE}-{SEED}-{os.getpid()}.pid").touch()
once = place / f"{MODE}-{SEED}.once"
first = not once.exists()
once.touch()
if MODE == "raise":
    raise ValueError("a < b")
if MODE == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if MODE == "full":
    with open("/dev/full", "w") as disk:
        disk.write("a model")
if MODE == "kill worker" and first:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
if MODE == "sleep" or MODE == "wait" and first:
    time.sleep(600)
if MODE == "gpu":
    mine = place / os.environ["CUDA_VISIBLE_DEVICES"]
    mine.mkdir()  # fails when another has this GPU
    time.sleep(1)
    mine.rmdir()
if MODE == "go":
    while not (place / "go").exists():
        time.sleep(0.1)
print("threads", os.environ["OMP_NUM_THREADS"], os.environ["TF_NUM_INTRAOP_THREADS"])
"""


def notebook(path, *code, parameters=PARAMETERS):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in code]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


@pytest.fixture
def lesson(tmp_path):
    return notebook(tmp_path / "77_tiny.ipynb", CODE)


@pytest.fixture
def place(tmp_path):
    """Where the kernels note their process numbers; those that a failed test leaves behind are killed."""
    folder = tmp_path / "place"
    folder.mkdir()
    yield folder
    for pid in alive(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def grid(lesson, place):
    """Make a grid of the tiny notebook: one execution per mode and seed."""

    def make(*modes, **more):
        return {"lessons": [str(lesson)], "parameters": {"MODE": list(modes), "PLACE": str(place)}} | more

    return make


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as threads:
        yield threads


def alive(place):
    """Return the kernels that noted their process number in ``place`` and still run."""
    pids = []
    for file in place.glob("*.pid"):
        stat = Path(f"/proc/{file.stem.rsplit('-', 1)[1]}/stat")
        with suppress(OSError):
            if stat.read_text().rsplit(")", 1)[1].split()[0] != "Z":
                pids.append(int(stat.parent.name))
    return pids


def until(condition):
    end = time.monotonic() + 300  # only a test that fails ever waits so long
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def hidden(out):
    return [path.name for path in out.glob(".*") if path.name != ".lock"]


def asked(grid):
    return [parameters for _, parameters in sweep.combinations(grid)]


def test_a_grid_is_the_product_of_its_axes_each_combination_once(lesson):
    grid = {"lessons": str(lesson), "parameters": {"RATE": [0.1, 1], "MODE": "ok"}, "seeds": [0, 1, 2, 2]}
    given = asked(grid)
    assert len(given) == 6 and {"RATE": 1.0, "MODE": "ok", "SEED": 2} in given
    assert all(isinstance(one["RATE"], float) for one in given)


def test_folds_are_for_the_clean_protocol(lesson):
    grid = {"lessons": [str(lesson)], "parameters": {"PROTOCOL": ["paper", "clean"]}, "folds": [0, 1, 2]}
    pairs = [(one["PROTOCOL"], one["FOLD"]) for one in asked(grid)]
    assert pairs == [("paper", 0), ("clean", 0), ("clean", 1), ("clean", 2)]


def test_a_list_of_runs_stands_alone_or_beside_a_grid(lesson):
    runs = [{"lesson": str(lesson), "SEED": 7}, {"lesson": str(lesson), "SEED": 8, "RATE": 1}]
    assert asked({"runs": runs}) == [{"SEED": 7}, {"SEED": 8, "RATE": 1.0}]
    assert len(asked({"runs": runs, "lessons": [str(lesson)], "seeds": [7, 9]})) == 3


def test_a_parameter_goes_to_the_lessons_that_have_it(lesson, tmp_path):
    bare = notebook(tmp_path / "78_bare.ipynb", parameters="SEED = 0")
    grid = {"lessons": [str(lesson), str(bare)], "parameters": {"RATE": [0.1, 0.2]}, "seeds": [1]}
    assert [path.stem for path, _ in sweep.combinations(grid)] == ["77_tiny", "77_tiny", "78_bare"]


def test_the_example_in_the_documentation_is_right():
    """Its lesson is 03, which YAML takes for the number 3."""
    example = Path(__file__).parents[2] / "docs" / "examples" / "sweep_quick.yaml"
    assert [path.stem[:2] for path, _ in sweep.combinations(example)] == ["03"] * 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lesson": ["77"]}, "The grid has no lesson. It has: lessons"),
        ({"parameters": {"SEED": 1}}, "The grid needs 'lessons'"),
        ({"runs": [{"lesson": "LESSON"}], "seeds": [1]}, "The grid needs 'lessons' that take its parameters"),
        ({"lessons": ["LESSON"], "seeds": [1], "parameters": {"SEED": 2}}, "both 'seeds' and the parameter SEED"),
        ({"lessons": ["LESSON"], "parameters": {"RATES": [1]}}, "has no parameter RATES. Did you mean RATE?"),
        ({"lessons": ["LESSON"], "seeds": [1, True]}, "SEED = True is of type bool"),
        ({"lessons": ["99"]}, "Lesson '99' does not exist"),
        ({"lessons": ["LESSON"], "slurm": {"que": "x"}}, "The slurm section has no que. It has: queue"),
        ({"lessons": ["LESSON"], "parameters": ["SEED"]}, "The parameters must hold names with values"),
        ({"runs": ["LESSON"]}, "The run must hold names with values"),
        ("none.yaml", "sweep_quick.yaml is one to begin with"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_is_written(wrong, message, lesson, tmp_path):
    wrong = json.loads(json.dumps(wrong).replace("LESSON", str(lesson)))
    with pytest.raises(LessonError) as refused:
        sweep.sweep(wrong, tmp_path / "out")
    assert message in str(refused.value) and not (tmp_path / "out").exists()


def test_the_name_covers_parameters_and_code_and_not_the_text(grid, lesson, tmp_path):
    def names():
        return {plan.name for plan in sweep.plans(grid("ok", "raise"), tmp_path / "out")}

    before = names()
    cells = nbformat.read(lesson, as_version=4)
    cells.cells.append(nbformat.v4.new_markdown_cell("more text"))
    nbformat.write(cells, lesson)
    assert names() == before and len(before) == 2 and all(name.startswith("77-") for name in before)
    cells.cells[0].source = PARAMETERS.replace("RATE = 0.5", "RATE = 0.4")  # another default
    nbformat.write(cells, lesson)
    default = names()
    cells.cells[1].source += "\n1 + 1"
    nbformat.write(cells, lesson)
    assert len(before | default | names()) == 6


def test_every_fault_is_reported_and_the_rest_goes_on(grid, place, tmp_path):
    """A notebook that raises, a kernel that dies, a full disk, a worker killed with -9: all in one sweep."""
    out = tmp_path / "out"
    executions = sweep.sweep(grid("ok", "raise", "die", "full", "kill worker"), out, workers=2)
    errors = {json.loads((one.output.parent / "execution.json").read_text())["parameters"]["MODE"]: one.error
              for one in executions}  # fmt: skip
    assert errors["ok"] is None and errors["kill worker"] is None
    assert "ValueError: a < b" in errors["raise"] and "No space left on device" in errors["full"]
    assert "the kernel died" in errors["die"]
    assert len(list(place.glob("kill worker-0-*.pid"))) == 2  # it was done anew

    names = sorted(path.name for path in out.glob("77-*"))
    assert names == sorted(one.output.parent.name for one in executions if one.error is None)
    failed = executions[1].output.parent
    assert failed.parent == out / "failed"
    assert {file.name for file in failed.iterdir()} == {
        *("execution.json", "77_tiny.ipynb", "77_tiny.traceback.txt"),
    }
    table = pd.read_csv(out / "executions.csv").set_index("MODE")
    assert table["state"].to_dict() == {mode: "failed" if error else "finished" for mode, error in errors.items()}
    assert hidden(out) == [] and not alive(place)


def test_an_execution_that_takes_too_long_is_stopped(grid, pool, place, tmp_path):
    (done,) = sweep.sweep(grid("sleep", minutes=0.01), tmp_path / "out", executor=pool)
    assert "it ran past its time of 0.01 minutes" in done.error and not alive(place)


def test_finished_executions_are_not_done_again_and_failed_ones_are(grid, pool, place, tmp_path):
    first, again = (sweep.sweep(grid("ok", "raise"), tmp_path / "out", executor=pool) for _ in range(2))
    assert [one.error is None for one in first] == [one.error is None for one in again] == [True, False]
    assert len(list(place.glob("ok-*.pid"))) == 1 and len(list(place.glob("raise-*.pid"))) == 2
    share = max(1, joblib.cpu_count() // 2)
    again = sweep.sweep(grid("ok", seeds=[1]), tmp_path / "out", executor=pool, workers=2)
    cells = nbformat.read(again[0].output, as_version=4).cells
    assert cells[-1].outputs[0].text == f"threads {share} {share}\n"


def test_a_refused_sweep_and_a_dry_run_write_nothing(grid, lesson, pool, tmp_path, monkeypatch, capsys):
    def content():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    out, file = tmp_path / "out", tmp_path / "grid.yaml"
    sweep.sweep(grid("ok"), out, executor=pool)
    file.write_text(json.dumps(grid("ok", "raise", slurm={"queue": "short"})), encoding="utf-8")
    notebook(lesson, CODE, "1 + 1")  # edited while the other one runs
    monkeypatch.chdir(tmp_path)
    before = content()
    with FileLock(out / ".lock"), pytest.raises(LessonError, match="Another sweep is at work in"):
        sweep.sweep(file, out)
    for folder in ("out", "new"):
        assert cli.main(["sweep", str(file), "--out", folder, "--dry-run", "--slurm"]) == 0
        shown = capsys.readouterr().out
        assert "MODE='raise'" in shown and "2 executions, 0 of them finished" in shown and "#SBATCH -p short" in shown
    assert content() == before and not (tmp_path / "new").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["sweep", str(file), "--out", "new", "--slurm"]) == 1
    assert "There is no sbatch here" in capsys.readouterr().err


def test_what_was_cut_short_is_removed_and_done_anew(grid, pool, tmp_path):
    out = tmp_path / "out"
    half = out / f".{sweep.plans(grid('ok'), out)[0].name}-x1y2z3_w"
    half.mkdir(parents=True)
    (half / "execution.json").write_text("{", encoding="utf-8")
    (out / ".running-abcdefgh").mkdir()  # of a sweep that was killed
    assert sweep.sweep(grid("ok"), out, executor=pool)[0].error is None
    assert hidden(out) == []


def test_a_disk_that_is_really_full(grid, lesson, tmp_path, pool):
    """On a small file system of its own: some executions fit, the others are reported, and what is finished stays."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        write = 'pathlib.Path(RUNS).mkdir()\n(pathlib.Path(RUNS) / "model").write_bytes(bytes(110_000))'
        notebook(lesson, CODE, write)
        executions = sweep.sweep(grid("ok", seeds=list(range(4))), disk / "out", executor=pool)
        failed = [one for one in executions if one.error]
        assert 1 <= len(failed) < 4 and all("No space left on device" in one.error for one in failed)
        for one in executions:
            assert (one.output.parent / "runs" / "model").is_file() == (one.error is None)
        assert hidden(disk / "out") == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@contextmanager
def started(*command, **options):
    """Start a Python module; in the end kill it and all that it started in its session."""
    # A shell's background jobs ignore Ctrl-C, and so would all that pytest starts from there.
    with subprocess.Popen(
        [sys.executable, "-m", *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def busi(grid, tmp_path, *options):
    file = tmp_path / "grid.yaml"
    file.write_text(json.dumps(grid), encoding="utf-8")  # JSON is YAML
    return started("busitools.cli", "sweep", file, "--out", tmp_path / "out", *options)


def test_ctrl_c_ends_the_kernels_and_the_same_command_goes_on(grid, place, tmp_path):
    with busi(grid("ok", "wait"), tmp_path, "--workers", "2") as running:
        until(lambda: list(place.glob("wait-*.pid")) and list((tmp_path / "out").glob("77-*")))
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        output, _ = running.communicate()
        assert running.returncode == 130 and "busi: stopped" in output and "Traceback" not in output, output
        until(lambda: not alive(place))
    table = pd.read_csv(tmp_path / "out" / "executions.csv").set_index("MODE")
    assert table["state"].to_dict() == {"ok": "finished", "wait": "not done"} and hidden(tmp_path / "out") == []
    with busi(grid("ok", "wait"), tmp_path) as again:
        assert "2 of 2 executions are finished" in again.communicate()[0]
    assert len(list(place.glob("ok-*.pid"))) == 1


def test_ctrl_c_ends_the_kernel_of_busi_run(lesson, place, tmp_path):
    given = ["-p", "MODE", "sleep", "-p", "PLACE", place]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with started("busitools.cli", "run", lesson, *given, "--out", tmp_path / "out", env=env) as running:
        until(lambda: list(place.glob("sleep-*.pid")))
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate()
        assert running.returncode == 130 and output.strip().endswith("busi: stopped"), output
        until(lambda: not alive(place))


def test_kernels_end_with_a_driver_that_is_killed(grid, place, tmp_path):
    with busi(grid("sleep", seeds=[0, 1]), tmp_path, "--workers", "2") as running:
        until(lambda: len(list(place.glob("sleep-*.pid"))) == 2)
        running.kill()
        until(lambda: not alive(place))


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers as separate processes on loopback: yields (address, scheduler, workers)."""
    file = tmp_path / "scheduler.json"
    common = ["--scheduler-file", file, "--no-dashboard"]
    worker = ["distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", "--memory-limit", "0", *common]
    worker += ["--local-directory", tmp_path]
    with started("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", *common) as scheduler:
        until(file.exists)
        with started(*worker) as first, started(*worker) as second:
            yield json.loads(file.read_text())["address"], scheduler, (first, second)


def test_a_worker_killed_in_the_middle_of_a_cluster(grid, cluster, place, tmp_path):
    address, _, workers = cluster
    with busi(grid("go", seeds=list(range(4))), tmp_path, "--scheduler", address) as running:
        until(lambda: len(list(place.glob("go-*.pid"))) == 2)
        workers[0].kill()
        until(lambda: len(alive(place)) == 1)
        (place / "go").touch()
        output, _ = running.communicate()
    assert running.returncode == 0 and "4 of 4 executions are finished" in output, output
    assert len(list(place.glob("go-*.pid"))) == 5  # one of them was cut short


def test_a_lost_scheduler_is_reported_and_the_rest_is_done_elsewhere(grid, cluster, place, tmp_path):
    address, scheduler, _ = cluster
    with busi(grid("ok", "wait"), tmp_path, "--scheduler", address) as running:
        until(lambda: list(place.glob("wait-*.pid")) and list((tmp_path / "out").glob("77-*")))
        scheduler.kill()
        output, _ = running.communicate()
        assert running.returncode == 1 and "the scheduler was lost" in output and "1 of 2" in output, output
        until(lambda: not alive(place))
    with busi(grid("ok", "wait"), tmp_path) as again:
        assert "2 of 2 executions are finished" in again.communicate()[0]
    assert len(list(place.glob("ok-*.pid"))) == 1


def test_the_slurm_script_asks_for_what_the_grid_says(grid):
    section = {"queue": "short", "account": "lab", "gpus": 1, "cores": 8, "memory": "32GB", "time": "02:00:00"}
    script = sweep.job_script(grid("ok", slurm=section | {"prologue": "module load python"}))
    for line in ("-p short", "-A lab", "--cpus-per-task=8", "--mem=30G", "-t 02:00:00", "--gres=gpu:1"):
        assert f"#SBATCH {line}\n" in script
    assert "module load python" in script and "--nthreads 1 " in script  # one execution at a time
    assert "--memory-limit 0" in script and "--gres" not in sweep.job_script(grid("ok"))


GPUS = r"GPU 0: NVIDIA H100 (UUID: GPU-aa-1)\nGPU 1: NVIDIA H100 (UUID: GPU-bb-2)\n"


def test_one_run_per_gpu(grid, tmp_path, monkeypatch):
    """With a made-up nvidia-smi: each execution takes a GPU that no other has, and a third one waits."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{GPUS}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with ThreadPoolExecutor(3) as three:
        executions = sweep.sweep(grid("gpu", seeds=[0, 1, 2]), tmp_path / "out", executor=three)
    assert [one.error for one in executions] == [None] * 3
    for visible, uuids in (("1", ["GPU-bb-2"]), ("GPU-aa-1", ["GPU-aa-1"]), ("", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert sweep.gpus() == uuids


def test_a_scheduler_that_is_not_there(grid, tmp_path):
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        with pytest.raises(LessonError, match="No Dask scheduler answers at tcp://127.0.0.1:9"):
            sweep.sweep(grid("ok"), tmp_path / "out", scheduler="tcp://127.0.0.1:9")
