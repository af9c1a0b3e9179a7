"""Data sets: ``load(dataset, profile, seed)`` gives the catalogue of one."""

from pathlib import Path

from busilib import recipes


def load(dataset="phantom", profile="quick", seed=0):
    """Return the Catalogue of a data set.

    ``dataset`` is "phantom" (made-up scans, made on first use; ``profile`` says how many, ``seed`` which), "busi"
    (in data/, else in the user's cache; ``busi data get`` fetches it), or a folder in the BUSI layout.
    Raises DataError when there is none, and says what to do.
    """
    from busilib.data import catalogue, fetch, phantom
    from busilib.errors import DataError

    count = recipes.profile_values(profile)["phantoms"]
    if dataset == "phantom":
        return catalogue.read(phantom.cached(count, seed))
    if dataset == "busi":
        folder = fetch.find("busi")
        if folder is None:
            raise DataError(
                "BUSI is not here. Fetch it with `busi data get`; or name the folder that you have, "
                'DATASET="/path/to/Dataset_BUSI_with_GT"; or work on made-up scans, DATASET="phantom".'
            )
        return catalogue.read(folder, name="busi")
    folder = Path(dataset).expanduser()
    if not folder.is_dir():
        raise DataError(
            f'DATASET="{dataset}" is no folder. Choose "phantom", "busi", or a folder that holds benign/, malignant/ '
            "and normal/."
        )
    return catalogue.read(folder)
