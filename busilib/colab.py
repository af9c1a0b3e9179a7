"""Google Colab only: what it takes there, and the user's own Drive. Everywhere else nothing happens."""

import os
import sys
from pathlib import Path

DRIVE = "/content/drive"


def start(minutes, drive=False):
    """On Colab: say how long the notebook takes and where the GPU is switched on. Elsewhere do and print nothing.

    ``minutes``: what the notebook takes on a CPU with the quick profile. ``drive=True`` asks for the user's Google
    Drive and keeps the cache there (``MyDrive/busi-notebooks``: data sets, phantoms, trained models), so that it
    outlives the session; Colab then asks for permission. Call it before data are loaded.
    """
    if "google.colab" not in sys.modules:
        return
    if os.path.exists("/dev/nvidia0") or "COLAB_TPU_ADDR" in os.environ:
        print("An accelerator is switched on.")
    else:
        print(f"Running on Colab's CPU: about {minutes} minute{'s' * (minutes != 1)} with the quick profile.")
        print('The full profile wants a GPU: menu "Runtime", "Change runtime type", "T4 GPU", then run all cells.')
    if drive:
        from google.colab import drive as google_drive

        google_drive.mount(DRIVE)
        folder = Path(DRIVE) / "MyDrive" / "busi-notebooks"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["BUSILIB_CACHE"] = str(folder)
        print("Data and runs are kept on your Drive, in busi-notebooks. `!busi data get` puts BUSI there.")
    else:
        print("What is downloaded or trained ends with this session, unless you set drive=True above.")
