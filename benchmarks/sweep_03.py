"""Six seeds of paper A's frozen ResNet50 on the real BUSI, under two protocols, with two preprocessings: 24 runs.

    busi sweep GRID.yaml --workers 2 --out FOLDER     # the grid is printed by: python benchmarks/sweep_03.py --grid
    python benchmarks/sweep_03.py FOLDER              # stores busilib/results/tables/sweep-03.json

Phase 2 runs with a frozen base (UNFREEZE: none) and is left out of the table. Hours on a CPU with 2 cores.
"""

import json
import sys

from store import write_table

from busilib import runs

GRID = """lessons: ["03"]
parameters:
  DATASET: busi                # or your folder
  WEIGHTS: auto                # or a file
  PROFILE: full
  UNFREEZE: none
  PROTOCOL: [paper, clean]
  PREPROCESSING: [rescale, own]
seeds: [0, 1, 2, 3, 4, 5]
minutes: 60
"""
COLUMNS = [
    *("dataset_sha256", "split_sha256", "protocol", "preprocessing", "seed", "fold", "train", "test"),
    *("validation_is_test", "validation_accuracy"),
    *("test_accuracy", "test_accuracy_low", "test_accuracy_high", "test_macro_f1", "test_majority", "seconds"),
]


def main(folder):
    table = runs.collect(folder)
    frozen = table[table["name"] == "A-frozen"].sort_values(["protocol", "preprocessing", "seed"], ignore_index=True)
    measures = ["test_accuracy", "validation_accuracy", "test_macro_f1"]
    means = runs.means(frozen, measures, by=["protocol", "preprocessing"]).round(4)
    sentences = {runs.open_run(file.parent).info["weights"]["sentence"] for file in runs.files(folder, "run.json")}
    about = {
        "data": ", ".join(sorted(frozen["dataset"].unique())),
        "recipe": "A-frozen, full profile: lesson 03, phase 1; a seed draws the split as well",
        "weights": " ".join(sorted(sentences)),
        "script": "benchmarks/sweep_03.py",
        "runs": len(frozen),
        "runs_planned": 24,
        "means": json.loads(means.to_json(orient="records")),
    }
    print(means.to_string(index=False))
    print(write_table("sweep-03", frozen[COLUMNS].round(4), about))


if __name__ == "__main__":
    print(GRID) if sys.argv[1:] == ["--grid"] else main(sys.argv[1])
