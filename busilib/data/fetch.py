"""Getting BUSI: from the official archive, else from Kaggle, checked before it counts as there.

Nothing appears in the target folder before the whole data set is downloaded, unpacked and compared with the facts
table. A download that was interrupted waits in the user's cache, and the next call goes on from there.
"""

import os
import shutil
from pathlib import Path

from busilib.cache import bar, cache_dir, write_folder
from busilib.data.files import find_folder, first_ten
from busilib.errors import DataError

FOLDER = "Dataset_BUSI_with_GT"
PAGE = "https://scholar.cu.edu.eg/?q=afahmy/pages/dataset"
ARCHIVE_URL = "https://scholar.cu.edu.eg/Dataset_BUSI.zip"
ARCHIVE_SHA256 = "b2ce09f6063a31a73f628b6a6ee1245187cbaec225e93e563735691d68654de7"
KAGGLE = "aryashah2k/breast-ultrasound-images-dataset"
KAGGLE_PAGE = f"https://www.kaggle.com/datasets/{KAGGLE}"
SOURCES = {"auto": ("official", "kaggle"), "official": ("official",), "kaggle": ("kaggle",)}
TIMEOUT = 30  # seconds without a byte before a server counts as stalled

ABOUT = f"""\
BUSI, the dataset of breast ultrasound images (Baheya Hospital, Cairo, 2018)
  source    {ARCHIVE_URL}, else {KAGGLE_PAGE}
  size      about 200 MB: 780 images and 798 masks
  licence   no licence file ships with the archive, and its mirrors disagree (CC0, CC BY 4.0, unstated):
            cite the paper, and do not pass the images on
  citation  Al-Dhabyani W, Gomaa M, Khaled H, Fahmy A. Dataset of breast ultrasound images.
            Data in Brief 28 (2020) 104863. doi:10.1016/j.dib.2019.104863"""
_NO_WAY = f"""\
BUSI could not be downloaded:
{{reasons}}
Three ways on:
  1. Download it by hand from {PAGE} or {KAGGLE_PAGE}
     and unzip it to {{place}} (so that {{folder}}{os.sep}benign is there).
  2. Name a folder that you have: DATASET="/path/to/{FOLDER}".
  3. Go on with made-up scans, which need no download: DATASET="phantom"."""


def places():
    """Return the folders (list of Path) where BUSI is looked for, in order; the first is where `get` puts it.

    They are the ``data`` folder of the checkout, the ``data`` folder of the current folder, and the user's cache.
    """
    checkout = Path(__file__).resolve().parents[2]
    folders = [checkout / "data"] if (checkout / "pyproject.toml").is_file() else []
    return [place for place in dict.fromkeys([*folders, Path.cwd() / "data"]) if place.is_dir()] + [cache_dir("busi")]


def find():
    """Return the folder (Path) of BUSI where it lies in one of `places`, else None."""
    return next((place / FOLDER for place in places() if _holds_images(place / FOLDER)), None)


def get(target=None, url=ARCHIVE_URL, sha256=ARCHIVE_SHA256, source="auto", timeout=TIMEOUT):
    """Return the folder (Path) of BUSI, downloaded and checked when it is not there yet.

    ``target`` is the folder that shall hold ``Dataset_BUSI_with_GT`` (None: the first of `places`). ``source`` is
    "official" (the archive at ``url``, with this ``sha256``), "kaggle" (through kagglehub), or "auto": the first,
    else the second. ``timeout``: seconds without a byte before a server counts as stalled.
    A folder that is already there is used as it is. Raises DataError, with every reason and the ways on, when BUSI
    cannot be had; the target is then as it was.
    """
    from filelock import FileLock

    if source not in SOURCES:
        raise DataError(f'There is no source "{source}": choose one of {", ".join(SOURCES)}.')
    with FileLock(cache_dir("downloads") / "busi.lock"):  # a second process waits, and then finds the data set
        folder = (find() or places()[0] / FOLDER) if target is None else Path(target).expanduser().absolute()
        folder = folder if folder.name == FOLDER else folder / FOLDER
        if _holds_images(folder):
            print(f"BUSI is already here and is used as it is: {folder}")
            print("(`busi data check` with this folder compares it with the facts.)")
            return folder
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if folder.exists():
            raise DataError(f"{folder} exists but holds no images. Move it away, or choose another target folder.")
        print(ABOUT)
        reasons = []
        for origin in SOURCES[source]:
            try:
                _copy(_download(url, sha256, timeout) if origin == "official" else _from_kaggle(), folder)
                shutil.rmtree(cache_dir("downloads", "busi"))
                print(f"BUSI is ready: {folder}")
                return folder
            except (DataError, OSError) as error:
                print(f"Not from the source {origin!r}: {error}")
                reasons.append(f"  - {url if origin == 'official' else KAGGLE_PAGE}: {error}")
    raise DataError(_NO_WAY.format(reasons="\n".join(reasons), place=folder.parent, folder=folder))


