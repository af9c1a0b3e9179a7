"""The numbers that the two papers print, as data.

A = Ningsih & Alamsyah 2023. B = Nikmah et al. 2024, doi 10.52465/joiser.v2i2.439. Matrices: rows true, columns
predicted, in the order benign, malignant, normal.
"""

import pandas as pd

# Paper A, Tables 1 and 2, in per cent.
A_SCORES = pd.DataFrame(
    [
        ("phase 1, frozen", "train", 96.07, 96.11, 96.07, 96.03),
        ("phase 1, frozen", "test", 93.16, 93.11, 93.16, 93.09),
        ("phase 2, fine-tuned", "train", 96.53, 96.56, 96.53, 96.49),
        ("phase 2, fine-tuned", "test", 96.58, 96.59, 96.58, 96.54),
    ],
    columns=["phase", "part", "accuracy", "precision", "recall", "f1"],
)
A_FILES = {"train": 663, "test": 117}
A_CONFUSION = [[63, 3, 0], [4, 27, 0], [0, 0, 20]]  # Figure 7 as its text describes it: 110 of 117

# Paper B, Table 3: fractions.
B_EPOCHS = pd.DataFrame(
    {
        "epoch": range(1, 11),
        "accuracy": [0.8620, 0.8524, 0.8620, 0.8972, 0.8972, 0.8032, 0.8049, 0.8462, 0.8787, 0.8928],
        "val_accuracy": [0.7809, 0.7951, 0.8269, 0.8481, 0.8799, 0.4417, 0.8481, 0.7350, 0.8339, 0.8975],
    }
)
B_FILES = {"train": 1138, "validation": 283, "test": 157}  # inferred from Table 3's fractions and 143 steps
B_TEST_ACCURACY = 90.0  # per cent, as the text rounds it
B_CONFUSION = [[87, 2, 0], [8, 34, 0], [6, 0, 20]]  # Figure 6 as its text describes its 16 errors, of 89 / 42 / 26
# Paper B, Table 1: what its ImageDataGenerator was given.
B_AUGMENTATION = {"rotation_range": 20, "zoom_range": 0.2, "shear_range": 0.2, "fill_mode": "nearest"}
