"""Every comparator on the real BUSI, grouped and stratified 5-fold: the table of lesson 09.

    python benchmarks/comparators.py BUSI_FOLDER OUT --resnet50 FILE --mobilenet FILE
    python benchmarks/comparators.py BUSI_FOLDER OUT --store      # writes busilib/results/tables/comparators.json

Each system and fold runs in a process of its own, so that its CPU time and memory are its own, and leaves a run folder
in OUT (the model itself is deleted). It can be stopped and started again: a finished run is not repeated. Features of
frozen bases are computed anew in each fold, so that their time counts. Without --mobilenet, BCDNet and
Inception-ResNet-v2 stand on the bases that were published, whose ImageNet weights are downloaded.
"""

import argparse
import json
import os
import resource
import shutil
import time
from pathlib import Path

import pandas as pd
import store
import yaml
from rows import apart

from busilib import metrics, runs, studies
from busilib.cache import cache_dir
from busilib.data import catalogue, splits

FOLDS = 5
FIXED = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("busi")
    parser.add_argument("out", type=Path)
    parser.add_argument("--resnet50", default="imagenet", help="weights of ResNet50: a file (default: ImageNet's)")
    parser.add_argument("--mobilenet", help="take MobileNetV2 with this file where VGG16 and others were published")
    parser.add_argument("--store", action="store_true", help="write the table of the finished runs")
    options = parser.parse_args()
    os.environ.setdefault("BUSILIB_CACHE", str(options.out / "cache"))

    from busilib.learning import comparators

    scans = catalogue.read(options.busi, name="busi")
    if options.store:
        return keep(scans, options.out, comparators.SYSTEMS)
    for fold in range(FOLDS):
        for name in comparators.SYSTEMS:
            if not costs_file(options.out, name, fold).exists():
                print(f"{name}, fold {fold + 1}: {apart(one, name, fold, scans, options):.3f}", flush=True)


def costs_file(out, name, fold):
    """Return the file that says what a finished run cost and where it is; it is written last."""
    return out / f"fold{fold + 1}" / f"{name}.json"


def one(name, fold, scans, options):
    """Fit and test one system on one fold, write what it cost, and return the accuracy."""
    from busilib.learning import comparators

    shutil.rmtree(cache_dir("features"))
    changes, weights = dict(FIXED["settings"].get(name, {})), options.resnet50 if name == "svm" else "imagenet"
    if name in ("bcdnet", "inception") and options.mobilenet:
        changes["backbone"], weights = "MobileNetV2", options.mobilenet
    split, file = splits.clean(scans, fold, FOLDS, seed=0), costs_file(options.out, name, fold)
    before, system = time.process_time(), comparators.get(name, "full", **changes)
    weights = comparators.find_weights(system, weights, scans.kind, "full")
    run = runs.find_or_train(system, scans, split, weights=weights, runs=file.parent)
    seconds, kibibytes = time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # on Linux
    for model in run.folder.glob("model.*"):
        model.unlink()
    file.write_text(json.dumps({"run": run.name, "cpu_seconds": seconds, "memory_mb": kibibytes * 1024 / 1e6}))
    return run.summary()["accuracy"]


def keep(scans, out, systems):
    """Put the finished runs of all folds into one table, and keep it in the package."""
    folds, costs = {}, {}
    for name in systems:
        files = [costs_file(out, name, fold) for fold in range(FOLDS)]
        costs[name] = pd.DataFrame([json.loads(file.read_text()) for file in files])
        folds[name] = [runs.open_run(file.parent / run) for file, run in zip(files, costs[name]["run"], strict=True)]
    pooled, groups = studies.pool(folds), scans.table.set_index("image_id")["group"]
    scores = studies.scores(pooled, groups)
    best = next(name for name in scores.index if name != "shape")  # it sees masks, not scans
    rows = []
    for name, score in scores.join(studies.differences(pooled, groups, best)).iterrows():
        info, settings = folds[name][0].info, dict(folds[name][0].info["recipe"])
        row = {"system": settings.pop("name"), "title": settings.pop("title"), "input": systems[name].reads}
        row |= score.to_dict() | {"fold_accuracy": [round(run.summary()["accuracy"], 4) for run in folds[name]]}
        row["confusion"] = metrics.confusion_matrix(pooled[name]["truth"], pooled[name]["predicted"]).tolist()
        row |= {"backbone": settings.get("backbone", ""), "weights": info["weights"]["sentence"], "settings": settings}
        row |= {"cpu_seconds": round(costs[name]["cpu_seconds"].mean(), 1)}
        rows.append(row | {"memory_mb": round(costs[name]["memory_mb"].max())})
    about = {"dataset": scans.name, "dataset_sha256": scans.sha256, "best": best} | FIXED["about"]
    print(store.write_table("comparators", pd.DataFrame(rows), about), store.comparators(), sep="\n")


if __name__ == "__main__":
    main()
