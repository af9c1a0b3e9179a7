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
import psutil
import pytest
from filelock import FileLock

from busilib.errors import LessonError
from busitools import cli, sweep

PARAMETERS = 'MODE = "ok"\nSEED = 0\nFOLD = 0\nPROTOCOL = "paper"\nRATE = 0.5\nPLACE = ""\nRUNS = "auto"'
MODES = {
    "ok": "",
    "raise": "raise ValueError('a < b')",
    "die": "os.kill(os.getpid(), signal.SIGKILL)",
    "full": "print('a model', file=open('/dev/full', 'w', 1))",
    "kill worker": "if first: os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)",
    "sleep": "time.sleep(600)",
    "wait": "if first: time.sleep(600)",
    "gpu": "gpu = place / os.environ['CUDA_VISIBLE_DEVICES']; gpu.mkdir(); time.sleep(1); gpu.rmdir()",
    "go": "while not (place / 'go').exists(): time.sleep(0.1)",
}
CODE = f"""
import os, pathlib, signal, time
place = pathlib.Path(PLACE)
first = not list(place.glob(f"{{MODE}}-{{SEED}}-*"))
(place / f"{{MODE}}-{{SEED}}-{{os.getpid()}}").touch()
exec({MODES}[MODE])
print("threads", os.environ["OMP_NUM_THREADS"], os.environ["TF_NUM_INTRAOP_THREADS"])
"""


