"""Every comparator on the real BUSI, grouped and stratified 5-fold: the table of lesson 09.

    python benchmarks/comparators.py BUSI_FOLDER OUT --resnet50 FILE --mobilenet FILE [--systems svm lenet] [--folds 5]
    python benchmarks/comparators.py BUSI_FOLDER OUT --store      # writes busilib/results/tables/comparators.json

Each system and fold runs in a process of its own, so that its memory is its own, and leaves a run folder in OUT (the
model itself is deleted). It can be stopped and started again: a finished run is not repeated. Features of frozen
bases are computed anew in each fold, so that their time counts. Without --mobilenet, BCDNet and Inception-ResNet-v2
stand on the bases that were published (VGG16, Inception-ResNet-v2) and their ImageNet weights are downloaded.
"""

import argparse
import multiprocessing
import os
import shutil
from pathlib import Path

import pandas as pd

# Smaller than the profile "full", so that the whole table takes less than an hour of CPU time.
SETTINGS = {
    "svm": {"image_size": 128},
    "bcdnet": {"image_size": 128},
    "inception": {"image_size": 128},
    "capsule": {"image_size": 64, "epochs": 40, "patience": 10},
    "enas": {"image_size": 64, "epochs": 40, "patience": 10},
    "lenet": {"image_size": 64, "epochs": 40, "patience": 10},
    "ensemble": {"image_size": 64, "epochs": 25, "patience": 8},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("busi")
    parser.add_argument("out", type=Path)
    parser.add_argument("--resnet50", default="imagenet", help="weights of ResNet50: a file (default: ImageNet's)")
    parser.add_argument("--mobilenet", help="take MobileNetV2 with this file where VGG16 and others were published")
    parser.add_argument("--systems", nargs="*", default=[])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--store", action="store_true", help="write the table of the finished runs")
    options = parser.parse_args()
    os.environ.setdefault("BUSILIB_CACHE", str(options.out / "cache"))

    from busilib.data import catalogue
    from busilib.learning import comparators

    scans = catalogue.read(options.busi, name="busi")
    if options.store:
        return store(options, scans)
    for fold in range(options.folds):
        for name in options.systems or comparators.SYSTEMS:
            if find(options.out, name, fold):
                continue
            # "spawn": a new interpreter, with nothing left over from the last system.
            process = multiprocessing.get_context("spawn").Process(target=one, args=(name, fold, scans, options))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{name}, fold {fold + 1}: stopped with exit code {process.exitcode}")


def find(out, name, fold):
    """Return the folder of a finished run, or None."""
    found = sorted((out / f"fold{fold + 1}").glob(f"{name}-*/run.json"))
    return found[0].parent if found else None


def one(name, fold, scans, options):
    """Fit and test one system on one fold."""
    from busilib.cache import cache_dir
    from busilib.data import splits
    from busilib.learning import comparators

    shutil.rmtree(cache_dir("features"))
    changes, weights = dict(SETTINGS.get(name, {})), "imagenet"
    if name == "svm":
        weights = options.resnet50
    elif name in ("bcdnet", "inception") and options.mobilenet:
        changes["backbone"], weights = "MobileNetV2", options.mobilenet
    system = comparators.get(name, "full", **changes)
    split = splits.clean(scans, fold, options.folds, seed=0)
    place = options.out / f"fold{fold + 1}"
    run = comparators.run(system, scans, split, weights=weights, profile="full", seed=0, runs=place)
    for file in run.folder.glob("model.*"):
        file.unlink()
    print(f"{name}, fold {fold + 1}: {run.summary()['accuracy']:.3f}, {run.info['fit_cpu_seconds']} CPU s", flush=True)


def store(options, scans):
    """Put the finished runs of all folds into one table, and keep it in the package."""
    from busilib import comparison, metrics, runs, stored
    from busilib.learning import comparators

    found = {
        name: [runs.open_run(find(options.out, name, fold)) for fold in range(options.folds)]
        for name in options.systems or comparators.SYSTEMS
    }
    groups = scans.table.set_index("image_id")["group"]
    pooled = comparison.pool(found)
    scores = comparison.scores(pooled, groups)
    best = next(name for name in scores.index if name != "shape")  # it sees masks, not scans
    gaps = comparison.differences(pooled, groups, best)
    rows = []
    for name, score in scores.join(gaps).iterrows():
        info, costs = found[name][0].info, pd.DataFrame([run.info for run in found[name]])
        truth, said = pooled[name]["truth"], pooled[name]["predicted"]
        rows.append(
            {"system": name, "title": info["recipe"]["title"], "input": comparators.SYSTEMS[name].reads}
            | score.to_dict()
            | {
                "fold_accuracy": [round(run.summary()["accuracy"], 4) for run in found[name]],
                "confusion": metrics.confusion_matrix(truth, said).tolist(),
                "image_size": info["recipe"]["image_size"],
                "backbone": info["recipe"].get("backbone", ""),
                "weights": info["weights"]["sentence"],
                "settings": {k: v for k, v in info["recipe"].items() if k not in ("name", "title")},
                "parameters": int(costs["parameters"].mean()),
                "parameters_trained": int(costs["parameters_trained"].mean()),
                "cpu_seconds": round(costs["fit_cpu_seconds"].mean(), 1),
                "memory_mb": round(costs["fit_memory_mb"].max()),
            }
        )
    table = pd.DataFrame(rows)
    about = {
        "dataset": scans.name,
        "dataset_sha256": scans.sha256,
        "protocol": f"clean: grouped, stratified {options.folds}-fold; the train part trains, validation only chooses",
        "seed": 0,
        "best": best,
        "intervals": "95 %, bootstrap over groups of near-identical scans, 500 draws, all folds' test parts together",
        "cpu_seconds": "CPU time of fitting, features of the base included, all threads, mean of the folds",
        "memory_mb": "rise of the process's resident memory while fitting, sampled 50 times a second, highest fold; "
        "own process, after loading the framework and the images",
        "script": "benchmarks/comparators.py",
    }
    print(stored.write_table("comparators", table, about))
    print(table.drop(columns=["settings", "confusion", "weights", "fold_accuracy"]).to_string())


if __name__ == "__main__":
    main()
