"""Natural order of names: "benign (2)" before "benign (10)"."""

import re


def natural_key(text):
    """Return a sort key that compares runs of digits as numbers: ``sorted(names, key=natural_key)``."""
    parts = re.split(r"(\d+)", str(text))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts]