def notebook(path, *code, parameters=PARAMETERS):
    cells = [nbformat.v4.new_code_cell(source) for source in (parameters, *code)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return str(path)


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
    return lambda *modes, **more: {
        "lessons": [lesson], "parameters": {"MODE": list(modes), "PLACE": str(place)},
    } | more  # fmt: skip


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as threads:
        yield threads


def begun(place, mode):
    """Return the process numbers of all kernels that began an execution of this mode."""
    return [int(file.name.rsplit("-", 1)[1]) for file in place.glob(f"{mode}-*")]


def alive(place):
    """Return those that still run."""
    running = {one.pid for one in psutil.process_iter(["status"]) if one.info["status"] != psutil.STATUS_ZOMBIE}
    return running & set(begun(place, "*"))


def until(condition):
    end = time.monotonic() + 300  # only a test that fails ever waits so long
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def hidden(out):
    return [path.name for path in out.glob(".*") if path.name != ".lock"]


def asked(grid):
    return [parameters for _, parameters in sweep.combinations(grid)]


def test_a_grid_is_the_product_of_its_axes_each_combination_once(lesson, tmp_path):
    grid = {"lessons": lesson, "parameters": {"RATE": [0.1, 1], "MODE": "ok"}, "seeds": [0, 1, 2, 2]}
    assert len(asked(grid)) == 6 and {"RATE": 1.0, "MODE": "ok", "SEED": 2} in asked(grid)
    bare = notebook(tmp_path / "78_bare.ipynb", parameters="SEED = 0")  # has no RATE
    lessons = [path.stem for path, _ in sweep.combinations(grid | {"lessons": [lesson, bare], "seeds": 1})]
    assert lessons == ["77_tiny", "77_tiny", "78_bare"]


def test_folds_are_for_the_clean_protocol(lesson):
    grid = {"lessons": [lesson], "parameters": {"PROTOCOL": ["paper", "clean"]}, "folds": [0, 1, 2]}
    pairs = [(one["PROTOCOL"], one["FOLD"]) for one in asked(grid)]
    assert pairs == [("paper", 0), ("clean", 0), ("clean", 1), ("clean", 2)]


def test_a_list_of_runs_stands_alone_or_beside_a_grid(lesson):
    runs = [{"lesson": lesson, "SEED": 7}, {"lesson": lesson, "SEED": 8, "RATE": 1}]
    assert asked({"runs": runs}) == [{"SEED": 7}, {"SEED": 8, "RATE": 1.0}]
    assert len(asked({"runs": runs, "lessons": [lesson], "seeds": [7, 9]})) == 3


@pytest.mark.parametrize(("name", "runs"), [("sweep_quick", 4), ("sweep_03", 24)])
def test_the_examples_in_the_documentation_are_right(name, runs):
    """Their lesson is 03, which YAML takes for the number 3."""
    example = Path(__file__).parents[2] / "docs" / "examples" / f"{name}.yaml"
    assert [path.stem[:2] for path, _ in sweep.combinations(example)] == ["03"] * runs


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lesson": ["77"]}, "A grid has "),
        ({"runs": [{"lesson": "LESSON"}], "seeds": [1]}, "The grid needs 'lessons' that take its parameters"),
        ({"lessons": ["LESSON"], "parameters": {"RATES": [1]}}, "has no parameter RATES. It has"),
        ({"lessons": ["LESSON"], "seeds": [1, True]}, "SEED is True; it must be a whole number"),
        ({"lessons": ["99"]}, "Lesson '99' does not exist"),
        ({"lessons": ["LESSON"], "parameters": ["SEED"]}, "parameters, slurm and each run name their values"),
        ({"runs": ["LESSON"]}, "each run name their values"),
        ({"runs": [{"SEED": 1}]}, "'runs' alone with a lesson each"),
        ({"lessons": ["LESSON"], "slurm": None}, "name their values"),
        ("none.yaml", "A grid to begin with: docs"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_is_written(wrong, message, lesson, tmp_path):
    wrong = json.loads(json.dumps(wrong).replace("LESSON", lesson))
    with pytest.raises(LessonError) as refused:
        sweep.sweep(wrong, tmp_path / "out")
    assert message in str(refused.value) and not (tmp_path / "out").exists()


def test_the_name_covers_parameters_and_code_and_not_the_text(grid, lesson, tmp_path):
    def names(change, cell=0):
        cells.cells[cell].source = change(cells.cells[cell].source)
        nbformat.write(cells, lesson)
        return {plan.name for plan in sweep.plans(grid("ok", "raise"), tmp_path / "out")}

    cells = nbformat.read(lesson, as_version=4)
    before = names(lambda source: source)
    cells.cells.append(nbformat.v4.new_markdown_cell("more text"))
    assert names(lambda source: source) == before and all(name.startswith("77-") for name in before)
    other_default = names(lambda source: source.replace("RATE = 0.5", "RATE = 0.4"))
    assert len(before | other_default | names(lambda source: source + "\n1 + 1", cell=1)) == 6


def test_every_fault_is_reported_and_the_rest_goes_on(grid, place, tmp_path):
    """A notebook that raises, a kernel that dies, a full disk, a worker killed with -9: all in one sweep."""
    out, modes = tmp_path / "out", ["ok", "raise", "die", "full", "kill worker"]
    executions = sweep.sweep(grid(*modes), out, workers=2)
    errors = {mode: one.error for mode, one in zip(modes, executions, strict=True)}
    assert errors["ok"] is None and errors["kill worker"] is None and "the kernel died" in errors["die"]
    assert "ValueError: a < b" in errors["raise"] and "No space left on device" in errors["full"]
    assert len(begun(place, "kill worker")) == 2  # it was done anew

    names = sorted(path.name for path in out.glob("77-*"))
    assert names == sorted(one.output.parent.name for one in executions if one.error is None)
    failed = executions[1].output.parent
    assert failed.parent == out / "failed"
    files = sorted(file.name for file in failed.iterdir())
    assert files == ["77_tiny.ipynb", "execution.json"]
    table = pd.read_csv(out / "executions.csv").set_index("MODE")
    assert table["state"].to_dict() == {mode: "failed" if error else "finished" for mode, error in errors.items()}
    assert hidden(out) == []
    until(lambda: not alive(place))


def test_an_execution_that_takes_too_long_is_stopped(grid, pool, place, tmp_path):
    (done,) = sweep.sweep(grid("sleep", minutes=0.01), tmp_path / "out", executor=pool)
    assert "it ran past its time of 0.01 minutes" in done.error and not alive(place)


def test_finished_executions_are_not_done_again_and_failed_ones_are(grid, pool, place, tmp_path):
    for _ in range(2):
        executions = sweep.sweep(grid("ok", "raise"), tmp_path / "out", executor=pool, workers=2)
        assert [one.error is None for one in executions] == [True, False]
    assert len(begun(place, "ok")) == 1 and len(begun(place, "raise")) == 2
    share = max(1, joblib.cpu_count() // 2)
    cells = nbformat.read(executions[0].output, as_version=4).cells
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
        assert "MODE='raise'" in shown and shown.count("to do") == 2 and "#SBATCH -p short" in shown
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
        notebook(lesson, CODE, '(pathlib.Path(RUNS) / "run").mkdir(parents=True)',
                 '(pathlib.Path(RUNS) / "run" / "model").write_bytes(bytes(110_000))')  # fmt: skip
        executions = sweep.sweep(grid("ok", seeds=list(range(4))), disk / "out", executor=pool)
        failed = [one for one in executions if one.error]
        assert 1 <= len(failed) < 4 and all("No space left on device" in one.error for one in failed)
        for one in executions:
            assert (one.output.parent / "runs" / "run" / "model").is_file() == (one.error is None)
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


def check_that_it_goes_on(grid, place, tmp_path):
    """Give the command again after one execution was finished and one stopped: only the latter is done."""
    with busi(grid, tmp_path) as again:
        assert "2 of 2 finished" in again.communicate()[0]
    assert len(begun(place, "ok")) == 1 and len(begun(place, "wait")) == 2


def test_ctrl_c_ends_the_kernels_and_the_same_command_goes_on(grid, place, tmp_path):
    with busi(grid("ok", "wait"), tmp_path, "--workers", "2") as running:
        until(lambda: begun(place, "wait") and list((tmp_path / "out").glob("77-*")))
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        output, _ = running.communicate()
        assert running.returncode == 130 and "busi: stopped" in output and "Traceback" not in output, output
        until(lambda: not alive(place))
    table = pd.read_csv(tmp_path / "out" / "executions.csv").set_index("MODE")
    assert table["state"].to_dict() == {"ok": "finished", "wait": "not done"} and hidden(tmp_path / "out") == []
    check_that_it_goes_on(grid("ok", "wait"), place, tmp_path)


def test_ctrl_c_ends_the_kernel_of_busi_run(lesson, place, tmp_path):
    given = ["-p", "MODE", "sleep", "-p", "PLACE", place, "--out", tmp_path / "out"]
    with started("busitools.cli", "run", lesson, *given, env=os.environ | {"OMP_NUM_THREADS": "1"}) as running:
        until(lambda: begun(place, "sleep"))
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate()
        assert running.returncode == 130 and "busi: stopped" in output, output
        until(lambda: not alive(place))


def test_kernels_end_with_a_driver_that_is_killed(grid, place, tmp_path):
    with busi(grid("sleep", seeds=[0, 1]), tmp_path, "--workers", "2") as running:
        until(lambda: len(begun(place, "sleep")) == 2)
        running.kill()
        until(lambda: not alive(place))


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers as separate processes on loopback: yields (address, scheduler, one worker)."""
    file = tmp_path / "scheduler.json"
    common = ["--scheduler-file", file, "--no-dashboard"]
    worker = ["worker", "--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--local-directory", tmp_path, *common]
    with started("dask", "scheduler", "--host", "127.0.0.1", "--port", "0", *common) as scheduler:
        with started("dask", *worker) as first, started("dask", *worker):
            until(file.exists)
            yield json.loads(file.read_text())["address"], scheduler, first


def test_tidying_leaves_hidden_folders_of_others(tmp_path):
    ours = [".running-ab_12xyz", ".03-0123456789ab-01234567"]
    theirs = [".vscode-insiders", ".config-20240101", ".ssh"]
    for name in ours + theirs:
        (tmp_path / name).mkdir()
    sweep.tidy(tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == sorted(theirs)


def test_a_worker_killed_in_the_middle_of_a_cluster(grid, cluster, place, tmp_path):
    address, _, worker = cluster
    with busi(grid("go", seeds=[0, 1, 2]), tmp_path, "--scheduler", address) as running:
        until(lambda: len(begun(place, "go")) == 2)
        worker.kill()
        until(lambda: len(alive(place)) == 1)
        (place / "go").touch()
        output, _ = running.communicate()
    assert running.returncode == 0 and "3 of 3 finished" in output, output
    assert len(begun(place, "go")) == 4  # one of them was cut short


def test_a_lost_scheduler_is_reported_and_the_rest_is_done_elsewhere(grid, cluster, place, tmp_path):
    address, scheduler, _ = cluster
    with busi(grid("ok", "wait"), tmp_path, "--scheduler", address) as running:
        until(lambda: begun(place, "wait") and list((tmp_path / "out").glob("77-*")))
        scheduler.kill()
        output, _ = running.communicate()
        assert running.returncode == 1 and "the scheduler was lost" in output and "1 of 2 finished" in output, output
        until(lambda: not alive(place))
    check_that_it_goes_on(grid("ok", "wait"), place, tmp_path)


def test_the_slurm_script_asks_for_what_the_grid_says(grid):
    section = {"queue": "short", "account": "lab", "job_cpu": 8, "memory": "32GB", "walltime": "02:00:00"}
    section |= {"job_extra_directives": ["--gres=gpu:1"], "job_script_prologue": ["module load python"], "jobs": 2}
    script = sweep.job_script(grid("ok", slurm=section))
    for line in ("-p short", "-A lab", "--cpus-per-task=8", "--mem=30G", "-t 02:00:00", "--gres=gpu:1"):
        assert f"#SBATCH {line}\n" in script
    assert "module load python" in script and "--nthreads 1 " in script  # one execution at a time
    assert "--memory-limit 0" in script and "LOKY_MAX_CPU_COUNT=8" in script
    with pytest.raises(TypeError, match="'que'"):
        sweep.job_script(grid("ok", slurm={"que": "short"}))


def test_one_run_per_gpu(grid, tmp_path, monkeypatch):
    """With a made-up nvidia-smi: each execution takes a GPU that no other has, and a third one waits."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '0, GPU-aa-1\\n1, GPU-bb-2\\n'\n")
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
