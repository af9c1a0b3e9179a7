"""sweep: what a grid asks for, and that no fault of one execution, worker or scheduler loses what is finished.

The notebooks here are tiny, without Keras: a second each. The clusters are real processes.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from busilib.errors import LessonError
from busitools import cli, notebooks, sweep
from tests.unit.test_batch import notebook

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
if MODE == "kill worker" and first:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
if MODE == "sleep" or MODE == "wait" and first:
    time.sleep(600)
if MODE == "short":
    time.sleep(2)
print("threads", os.environ["OMP_NUM_THREADS"], os.environ["TF_NUM_INTRAOP_THREADS"])
"""


@pytest.fixture
def lesson(tmp_path):
    return notebook(tmp_path / "77_tiny.ipynb", CODE, parameters=PARAMETERS)


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def grid(lesson, place):
    """Make a grid of the tiny notebook: one execution a mode and seed."""

    def make(*modes, seeds=(0,), **more):
        return {
            "lessons": [str(lesson)],
            "parameters": {"MODE": list(modes), "PLACE": str(place)},
            "seeds": seeds,
        } | more

    return make


@pytest.fixture(scope="module")
def client():
    """Two workers on this machine, for all tests of this file."""
    import distributed

    with sweep.local_cluster(2) as cluster, distributed.Client(cluster) as found:
        yield found


def alive(place):
    """The kernels that noted their process number in ``place`` and still run."""
    pids = [int(file.stem.rsplit("-", 1)[1]) for file in Path(place).glob("*.pid")]
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in state(pid)]


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def hidden(out):
    return [path.name for path in Path(out).glob(".*") if path.name != ".lock"]


# What a grid asks for


def given(grid):
    return [parameters for _, parameters in sweep.combinations(grid)]


def test_a_grid_is_the_product_of_its_axes(lesson):
    grid = {"lessons": str(lesson), "parameters": {"RATE": [0.1, 1], "MODE": "ok"}, "seeds": [0, 1, 2]}
    found = given(grid)
    assert len(found) == 6 and {"RATE": 1.0, "MODE": "ok", "SEED": 2} in found
    assert all(isinstance(one["RATE"], float) for one in found)
    assert given(grid | {"seeds": [0, 0]}) == given(grid | {"seeds": 0})  # each once


def test_folds_are_for_the_clean_protocol(lesson):
    grid = {"lessons": [str(lesson)], "parameters": {"PROTOCOL": ["paper", "clean"]}, "folds": [0, 1, 2]}
    assert [(one["PROTOCOL"], one["FOLD"]) for one in given(grid)] == [
        ("paper", 0),
        *(("clean", fold) for fold in range(3)),
    ]


def test_a_list_of_runs_stands_alone_or_beside_a_grid(lesson):
    runs = [{"lesson": str(lesson), "SEED": 7}, {"lesson": str(lesson), "SEED": 8, "RATE": 1}]
    assert given({"runs": runs}) == [{"SEED": 7}, {"SEED": 8, "RATE": 1.0}]
    assert len(given({"runs": runs, "lessons": [str(lesson)], "seeds": [7, 9]})) == 3


def test_a_parameter_goes_to_the_lessons_that_have_it(lesson, tmp_path):
    bare = notebook(tmp_path / "78_bare.ipynb", parameters="SEED = 0")
    grid = {"lessons": [str(lesson), str(bare)], "parameters": {"RATE": [0.1, 0.2]}, "seeds": [1]}
    assert [path.stem for path, _ in sweep.combinations(grid)] == ["77_tiny", "77_tiny", "78_bare"]


def test_yaml_is_read_as_it_is_meant(tmp_path, lesson, monkeypatch):
    """YAML takes 03 for the number 3 and 1e-3 for a text."""
    monkeypatch.setattr(notebooks, "folder", lambda: tmp_path)
    lesson.rename(tmp_path / "03_tiny.ipynb")
    file = tmp_path / "grid.yaml"
    file.write_text("lessons: [03]\nparameters: {RATE: [1e-3, 0.5]}\n", encoding="utf-8")
    assert given(file) == [{"RATE": 0.001}, {"RATE": 0.5}]


