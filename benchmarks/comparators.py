"""Every comparator on the real BUSI, grouped and stratified 5-fold: the table of lesson 09.

    python benchmarks/comparators.py BUSI_FOLDER OUT --resnet50 FILE --mobilenet FILE [--systems svm lenet] [--folds 5]
    python benchmarks/comparators.py BUSI_FOLDER OUT --store      # writes busilib/results/tables/comparators.json

Each system and fold runs in a process of its own, so that its CPU time and memory are its own, and leaves a run folder
in OUT (the model itself is deleted). It can be stopped and started again: a finished run is not repeated. Features of
frozen bases are computed anew in each fold, so that their time counts. Without --mobilenet, BCDNet and
Inception-ResNet-v2 stand on the bases that were published, whose ImageNet weights are downloaded.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd

# Smaller than the profile "full", so that the whole table takes less than an hour of CPU time.
NETWORK = {"image_size": 64, "epochs": 40, "patience": 10}
SETTINGS = {
    **dict.fromkeys(("svm", "bcdnet", "inception"), {"image_size": 128}),
    **dict.fromkeys(("capsule", "enas", "lenet"), NETWORK),
    "ensemble": {"image_size": 64, "epochs": 25, "patience": 8},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("busi")
    parser.add_argument("out", type=Path)
    parser.add_argument("--resnet50", default="imagenet", help="weights of ResNet50: a file (default: ImageNet's)")
    parser.add_argument("--mobilenet", help="take MobileNetV2 with this file where VGG16 and others were published")
    parser.add_argument("--systems", nargs="*")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--store", action="store_true", help="write the table of the finished runs")
    options = parser.parse_args()
    os.environ.setdefault("BUSILIB_CACHE", str(options.out / "cache"))

    from busilib.data import catalogue
    from busilib.learning import comparators

    scans = catalogue.read(options.busi, name="busi")
    options.systems = options.systems or list(comparators.SYSTEMS)
    if options.store:
        return store(scans, options)
    # "spawn" and one task per child: a new interpreter each time, with nothing left over from the last system.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        jobs = [(name, fold) for fold in range(options.folds) for name in options.systems]
        for job in [pool.submit(one, *job, scans, options) for job in jobs if not costs_file(*job, options).exists()]:
            print(job.result(), flush=True)


def costs_file(name, fold, options):
    """Return the file that says what a finished run cost and where it is; it is written last."""
    return options.out / f"fold{fold + 1}" / f"{name}.json"


def one(name, fold, scans, options):
    """Fit and test one system on one fold, and write what it cost; return a line to print."""
    from busilib import runs
    from busilib.cache import cache_dir
    from busilib.data import splits
    from busilib.learning import comparators

    shutil.rmtree(cache_dir("features"))
    changes, weights = dict(SETTINGS.get(name, {})), options.resnet50 if name == "svm" else "imagenet"
    if name in ("bcdnet", "inception") and options.mobilenet:
        changes["backbone"], weights = "MobileNetV2", options.mobilenet
    split, file = splits.clean(scans, fold, options.folds, seed=0), costs_file(name, fold, options)
    before = resource.getrusage(resource.RUSAGE_SELF)
    system = comparators.get(name, "full", **changes)
    weights = comparators.find_weights(system, weights, scans.kind, "full")
    run = runs.find_or_train(system, scans, split, weights=weights, runs=file.parent)
    after = resource.getrusage(resource.RUSAGE_SELF)
    for model in run.folder.glob("model.*"):
        model.unlink()
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    megabytes = after.ru_maxrss * 1024 / 1e6  # Linux counts in KiB
    file.write_text(json.dumps({"run": run.name, "cpu_seconds": seconds, "memory_mb": megabytes}))
    return f"{name}, fold {fold + 1}: {run.summary()['accuracy']:.3f}, {seconds:.1f} CPU s"


def store(scans, options):
    """Put the finished runs of all folds into one table, and keep it in the package."""
    import store as tables

    from busilib import metrics, runs, studies
    from busilib.learning import comparators

    folds, costs = {}, {}
    for name in options.systems:
        files = [costs_file(name, fold, options) for fold in range(options.folds)]
        costs[name] = pd.DataFrame([json.loads(file.read_text()) for file in files])
        folds[name] = [runs.open_run(file.parent / run) for file, run in zip(files, costs[name]["run"], strict=True)]
    pooled, groups = studies.pool(folds), scans.table.set_index("image_id")["group"]
    scores = studies.scores(pooled, groups)
    best = next(name for name in scores.index if name != "shape")  # it sees masks, not scans
    rows = []
    for name, score in scores.join(studies.differences(pooled, groups, best)).iterrows():
        info, settings = folds[name][0].info, dict(folds[name][0].info["recipe"])
        row = {"system": settings.pop("name"), "title": settings.pop("title"), "input": comparators.SYSTEMS[name].reads}
        row |= score.to_dict() | {"fold_accuracy": [round(run.summary()["accuracy"], 4) for run in folds[name]]}
        row["confusion"] = metrics.confusion_matrix(pooled[name]["truth"], pooled[name]["predicted"]).tolist()
        row |= {"backbone": settings.get("backbone", ""), "weights": info["weights"]["sentence"], "settings": settings}
        row |= {"cpu_seconds": round(costs[name]["cpu_seconds"].mean(), 1)}
        rows.append(row | {"memory_mb": round(costs[name]["memory_mb"].max())})
    about = {
        "dataset": scans.name,
        "dataset_sha256": scans.sha256,
        "protocol": f"clean: grouped, stratified {options.folds}-fold; the train set trains, validation only chooses",
        "seed": 0,
        "best": best,
        "intervals": "95 %, bootstrap over groups of near-identical scans, 500 draws, all folds' test sets together",
        "cpu_seconds": "CPU time of reading, fitting and testing, all threads, mean of the folds",
        "memory_mb": "highest resident memory of a process of its own, framework included, highest fold",
        "script": "benchmarks/comparators.py",
    }
    print(tables.write_table("comparators", pd.DataFrame(rows), about), tables.comparators(), sep="\n")


if __name__ == "__main__":
    main()
