"""What `busi data check` says of a data set."""

import contextlib
import io
import json

import pandas as pd

from busilib.data.catalogue import FLAGS, large_enough
from busilib.errors import DataError


def summary(catalogue):
    """Return what is in a data set as a dict of plain values: counts and flags, sizes, groups, duplicates, warnings."""
    table = catalogue.table
    flags = pd.DataFrame({flag: [flag in row for row in table["flags"]] for flag in FLAGS}).groupby(table.label).sum()
    flags.loc["total"] = flags.sum()
    groups, counts = table.groupby("group"), catalogue.counts().join(flags).to_dict("index")
    contradictory = table[["contradictory" in row for row in table["flags"]]]
    mixed = contradictory.groupby("group").image_id.agg(list).tolist()
    sizes = table[["width", "height"]].agg(["min", "median", "max"]).to_dict()
    pairs = catalogue.pairs.round({"correlation": 3}).to_dict("records")
    data = catalogue.identity() | {"counts": counts, "pixels": sizes, "groups": groups.ngroups}
    data |= {"patients": table.patient[table.patient != ""].nunique()}
    warnings = list(catalogue.warnings)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as left_out:
            large_enough(catalogue)
        warnings += left_out.getvalue().splitlines()
    except DataError as refusal:
        warnings.append(f"The lessons refuse it: {refusal}")
    return data | {"near_duplicates": pairs, "contradictory": mixed, "warnings": warnings}


def report(catalogue, as_json=False):
    """Return what is in a data set as a text for people or, with ``as_json``, for programs."""
    data = summary(catalogue)
    if as_json:
        return json.dumps(data, indent=2)
    lines = [f"Data set {data['name']} (SHA-256 {data['sha256']})", pd.DataFrame(data["counts"]).T.to_string()]
    patients = f"patients: {data['patients'] or 'not named'}"
    lines.append(f"groups: {data['groups']}; {patients}; near-duplicate pairs: {len(data['near_duplicates'])}")
    lines += [f"contradictory labels: {', '.join(names)}" for names in data["contradictory"]]
    return "\n".join([*lines, *[f"warning: {sentence}" for sentence in data["warnings"]]])
