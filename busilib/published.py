"""The numbers that the two papers print, as data. Lesson 07 has the arithmetic that makes evidence of them.

A = Ningsih & Alamsyah 2023. B = Nikmah et al. 2024, doi 10.52465/joiser.v2i2.439. Matrices: rows true, columns
predicted, in the order benign, malignant, normal.
"""

import json
from importlib.resources import files

import pandas as pd

_TABLES = json.loads((files("busilib") / "tables" / "published.json").read_text(encoding="utf-8"))
# Paper A, Tables 1 and 2, in per cent: phase, part, accuracy, precision, recall, f1.
A_SCORES = pd.DataFrame(**_TABLES["A_SCORES"])
A_FILES = {"train": 663, "test": 117}
A_CONFUSION = [[63, 3, 0], [4, 27, 0], [0, 0, 20]]  # Figure 7 as its text describes it: 110 of 117

# Paper B, Table 3, as fractions: epoch, accuracy, val_accuracy.
B_EPOCHS = pd.DataFrame(**_TABLES["B_EPOCHS"])
B_FILES = {"train": 1138, "validation": 283, "test": 157}  # inferred from Table 3's fractions and 143 steps
B_CONFUSION = [[87, 2, 0], [8, 34, 0], [6, 0, 20]]  # Figure 6 as its text describes its 16 errors, of 89 / 42 / 26
# Paper B, Table 1: what its ImageDataGenerator was given.
B_AUGMENTATION = {"rotation_range": 20, "zoom_range": 0.2, "shear_range": 0.2, "fill_mode": "nearest"}

# The systems that both papers compare themselves with: A's Table 3 and introduction, B's section on related work. The
# accuracy is the printed one, in per cent; ``data`` is what the cited work measured it on.
COMPARISON = pd.DataFrame(**_TABLES["COMPARISON"])
# What A's introduction cites besides, with the accuracy that it gives: named, not run again.
A_CITED = pd.DataFrame(**_TABLES["A_CITED"])

# Our reading of what each paper reports of CLAIM's 42 items (Mongan, Moy & Kahn 2020, doi 10.1148/ryai.2020200029;
# updated 2024, doi 10.1148/ryai.240300): "reported", "partly", "not reported" or "not applicable", and where.
CLAIM = pd.DataFrame(**_TABLES["CLAIM"]).set_index("item")
