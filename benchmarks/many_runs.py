"""What a sweep costs beyond the work itself, what a second worker gains, and how fast a thousand runs are read.

    python benchmarks/many_runs.py [--runs 12] [--trees 150] [--only overhead workers killed collect]

* overhead: an empty notebook through plain papermill and through a sweep with one worker, seconds per execution.
* workers: RUNS executions that each train a random forest in one thread, with 1 and with 2 workers.
* killed: the same with 2 workers, one killed with -9 in the middle; how many are finished, how often one was begun.
* collect: 1 000 recorded runs read into one table, written as Parquet and CSV.

Last results stand in benchmarks/many_runs.md.
"""

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import numpy as np
import papermill
from distributed import Client

from busilib import metrics, recipes, runs
from busitools import sweep

FOREST = """
import pathlib, uuid
pathlib.Path(PLACE, uuid.uuid4().hex).touch()
import numpy as np
from sklearn.ensemble import RandomForestClassifier
x = np.random.default_rng(SEED).normal(size=(2000, 101))
RandomForestClassifier(TREES, n_jobs=1, random_state=SEED).fit(x[:, 1:], x[:, 0] // 1 % 3)
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--trees", type=int, default=150)
    parser.add_argument("--only", nargs="*", default=["overhead", "workers", "killed", "collect"])
    options = parser.parse_args()
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            globals()[name](Path(folder), options)


def make_grid(folder, code, options):
    """Return a grid of RUNS seeds of one notebook, whose code may leave a mark in FOLDER/marks."""
    cells = [nbformat.v4.new_code_cell(source) for source in ('SEED = 0\nTREES = 0\nPLACE = ""', code)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "77_bench.ipynb")
    (folder / "marks").mkdir()
    parameters = {"TREES": options.trees, "PLACE": str(folder / "marks"), "SEED": list(range(options.runs))}
    return {"lessons": [str(folder / "77_bench.ipynb")], "parameters": parameters}


def timed(grid, out, workers, meanwhile=lambda pids: None):
    """Return (seconds, executions) of a sweep on workers that run already; ``meanwhile`` gets their numbers."""
    with Client(n_workers=workers, threads_per_worker=1, silence_logs="CRITICAL") as client:
        threading.Thread(target=meanwhile, args=[list(client.run(os.getpid).values())], daemon=True).start()
        began = time.perf_counter()
        done = sweep.sweep(grid, out, executor=client.get_executor(), workers=workers)
        return time.perf_counter() - began, done


def overhead(folder, options):
    grid = make_grid(folder, "1 + 1", options)
    how, times = {"progress_bar": False, "kernel_name": "python3"}, []
    for seed in range(options.runs):
        began = time.perf_counter()
        papermill.execute_notebook(grid["lessons"][0], str(folder / "out.ipynb"), {"SEED": seed}, **how)
        times.append(time.perf_counter() - began)
    plain, ours = np.median(times), timed(grid, folder / "sweep", 1)[0] / options.runs
    print(f"overhead: papermill {plain:.2f} s, sweep {ours:.2f} s per empty execution (ratio {ours / plain:.2f})")


def workers(folder, options):
    grid = make_grid(folder, FOREST, options)
    seconds = {}
    for number in (1, 2):
        seconds[number], done = timed(grid, folder / f"sweep-{number}", number)
        each = np.median([one.seconds for one in done])
        print(f"workers: {options.runs} runs with {number}: {seconds[number]:.1f} s, {each:.1f} s each")
    print(f"workers: ratio {seconds[1] / seconds[2]:.2f}")


def killed(folder, options):
    grid = make_grid(folder, FOREST, options)

    def kill_one(pids):
        while len(list((folder / "sweep").glob("77-*"))) < options.runs // 2:
            time.sleep(0.1)
        os.kill(pids[0], signal.SIGKILL)

    seconds, done = timed(grid, folder / "sweep", 2, kill_one)
    finished, begun = sum(one.error is None for one in done), len(list((folder / "marks").iterdir()))
    print(f"killed: {finished} of {options.runs} finished in {seconds:.1f} s, {begun} begun, 1 of 2 workers killed")


def collect(folder, options):
    summary = metrics.summary([[50, 16, 0], [4, 27, 0], [0, 0, 20]])
    info = {
        "recipe": recipes.get("A-frozen", "full", "clean").as_dict(), "backend": "tensorflow",
        "dataset": {"name": "busi", "kind": "busi", "sha256": "0"},
        "split": {"name": "clean, fold 1 of 5", "protocol": "clean", "variant": "", "fold": 0, "sha256": "0",
                  "files": {"train": 373, "test": 137}, "declared": []},
        "scores": dict.fromkeys(("test", "train", "validation"), summary), "weights": {"kind": "none"},
        "device": "CPU", "seconds": 60.0, "date": "2026-11-24",
    }  # fmt: skip
    for number in range(1000):
        (folder / f"A-frozen-{number:04d}").mkdir()
        (folder / f"A-frozen-{number:04d}" / "run.json").write_text(json.dumps(info | {"seed": number}))
    began, cpu = time.perf_counter(), time.process_time()
    table = runs.collect(folder)
    read = time.perf_counter() - began
    table.to_parquet(folder / "runs.parquet")
    table.to_csv(folder / "runs.csv", index=False)
    both, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(f"collect: {len(table)} runs read in {read:.2f} s, written after {both:.2f} s ({cpu:.2f} s of CPU)")


if __name__ == "__main__":
    main()
