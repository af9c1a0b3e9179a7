"""Make the tables of facts about BUSI: ``python make_tables.py BUSI_FOLDER busi_groups.csv busi_image_sha256.csv``.

Run once by the maintainers; users need the two tables only. Sources and licences: README.md beside this file.
"""

import sys
from pathlib import Path

import pandas as pd

from busilib.data.folder import find_folder, read_files

# Near-identical scans that the published list has in different groups.
ALSO_LIKE = {
    "malignant (3)": "malignant (4)",
    "malignant (40)": "malignant (39)",
    "malignant (42)": "malignant (40)",
    "benign (435)": "benign (433)",
}


def make(folder, groups_csv, hashes_csv, target):
    """Write busi_images.csv and busi_masks.csv into the folder ``target``."""
    files, _ = read_files(find_folder(folder))
    files["name"] = [Path(path).stem for path in files.path]
    listed = pd.read_csv(groups_csv, keep_default_na=False).set_index("file")
    hashes = pd.read_csv(hashes_csv).set_index("file")
    images = files[~files.is_mask].rename(columns={"name": "image_id"}).reset_index(drop=True)
    png = images.image_id + ".png"
    images["file_sha256"] = hashes.sha256.loc[png].to_numpy()
    images["group"] = listed.group_id.loc[png].to_numpy()
    for column in ("objection", "annotation", "cross_class"):
        images[column] = listed[column].loc[png].to_numpy()
    images["also_like"] = images.image_id.map(ALSO_LIKE).fillna("")
    sizes = hashes.loc[png, ["width", "height"]].to_numpy()
    assert (sizes == images[["width", "height"]].to_numpy()).all(), "the sizes differ from the published list"
    columns = ["image_id", "label", "width", "height", "file_sha256", "pixel_sha256"]
    columns += ["group", "objection", "annotation", "cross_class", "also_like"]
    images[columns].to_csv(Path(target) / "busi_images.csv", index=False, lineterminator="\n")
    masks = files[files.is_mask].rename(columns={"name": "mask_id", "scan": "image_id"})
    masks[["mask_id", "image_id", "pixel_sha256"]].to_csv(
        Path(target) / "busi_masks.csv", index=False, lineterminator="\n"
    )


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    make(*sys.argv[1:], target=Path(__file__).parent)