def test_the_example_in_the_documentation_is_right():
    example = Path(__file__).parents[2] / "docs" / "examples" / "sweep_quick.yaml"
    if not example.exists():
        pytest.skip("the examples come with a checkout only")
    found = sweep.combinations(example)
    assert 2 <= len(found) <= 4 and {path.stem[:2] for path, _ in found} == {"03"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lesson": ["77"]}, "The grid has no 'lesson'. Did you mean lessons?"),
        ({"parameters": {"SEED": 1}}, "names neither 'lessons' nor 'runs'"),
        ({"runs": [{"lesson": "LESSON"}], "seeds": [1]}, "has parameters but no 'lessons'"),
        ({"lessons": ["LESSON"], "seeds": [1], "parameters": {"SEED": 2}}, "both 'seeds' and the parameter SEED"),
        ({"lessons": ["LESSON"], "parameters": {"RATES": [1]}}, "has no parameter RATES. Did you mean RATE?"),
        ({"lessons": ["LESSON"], "seeds": ["x"]}, "SEED = 'x' is of type str; it must be int"),
        ({"lessons": ["LESSON"], "seeds": [1, True]}, "SEED = True is of type bool"),
        ({"lessons": ["99"]}, "Lesson '99' does not exist"),
        ({"lessons": ["LESSON"], "minutes": 0}, "minutes: 0 must be a number above 0"),
        ({"lessons": ["LESSON"], "slurm": {"que": "x"}}, "The slurm section has no 'que'. Did you mean queue?"),
        ({"lessons": ["LESSON"], "parameters": ["SEED"]}, "The parameters must hold names with values"),
        ({"runs": ["LESSON"]}, "must be like {lesson:"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(wrong, message, lesson, tmp_path):
    wrong = json.loads(json.dumps(wrong).replace("LESSON", str(lesson)))
    with pytest.raises(LessonError) as refused:
        sweep.sweep(wrong, tmp_path / "out")
    assert message in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_grid_is_refused(tmp_path):
    with pytest.raises(LessonError, match="There is no grid .*sweep_quick.yaml is one to begin with"):
        sweep.read(tmp_path / "none.yaml")
    for text, message in (("a: [", "is not valid YAML"), ("- 3", "must hold names with values")):
        (tmp_path / "grid.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(LessonError, match=message):
            sweep.read(tmp_path / "grid.yaml")


def test_the_name_covers_parameters_and_code_and_not_the_text(grid, lesson, tmp_path):
    def names():
        return [plan.name for plan in sweep.plans(grid("ok", "raise"), tmp_path / "out")]

    before = names()
    assert names() == before and len(set(before)) == 2 and all(name.startswith("77-") for name in before)
    cells = nbformat.read(lesson, as_version=4)
    cells.cells[0].source += " with more text"
    nbformat.write(cells, lesson)
    assert names() == before
    cells.cells[-1].source += "\n1 + 1"
    nbformat.write(cells, lesson)
    assert not set(names()) & set(before)
    cells.cells[1].source = cells.cells[1].source.replace("RATE = 0.5", "RATE = 0.4")  # another default
    nbformat.write(cells, lesson)
    assert len({*before, *names()}) == 4


# What a sweep does


def test_every_fault_is_reported_and_the_rest_goes_on(grid, client, place, tmp_path):
    """A notebook that raises, a kernel that dies, a worker killed with -9, a run past its time: all in one sweep."""
    out = tmp_path / "out"
    asked = grid("ok", "raise", "die", "kill worker", "sleep", seeds=[0], minutes=0.3)
    found = {json.loads((item.output.parent / "execution.json").read_text())["parameters"]["MODE"]: item
             for item in notebooks.sweep(asked, out, client=client)}  # fmt: skip
    errors = {mode: item.error for mode, item in found.items()}
    assert errors["ok"] is None and errors["kill worker"] is None
    assert "ValueError: a < b" in errors["raise"]
    assert "the kernel died" in errors["die"]
    assert "it ran past its time of 0.3 minutes" in errors["sleep"]
    assert len(list(place.glob("kill worker-0-*.pid"))) == 2  # it was done anew

    finished = sorted(path.name for path in out.glob("77-*"))
    assert finished == sorted(item.output.parent.name for item in found.values() if item.error is None)
    kept = out / "failed" / found["raise"].output.parent.name
    assert {path.name for path in kept.iterdir()} == {
        *("execution.json", "77_tiny.ipynb", "77_tiny.traceback.txt"),
    }
    assert "ValueError: a < b" in (kept / "77_tiny.traceback.txt").read_text()
    assert "\x1b" not in (kept / "77_tiny.traceback.txt").read_text()
    table = pd.read_csv(out / "executions.csv").set_index("MODE")
    assert table["state"].to_dict() == {mode: "failed" if error else "finished" for mode, error in errors.items()}
    assert hidden(out) == [] and not alive(place)


def test_finished_executions_are_not_done_again_and_failed_ones_are(grid, client, place, tmp_path):
    out = tmp_path / "out"
    first = sweep.sweep(grid("ok", "raise"), out, client=client)
    again = sweep.sweep(grid("ok", "raise"), out, client=client)
    assert [item.error is None for item in first] == [item.error is None for item in again] == [True, False]
    assert len(list(place.glob("ok-*.pid"))) == 1 and len(list(place.glob("raise-*.pid"))) == 2
    assert sweep.sweep(grid("ok"), out)[0].error is None  # nothing to do: no cluster is started


def test_kernels_share_the_cores(grid, client, tmp_path):
    done = sweep.sweep(grid("ok"), tmp_path / "out", client=client)[0]
    share = max(1, sweep.cores() // 2)
    cells = nbformat.read(done.output, as_version=4).cells
    assert cells[-1].outputs[0].text == f"threads {share} {share}\n"


def test_two_sweeps_do_not_write_into_one_folder(grid, tmp_path):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(LessonError, match="Another sweep is at work in"):
        sweep.sweep(grid("ok"), tmp_path / "out")


def test_what_was_cut_short_is_removed_and_done_anew(grid, client, tmp_path):
    out = tmp_path / "out"
    plan = sweep.plans(grid("ok"), out)[0]
    half = out / f".{plan.name}-x1y2"
    half.mkdir()
    (half / "execution.json").write_text("{", encoding="utf-8")
    (out / sweep.STOP).touch()  # left by one that was stopped
    assert sweep.sweep(grid("ok"), out, client=client)[0].error is None
    assert hidden(out) == []


def test_a_full_disk_is_an_error_of_the_execution(grid, tmp_path, monkeypatch):
    import papermill.iorw

    plan, other = sweep.plans(grid("ok", "short"), tmp_path / "out")
    written = papermill.iorw.LocalHandler.write

    def write(self, text, path):
        if '"status": "completed"' in text and 'MODE = \\"short\\"' not in text:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(self, text, path)

    monkeypatch.setattr(papermill.iorw.LocalHandler, "write", write)
    done = sweep.carry_out(plan)
    assert "No space left on device" in done.error and not plan.target.exists() and hidden(tmp_path / "out") == []
    assert sweep.carry_out(other).error is None


def test_a_disk_that_is_really_full(grid, lesson, tmp_path, client):
    """On a small file system of its own: some executions fit, the others are reported, and what is finished stays."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a file system; the test above stands in")
    try:
        write = 'pathlib.Path(RUNS).mkdir()\n(pathlib.Path(RUNS) / "model").write_bytes(bytes(110_000))'
        notebook(lesson, CODE, write, parameters=PARAMETERS)
        found = sweep.sweep(grid("ok", seeds=range(4)), disk / "out", client=client)
        failed = [item for item in found if item.error]
        assert 1 <= len(failed) < 4 and all("No space left on device" in item.error for item in failed)
        for item in found:
            assert (item.output.parent / "runs" / "model").is_file() == (item.error is None)
        assert hidden(disk / "out") == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# Ctrl-C, lost machines


def start(*command, **options):
    # A shell's background jobs ignore Ctrl-C, and so would all that pytest starts from there.
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options,
    )  # fmt: skip


def busi(grid, tmp_path, *options):
    file = tmp_path / "grid.yaml"
    file.write_text(json.dumps(grid | {"seeds": list(grid["seeds"])}), encoding="utf-8")  # JSON is YAML
    return start("busitools.cli", "sweep", file, "--out", tmp_path / "out", *options)


def test_ctrl_c_ends_the_kernels_and_the_same_command_goes_on(grid, place, tmp_path):
    asked = grid("ok", "wait")
    running = busi(asked, tmp_path, "--workers", "2")
    until(lambda: list(place.glob("wait-*.pid")) and list((tmp_path / "out").glob("77-*")))
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 130 and "busi: stopped" in output and "Traceback" not in output, output
    until(lambda: not alive(place), 10)
    table = pd.read_csv(tmp_path / "out" / "executions.csv").set_index("MODE")
    assert table["state"].to_dict() == {"ok": "finished", "wait": "not done"}
    again = busi(asked, tmp_path)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0 and "2 of 2 executions are finished" in output, output
    assert len(list(place.glob("ok-*.pid"))) == 1


def test_ctrl_c_ends_the_kernel_of_busi_run(lesson, place, tmp_path):
    given = ["-p", "MODE", "sleep", "-p", "PLACE", place]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    running = start("busitools.cli", "run", lesson, *given, "--out", tmp_path / "out", env=env)
    until(lambda: list(place.glob("sleep-*.pid")))
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 130 and output.strip().endswith("busi: stopped"), output
    until(lambda: not alive(place), 10)


def test_kernels_end_with_a_driver_that_is_killed(grid, place, tmp_path):
    running = busi(grid("sleep", seeds=[0, 1]), tmp_path, "--workers", "2")
    until(lambda: len(list(place.glob("sleep-*.pid"))) == 2)
    running.kill()
    running.wait()
    until(lambda: not alive(place), 30)


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers as separate processes on loopback: yields (address, scheduler, workers)."""
    file = tmp_path / "scheduler.json"
    common = ["--scheduler-file", file, "--no-dashboard"]
    processes = [start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", *common)]
    until(file.exists)
    for _ in range(2):
        options = ["--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--local-directory", tmp_path]
        processes.append(start("distributed.cli.dask_worker", *common, *options))
    yield json.loads(file.read_text())["address"], processes[0], processes[1:]
    for process in processes:
        process.kill()
        process.wait()


def test_a_worker_killed_in_the_middle_of_a_cluster(grid, cluster, place, tmp_path):
    address, _, workers = cluster
    running = busi(grid("short", seeds=range(4)), tmp_path, "--scheduler", address)
    until(lambda: len(list(place.glob("short-*.pid"))) >= 2)
    workers[0].send_signal(signal.SIGKILL)
    output, _ = running.communicate(timeout=120)
    assert running.returncode == 0 and "4 of 4 executions are finished" in output, output
    assert len(list(place.glob("short-*.pid"))) >= 5  # one of them was cut short


def test_a_lost_scheduler_is_reported_and_the_rest_is_done_elsewhere(grid, cluster, place, tmp_path):
    address, scheduler, _ = cluster
    asked = grid("ok", "wait")
    running = busi(asked, tmp_path, "--scheduler", address)
    until(lambda: list(place.glob("wait-*.pid")) and list((tmp_path / "out").glob("77-*")))
    scheduler.kill()
    output, _ = running.communicate(timeout=120)
    assert running.returncode == 1 and "the scheduler was lost" in output and "1 of 2" in output, output
    until(lambda: not alive(place), 30)
    again = busi(asked, tmp_path)
    assert "2 of 2 executions are finished" in again.communicate(timeout=120)[0]
    assert len(list(place.glob("ok-*.pid"))) == 1


SCRIPT = """
#SBATCH -J busi-sweep
#SBATCH -p short
#SBATCH -A lab
#SBATCH -n 1
#SBATCH --cpus-per-task=8
#SBATCH --mem=30G
#SBATCH -t 02:00:00
#SBATCH --gres=gpu:1
"""


def test_the_slurm_script_asks_for_what_the_grid_says(grid, tmp_path):
    asked = {"queue": "short", "account": "lab", "gpus": 1, "cores": 8, "memory": "32GB", "time": "02:00:00"}
    script = sweep.job_script(grid("ok", slurm=asked | {"prologue": "module load python"}))
    lines = script.splitlines()
    assert [line for line in lines if line.startswith("#SBATCH")] == SCRIPT.strip().splitlines()
    assert "module load python" in lines and lines[0] == "#!/usr/bin/env bash"
    command = lines[-1] if lines[-1] else lines[-2]
    assert "--nthreads 1 " in command and command.endswith("--memory-limit 0")  # one execution; kernels are not seen
    assert "--gres" not in sweep.job_script(grid("ok"))


def test_a_dry_run_shows_the_grid_and_the_script(grid, tmp_path, capsys):
    file = tmp_path / "grid.yaml"
    file.write_text(json.dumps(grid("ok", "raise", slurm={"queue": "short"})), encoding="utf-8")
    assert cli.main(["sweep", str(file), "--out", str(tmp_path / "out"), "--dry-run", "--slurm"]) == 0
    out = capsys.readouterr().out
    assert "MODE='raise'" in out and "2 executions, 0 of them finished" in out and "#SBATCH -p short" in out
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert cli.main(["sweep", str(file), "--out", str(tmp_path / "out"), "--slurm"]) == 1
    assert "There is no sbatch here" in capsys.readouterr().err


GPUS = "GPU 0: NVIDIA H100 (UUID: GPU-aa-1)\nGPU 1: NVIDIA H100 (UUID: GPU-bb-2)\n"


def test_one_run_a_gpu(tmp_path, monkeypatch):
    """With a made-up nvidia-smi: each execution takes a GPU that no other has, and a third one waits."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{GPUS}'\n".replace("\nGPU", "\\nGPU").replace(")\n'", ")\\n'"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert sweep.gpus() == ["GPU-aa-1", "GPU-bb-2"]
    plan = sweep.Plan("77-x", "", {}, str(tmp_path))
    with sweep.one_gpu(plan) as first, sweep.one_gpu(plan) as second:
        assert [one["CUDA_VISIBLE_DEVICES"] for one in (first, second)] == ["GPU-aa-1", "GPU-bb-2"]
        (tmp_path / sweep.STOP).touch()  # what ends the waiting of a third
        with pytest.raises(LessonError, match="the sweep was stopped"), sweep.one_gpu(plan):
            pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with sweep.one_gpu(plan) as only:
        assert only == {"CUDA_VISIBLE_DEVICES": "GPU-bb-2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with sweep.one_gpu(plan) as none:
        assert none == {}


def test_a_scheduler_that_is_not_there(grid, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "CONNECT", "1s")
    with pytest.raises(LessonError, match="No Dask scheduler answers at tcp://127.0.0.1:9"):
        sweep.sweep(grid("ok"), tmp_path / "out", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(LessonError, match="Choose one of a client, workers"):
        sweep.sweep(grid("ok"), tmp_path / "out", scheduler="tcp://127.0.0.1:9", workers=2)