def _holds_images(folder):
    return any(folder.glob("*/*.png"))


def _copy(source, folder):
    """Copy the data set inside ``source`` to ``folder``; raise DataError, and leave nothing, when it is not BUSI."""
    different = differences(find_folder(source))
    if different:
        raise DataError(f"what came is not BUSI as its facts table knows it: {first_ten(different, ' ')}")
    with write_folder(folder) as working:
        shutil.copytree(find_folder(source), working, dirs_exist_ok=True)


def differences(folder):
    """Return how the images in ``folder`` differ from the facts table (list of str, empty for BUSI)."""
    from busilib.data import catalogue

    scans = catalogue.read(folder)
    return list(scans.warnings) if scans.kind == "busi" else ["most of its images have other pixels than BUSI's"]


def _from_kaggle():
    """Return the folder into which kagglehub put its copy. It re-zips, so only the images can be compared."""
    try:
        import kagglehub

        return kagglehub.dataset_download(KAGGLE)
    except ImportError:
        raise DataError('kagglehub is not installed (pip install "kagglehub")') from None
    except Exception as error:  # another project's errors, without a common base: the user gets the reason
        raise DataError(f"kagglehub failed with {type(error).__name__}: {error}") from error


def _download(url, sha256, timeout):
    """Return the folder (Path, in the user's cache) with the unpacked archive at ``url``, which has this SHA-256.

    A partial file of an earlier call is continued. What is no archive, or another one, is deleted.
    Raises DataError, with the reason in words; what had come of the file stays for the next call.
    """
    import pooch
    import requests

    folder = cache_dir("downloads", "busi")
    shutil.rmtree(folder / "unpacked", ignore_errors=True)  # of a process that was killed: this one holds the lock
    pooch.get_logger().setLevel("WARNING")

    def resume(url, output, _):
        partial = folder / f"{sha256[:16]}.part"
        _receive(url, partial, timeout)
        os.replace(partial, output)
        with open(output, "rb") as file:
            if file.read(512).lstrip().startswith(b"<"):
                raise ValueError("it is a web page")

    try:
        unzip = pooch.Unzip(extract_dir="unpacked")
        pooch.retrieve(url, f"sha256:{sha256}", f"{sha256[:16]}.zip", folder, unzip, resume)
    except requests.RequestException as error:
        raise DataError(_reason(error, timeout)) from error
    except ValueError as error:  # pooch's, for another checksum
        raise DataError(f"this is not the archive, and it is deleted; try once more: {error}") from error
    return folder / "unpacked"


def _receive(url, partial, timeout):
    """Write what ``url`` serves to ``partial``, from where that file ends. Raises requests.RequestException."""
    import requests

    with open(partial, "ab") as file:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={file.tell()}-"} if file.tell() else {})
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


def _reason(error, timeout):
    """Return in words why a request failed. The order matters: several of these classes inherit from another."""
    from requests import exceptions

    if isinstance(error, exceptions.SSLError):
        return "no secure connection: the server's certificate or TLS was not accepted (it is never switched off here)"
    if isinstance(error, exceptions.Timeout) or "timed out" in str(error):
        return f"the server stalled: nothing came for {timeout} seconds"
    if isinstance(error, exceptions.ChunkedEncodingError):
        return "the connection ended before the file did; the next try goes on from there"
    if isinstance(error, exceptions.ConnectionError):
        return "no connection: there is no network, or the server does not answer"
    return str(error)
