"""Getting BUSI: from the official archive, else from Kaggle, checked before it counts as there.

Nothing appears in the target folder before the whole data set is downloaded, unpacked and compared with the facts
table. A download that was interrupted waits in the user's cache, and the next call goes on from there.
"""

import os
import shutil
from importlib.resources import files
from pathlib import Path

from busilib.cache import bar, cache_dir, write_folder
from busilib.data import catalogue
from busilib.data.files import find_folder, first_ten
from busilib.errors import DataError

FOLDER = "Dataset_BUSI_with_GT"
PAGE = "https://scholar.cu.edu.eg/?q=afahmy/pages/dataset"
ARCHIVE_URL = "https://scholar.cu.edu.eg/Dataset_BUSI.zip"
ARCHIVE_SHA256 = "b2ce09f6063a31a73f628b6a6ee1245187cbaec225e93e563735691d68654de7"
KAGGLE = "aryashah2k/breast-ultrasound-images-dataset"
KAGGLE_PAGE = f"https://www.kaggle.com/datasets/{KAGGLE}"

OTHER_WAYS = f'name a folder that you have, DATASET="/path/to/{FOLDER}", or take made-up scans, DATASET="phantom".'
_ABOUT, _NO_WAY = (files("busilib") / "tables" / "busi.txt").read_text(encoding="utf-8").split("\n\n")


def places():
    """Return the folders (list of Path) where BUSI is looked for, in order; the first is where `get` puts it.

    They are the ``data`` folder of the checkout, the ``data`` folder of the current folder, and the user's cache.
    """
    checkout = Path(__file__).resolve().parents[2]
    folders = [checkout / "data"] if (checkout / "pyproject.toml").is_file() else []
    return [place for place in dict.fromkeys([*folders, Path.cwd() / "data"]) if place.is_dir()] + [cache_dir("busi")]


def find():
    """Return the folder (Path) of BUSI where it lies in one of `places`, else None."""
    return next((place / FOLDER for place in places() if any(place.glob(f"{FOLDER}/*/*.png"))), None)


def get(target=None, url=ARCHIVE_URL, sha256=ARCHIVE_SHA256, timeout=30):
    """Return the folder (Path) of BUSI: downloaded when it is not there yet, officially, else from Kaggle; checked.

    Args:
        target: the folder that shall hold ``Dataset_BUSI_with_GT`` (None: the first of `places`). What is already
            there is used as it is.
        url, sha256: the official archive and its hash.
        timeout: seconds without a byte before a server counts as stalled.

    Raises:
        DataError: BUSI cannot be had. It says every reason and the ways on; the target is as it was.
    """
    from filelock import FileLock

    with FileLock(cache_dir("downloads") / "busi.lock"):  # a second process waits, and then has the data set
        folder = (find() or places()[0] / FOLDER) if target is None else Path(target).expanduser().absolute()
        folder = folder if folder.name == FOLDER else folder / FOLDER
        if any(folder.glob("*/*.png")):
            print(f"BUSI is already here and is used as it is: {folder} (`busi data check` compares it with the facts)")
            return folder
        if folder.is_dir() and any(folder.iterdir()):
            raise DataError(f"{folder} exists but holds no images. Move it away, or choose another target folder.")
        print(_ABOUT.format(url=ARCHIVE_URL))
        reasons = []
        for page, fetch in ((url, lambda: _download(url, sha256, timeout)), (KAGGLE_PAGE, _from_kaggle)):
            try:
                _copy(fetch(), folder)
                shutil.rmtree(cache_dir("downloads", "busi"))
                print(f"BUSI is ready: {folder}")
                return folder
            except Exception as error:  # of requests, pooch, zipfile, kagglehub …: the user gets the reason
                reasons.append(f"  - {page}: {type(error).__name__}: {error}")
    pages = {"page": PAGE, "kaggle": KAGGLE_PAGE, "other": OTHER_WAYS}
    raise DataError(_NO_WAY.strip().format(reasons="\n".join(reasons), place=folder.parent, **pages))


def _copy(source, folder):
    """Copy the data set inside ``source`` to ``folder``; raise DataError, and leave nothing, when it is not BUSI."""
    if different := list(catalogue.read(source, name="busi").warnings):
        raise DataError(f"what came is not BUSI as its facts table knows it: {first_ten(different, ' ')}")
    with write_folder(folder) as working:
        shutil.copytree(find_folder(source), working, dirs_exist_ok=True)


def _from_kaggle():
    """Return the folder into which kagglehub put its copy. It re-zips, so only the images can be compared."""
    import kagglehub

    return kagglehub.dataset_download(KAGGLE)


def _download(url, sha256, timeout):
    """Return the folder (Path, in the user's cache) with the unpacked archive at ``url``, which has this SHA-256.

    A partial file of an earlier call is continued. What is no archive, or another one, is deleted.
    """
    import pooch

    folder = cache_dir("downloads", "busi")
    shutil.rmtree(folder / "unpacked", ignore_errors=True)  # of a process that was killed: this one holds the lock
    pooch.get_logger().setLevel("WARNING")

    def resume(url, output, _):
        partial = folder / f"{sha256[:16]}.part"
        _receive(url, partial, timeout)
        os.replace(partial, output)

    pooch.retrieve(url, f"sha256:{sha256}", f"{sha256[:16]}.zip", folder, pooch.Unzip(extract_dir="unpacked"), resume)
    return folder / "unpacked"


def _receive(url, partial, timeout):
    """Write what ``url`` serves to ``partial``, from where that file ends. Raises requests.RequestException."""
    import requests

    with open(partial, "ab") as file:
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={file.tell()}-"}
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                return  # all is here; whether it is right, the checksum tells
            response.raise_for_status()
            if response.status_code == requests.codes.ok:
                file.truncate(0)  # the server starts over, whatever was asked
            total = int(response.headers.get("content-length", 0)) or None
            with bar(None, "BUSI", total, "B", unit_scale=True) as progress:
                for chunk in response.iter_content(2**14):
                    progress.update(file.write(chunk))
