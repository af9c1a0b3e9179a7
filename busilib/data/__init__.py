"""Data sets: ``load(dataset, profile, seed)`` gives the catalogue of one."""

from pathlib import Path

from busilib import recipes
from busilib.errors import DataError


def load(dataset="phantom", profile="quick", seed=0, needs=None):
    """Return the Catalogue of a data set, without the classes that are too small: see `catalogue.large_enough`.

    ``dataset`` is "phantom" (made-up scans, made on first use; ``profile`` says how many, ``seed`` which), "busi"
    (in data/, else in the user's cache; ``busi data get`` fetches it), or a folder in the BUSI layout. ``needs`` is a
    class that a lesson cannot do without. Raises DataError when there is no data, or not what is needed.
    """
    from busilib.data import catalogue, fetch, phantom

    count = recipes.profile_values(profile)["phantoms"]
    if dataset == "phantom":
        return catalogue.read(phantom.cached(count, seed))
    folder = fetch.find() if dataset == "busi" else Path(dataset).expanduser()
    if folder is None:
        raise DataError(f"BUSI is not here. Fetch it with `busi data get`, or {fetch.OTHER_WAYS}")
    scans = catalogue.large_enough(catalogue.read(folder, name="busi" if dataset == "busi" else None))
    if needs and needs not in scans.classes:
        raise DataError(f"{scans.name} has no {needs} scans that can be used, and this lesson is about them.")
    return scans
