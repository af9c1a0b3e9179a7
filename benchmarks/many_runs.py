"""What a sweep costs beyond the work itself, what a second worker gains, and how fast a thousand runs are read.

    python benchmarks/many_runs.py [--runs 12] [--trees 150] [--only overhead workers cluster collect]

* overhead: an empty notebook through plain papermill and through a sweep with one worker, seconds an execution.
* workers: RUNS executions that each train a random forest in one thread, with 1 and with 2 workers.
* cluster: the same on a scheduler and two workers as separate processes on loopback, one worker killed with -9 in the
  middle; how many are finished, and how often one was begun.
* collect: 1 000 recorded runs read into one table, written as Parquet and CSV.

Last results stand in benchmarks/many_runs.md.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
from distributed import Client

from busilib import metrics, recipes, runs
from busitools import notebooks, sweep

FOREST = """
import os, pathlib, uuid
pathlib.Path(PLACE, f"{SEED}-{uuid.uuid4().hex}").touch()
import numpy as np
from sklearn.ensemble import RandomForestClassifier
rng = np.random.default_rng(SEED)
x, y = rng.normal(size=(2000, 100)), rng.integers(3, size=2000)
RandomForestClassifier(TREES, n_jobs=1, random_state=SEED).fit(x, y)
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--trees", type=int, default=150)
    parser.add_argument("--only", nargs="*", default=["overhead", "workers", "cluster", "collect"])
    options = parser.parse_args()
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            globals()[name](Path(folder), options)


def notebook(folder, code):
    parameters = 'SEED = 0\nTREES = 0\nPLACE = ""'
    cells = [
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(code),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "77_bench.ipynb")
    return folder / "77_bench.ipynb"


def timed(grid, out, **where):
    """Do a sweep on a client that is ready, and return (seconds, executions)."""
    began = time.perf_counter()
    done = sweep.sweep(grid, out, **where)
    return time.perf_counter() - began, done


def overhead(folder, options):
    import papermill

    lesson, times = notebook(folder, "1 + 1"), []
    for seed in range(options.runs):
        began = time.perf_counter()
        papermill.execute_notebook(
            str(lesson), str(folder / "out.ipynb"), {"SEED": seed}, progress_bar=False, kernel_name="python3",
            config=notebooks.kernel_config(),
        )  # fmt: skip
        times.append(time.perf_counter() - began)
    with sweep.local_cluster(1) as cluster, Client(cluster) as client:
        grid = {"lessons": [str(lesson)], "seeds": list(range(options.runs))}
        seconds, _ = timed(grid, folder / "sweep", client=client)
    plain, ours = np.median(times), seconds / options.runs
    print(f"overhead: papermill {plain:.2f} s, sweep {ours:.2f} s an empty execution (ratio {ours / plain:.2f})")


def forests(folder, options):
    place = folder / "place"
    place.mkdir(exist_ok=True)
    parameters = {"TREES": options.trees, "PLACE": str(place)}
    return place, {
        "lessons": [str(notebook(folder, FOREST))],
        "parameters": parameters,
        "seeds": list(range(options.runs)),
    }


def workers(folder, options):
    _, grid = forests(folder, options)
    found = {}
    for number in (1, 2):
        with sweep.local_cluster(number) as cluster, Client(cluster) as client:
            found[number], done = timed(grid, folder / f"sweep-{number}", client=client)
        each = np.median([item.seconds for item in done])
        print(f"workers: {options.runs} runs with {number}: {found[number]:.1f} s, {each:.1f} s each")
    print(f"workers: ratio {found[1] / found[2]:.2f}")


def cluster(folder, options):
    place, grid = forests(folder, options)
    file, processes = folder / "scheduler.json", []

    def start(program, *more):
        command = [sys.executable, "-m", f"distributed.cli.{program}", "--scheduler-file", str(file), "--no-dashboard"]
        processes.append(subprocess.Popen([*command, *more], stderr=subprocess.DEVNULL))

    start("dask_scheduler", "--host", "127.0.0.1", "--port", "0")
    while not file.exists():
        time.sleep(0.1)
    for _ in range(2):
        start("dask_worker", "--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--local-directory", str(folder))
    try:
        with Client(json.loads(file.read_text())["address"]) as client:
            client.wait_for_workers(2)

            def kill():
                while len(list((folder / "sweep").glob("77-*"))) < options.runs // 2:
                    time.sleep(0.1)
                processes[1].kill()

            threading.Thread(target=kill, daemon=True).start()
            seconds, done = timed(grid, folder / "sweep", client=client)
        finished = sum(item.error is None for item in done)
        begun = len(list(place.iterdir()))
        print(
            f"cluster: {finished} of {options.runs} finished in {seconds:.1f} s, {begun} begun, 1 of 2 workers killed"
        )
    finally:
        for process in processes:
            process.kill()


def collect(folder, options):
    recipe = recipes.get("A-frozen", "full", "clean")
    summaries = [metrics.summary([[40 + right, 26 - right, 0], [4, 27, 0], [0, 0, 20]]) for right in range(20)]
    for number in range(1000):
        run = folder / f"A-frozen-{number:04d}"
        run.mkdir()
        scores = {part: summaries[(number + i) % 20] for i, part in enumerate(("test", "train", "validation"))}
        split = {"name": f"clean, fold {number % 5 + 1} of 5", "files": {"train": 373}}
        info = {
            "recipe": recipe.as_dict(), "seed": number, "declared": [], "scores": scores, "backend": "tensorflow",
            "dataset": {"name": "busi"}, "split": split,
            "weights": {"kind": "none"}, "device": "CPU", "seconds": 60.0, "date": "2026-11-24",
        }  # fmt: skip
        (run / "run.json").write_text(json.dumps(info))
    began, cpu = time.perf_counter(), time.process_time()
    table = runs.collect(folder)
    read = time.perf_counter() - began
    runs.write_table(table, folder)
    both, cpu = time.perf_counter() - began, time.process_time() - cpu
    again = pd.read_parquet(folder / "runs.parquet")
    print(f"collect: {len(again)} runs read in {read:.2f} s, written after {both:.2f} s ({cpu:.2f} s of CPU)")


if __name__ == "__main__":
    os.environ["BUSILIB_PROGRESS"] = "0"
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    main()
