"""What starts inside the box: takes its limits and becomes an IPython kernel.

``python -m busitools.kernel LIMITS CONNECTION_FILE``; LIMITS is JSON, {"RLIMIT_AS": 1000, …}.
"""

import json
import os
import sys


def main(limits, connection):
    """Take the limits (where the system knows them), then serve cells until killed."""
    try:
        import resource
    except ImportError:  # Windows has none
        resource = None
    for name, value in json.loads(limits).items():
        if hasattr(resource, name):
            _, hard = resource.getrlimit(getattr(resource, name))
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(getattr(resource, name), (value, value))
    os.chdir(os.path.dirname(connection))
    from ipykernel.kernelapp import IPKernelApp

    # No history file: the folder is thrown away.
    IPKernelApp.launch_instance(["-f", connection, "--HistoryManager.enabled=False", "--IPKernelApp.log_level=ERROR"])


if __name__ == "__main__":
    main(*sys.argv[1:])
