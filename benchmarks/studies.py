"""The studies of lessons 07 and 08 on the real BUSI, many seeds; with --store their tables go into busilib/results.

    python benchmarks/studies.py leaks  BUSI --backbone ResNet50 --weights FILE [--seeds 5] [--store]
    python benchmarks/studies.py inputs BUSI …      scans against masks on paper A's split
    python benchmarks/studies.py clean  BUSI …      the clean protocol, 5 folds a seed
    python benchmarks/studies.py masks  BUSI        the forest on masks alone, and 150 other splits
    python benchmarks/studies.py picture            docs/images/leaks.png from the stored tables

Prints each seed's table. What is finished is found again in the user's cache.
"""

import argparse
from pathlib import Path

import pandas as pd

from busilib import figures, recipes, stored, studies
from busilib.data import catalogue


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("study", choices=("leaks", "inputs", "clean", "masks", "picture"))
    parser.add_argument("folder", nargs="?", help="of the real BUSI")
    parser.add_argument("--backbone", default="ResNet50")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--preprocessing")
    parser.add_argument("--class-weight")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--store", action="store_true")
    options = parser.parse_args()
    if options.study == "picture":
        return picture()
    if not options.folder:
        parser.error("name the folder of the real BUSI")
    scans = catalogue.read(options.folder, name="busi")
    (masks_alone if options.study == "masks" else on_heads)(scans, options)


def masks_alone(scans, options):
    from busilib import masks_alone

    about = {"dataset": {"name": scans.name, "sha256": scans.sha256}}
    for name, make in (("masks-alone", masks_alone.variants), ("masks-alone-splits", masks_alone.other_splits)):
        keep(name, make(scans), about, options.store)


def on_heads(scans, options):
    from busilib.learning import heads, models

    protocol = "clean" if options.study == "clean" else "paper"
    recipe = recipes.get("A-frozen", "full", protocol, backbone=options.backbone, preprocessing=options.preprocessing)
    weights = models.find_weights(options.weights, options.backbone, "busi", "full")
    base, seeds, tables = heads.Heads(recipe, weights), range(options.seeds), []
    for seed in seeds:
        if options.study == "leaks":
            tables.append(studies.leaks_of(base, scans, seed))
        elif options.study == "inputs":
            tables.append(studies.scans_or_masks(base, scans, seed))
        else:
            tables.append(studies.clean(base, scans, seed, class_weight=options.class_weight))
        print(tables[-1].round(3).head(8).to_string(), flush=True)
    extra = [options.preprocessing, options.class_weight and "weighted"]
    name = "-".join([options.study, options.backbone, *filter(None, extra)])
    keep(name, pd.concat(tables, ignore_index=True), studies.about(base, scans, weights, seeds), options.store)


def picture():
    tables = {
        f"BUSI, {name}": studies.worth(stored.table(f"leaks-{name}")).set_index("what")
        for name in ("ResNet50", "MobileNetV2")
    }
    figures.worth(tables).save(Path(__file__).parents[1] / "docs" / "images" / "leaks.png")


def keep(name, table, about, store):
    print(name, "has", len(table), "rows")
    if store:
        print(stored.write_table(name, table, about))


if __name__ == "__main__":
    main()
