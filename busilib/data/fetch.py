"""Getting BUSI: from the official archive, else from Kaggle, checked before it counts as there.

Nothing appears in the target folder before the whole data set is downloaded, unpacked and compared with the facts
table. A download that was interrupted waits in the user's cache, and the next call goes on from there.
"""

import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PureWindowsPath

from filelock import FileLock

from busilib import cache
from busilib.cache import cache_dir, write_folder
from busilib.data.folder import find_folder
from busilib.errors import DataError

FOLDER = "Dataset_BUSI_with_GT"
PAGE = "https://scholar.cu.edu.eg/?q=afahmy/pages/dataset"
ARCHIVE_URL = "https://scholar.cu.edu.eg/Dataset_BUSI.zip"
ARCHIVE_SHA256 = "b2ce09f6063a31a73f628b6a6ee1245187cbaec225e93e563735691d68654de7"
KAGGLE = "aryashah2k/breast-ultrasound-images-dataset"
KAGGLE_PAGE = f"https://www.kaggle.com/datasets/{KAGGLE}"
SOURCES = {"auto": ("official", "kaggle"), "official": ("official",), "kaggle": ("kaggle",)}
TIMEOUT = 30  # seconds without a byte before a server counts as stalled
# BUSI has 1578 files and about 200 MB: an archive far beyond that is not BUSI.
MAX_MEMBERS = 5_000
MAX_BYTES = 2_000_000_000

ABOUT = f"""\
BUSI, the dataset of breast ultrasound images (Baheya Hospital, Cairo, 2018)
  source    {ARCHIVE_URL}, else {KAGGLE_PAGE}
  size      about 200 MB: 780 images and 798 masks
  licence   no licence file ships with the archive, and its mirrors disagree (CC0, CC BY 4.0, unstated):
            cite the paper, and do not pass the images on
  citation  Al-Dhabyani W, Gomaa M, Khaled H, Fahmy A. Dataset of breast ultrasound images.
            Data in Brief 28 (2020) 104863. doi:10.1016/j.dib.2019.104863"""


def places():
    """Return the folders (list of Path) where BUSI is looked for, in order; the first is where `get` puts it.

    They are the ``data`` folder of the checkout, the ``data`` folder of the current folder, and the user's cache.
    """
    checkout = Path(__file__).resolve().parents[2]
    found = [checkout / "data"] if (checkout / "pyproject.toml").is_file() else []
    found.append(Path.cwd() / "data")
    return [place for place in dict.fromkeys(found) if place.is_dir()] + [cache_dir("busi")]


def find(name="busi"):
    """Return the folder (Path) of the data set ``name`` where it lies in one of `places`, else None."""
    if name != "busi":
        raise DataError(f'No data set is called "{name}" here; the one that can be fetched is "busi".')
    folders = [place / FOLDER for place in places()]
    return next((folder for folder in folders if _holds_images(folder)), None)


def get(target=None, url=ARCHIVE_URL, sha256=ARCHIVE_SHA256, source="auto", timeout=TIMEOUT):
    """Return the folder (Path) of BUSI, downloaded and checked when it is not there yet.

    ``target`` is the folder that shall hold ``Dataset_BUSI_with_GT`` (None: the first of `places`). ``source`` is
    "official" (the archive at ``url``, with this ``sha256``), "kaggle" (through kagglehub), or "auto": the first,
    else the second. ``timeout``: seconds without a byte before a server counts as stalled.
    A folder that is already there is used as it is. Raises DataError, with every reason and the ways on, when BUSI
    cannot be had; the target is then as it was.
    """
    if source not in SOURCES:
        raise DataError(f'There is no source "{source}": choose one of {", ".join(SOURCES)}.')
    downloads = cache_dir("downloads")
    with FileLock(downloads / "busi.lock"):  # a second process waits, and then finds the data set
        folder = _destination(target)
        if _holds_images(folder):
            print(f"BUSI is already here and is used as it is: {folder}")
            print("(`busi data check` with this folder compares it with the facts.)")
            return folder
        _make_way(folder)
        print(ABOUT)
        reasons = []
        for origin in SOURCES[source]:
            try:
                _fetch(origin, folder, url, sha256, timeout)
            except (DataError, OSError) as error:
                reasons.append(f"{url if origin == 'official' else KAGGLE_PAGE}: {error}")
                print(f"Not from {reasons[-1]}")
                continue
            for left in downloads.glob("Dataset_BUSI-*"):
                left.unlink()
            print(f"BUSI is ready: {folder}")
            return folder
    raise DataError(_no_way(reasons, folder.parent))


def _destination(target):
    """Return where BUSI lies or will lie: ``target`` may be that folder itself or the one around it."""
    if target is None:
        return find("busi") or places()[0] / FOLDER
    target = Path(target).expanduser().absolute()
    return target if target.name == FOLDER else target / FOLDER


def _holds_images(folder):
    return any(folder.glob("*/*.png"))


def _make_way(folder):
    """Remove an empty folder that stands where BUSI shall be; refuse to touch anything else."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if folder.exists():
        raise DataError(f"{folder} exists but holds no images. Move it away, or choose another target folder.")


def _no_way(reasons, place):
    """Return the one message for a download that failed: each source with its reason, then the three ways on."""
    tried = "\n".join(f"  - {reason}" for reason in reasons)
    return f"""BUSI could not be downloaded:
{tried}
Three ways on:
  1. Download it by hand from {PAGE}
     or {KAGGLE_PAGE}
     and unzip it to {place} (so that {place / FOLDER / "benign"} is there).
  2. Name a folder that you have: DATASET="/path/to/{FOLDER}".
  3. Go on with made-up scans, which need no download: DATASET="phantom"."""


def _fetch(origin, folder, url, sha256, timeout):
    """Put BUSI from ``origin`` at ``folder``, or raise DataError or OSError and leave nothing there."""
    scratch = cache_dir("downloads") / "unpacked"
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed: this one holds the lock
    try:
        if origin == "official":
            unpack(download(url, sha256, timeout), scratch)
            found = find_folder(scratch)
        else:
            found = find_folder(_from_kaggle())
        different = differences(found)
        if different:
            shown = "; ".join(different[:3]) + ("; ..." if len(different) > 3 else "")
            raise DataError(f"what came is not BUSI as its facts table knows it: {shown}")
        with write_folder(folder) as working:
            shutil.copytree(found, working, dirs_exist_ok=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def differences(folder):
    """Return how the images in ``folder`` differ from the facts table (list of str, empty for BUSI).

    Raises DataError when the folder cannot be used at all.
    """
    from busilib.data import catalogue, facts

    scans = catalogue.read(folder)
    if not facts.like_busi(facts.matches(scans.table)):  # then the catalogue takes it for another hospital's data
        return ["most of its images have other pixels than BUSI's"]
    return list(scans.warnings)


def _from_kaggle():
    """Return the folder (Path) into which kagglehub put its copy. It re-zips, so only the images can be compared."""
    try:
        import kagglehub
    except ImportError:
        raise DataError('kagglehub is not installed (pip install "kagglehub")') from None
    try:
        return Path(kagglehub.dataset_download(KAGGLE))
    except Exception as error:  # another project's errors, without a common base: the user gets the reason
        raise DataError(f"kagglehub failed with {type(error).__name__}: {error}") from error


def download(url, sha256, timeout=TIMEOUT):
    """Return the archive (Path, in the user's cache) at ``url``, whole and with this SHA-256.

    A partial file of an earlier call is continued; when the result is wrong, one fresh download follows.
    Raises DataError, with the reason in words; what had come of the file stays for the next call.
    """
    import pooch
    import requests

    archive = cache_dir("downloads") / f"Dataset_BUSI-{sha256[:16]}.zip"
    partial = archive.with_suffix(".part")
    while not archive.exists():
        resumed = partial.exists() and partial.stat().st_size > 0
        try:
            _receive(url, partial, timeout)
        except requests.RequestException as error:
            if partial.stat().st_size == 0:
                partial.unlink()
            status = getattr(error.response, "status_code", None)
            if not (resumed and status == requests.codes.requested_range_not_satisfiable):
                raise DataError(_reason(error, timeout)) from error
        found = pooch.file_hash(str(partial))
        if found == sha256.lower():
            os.replace(partial, archive)
            break
        with open(partial, "rb") as file:
            wrong = "a web page" if file.read(512).lstrip().startswith(b"<") else "another file"
        partial.unlink()
        if not resumed:
            raise DataError(f"the server sent {wrong} in place of the archive (SHA-256 {found}, expected {sha256})")
    return archive


def _receive(url, partial, timeout):
    """Write what ``url`` serves to ``partial``, from where that file ends. Raises requests.RequestException."""
    from pooch import HTTPDownloader
    from tqdm.utils import CallbackIOWrapper

    with open(partial, "ab") as file, cache.bar(None, "BUSI", unit="B", unit_scale=True) as bar:
        have = file.tell()
        if have:
            print(f"Going on with an earlier download, {have / 1e6:.1f} MB of which are here.")

        def first_look(response, *_, **__):
            if response.status_code == 200:
                file.truncate(0)  # the server starts over, whatever was asked
            bar.reset(total=int(response.headers.get("content-length", 0)) or None)

        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        fetcher = HTTPDownloader(chunk_size=2**14, timeout=timeout, headers=headers, hooks={"response": first_look})
        # Counting what is written is exact; pooch counts whole chunks, and starts the clock again at the end.
        fetcher(url, CallbackIOWrapper(bar.update, file, "write"), None)


def _reason(error, timeout):
    """Return in words why a request failed. The order matters: several of these classes inherit from another."""
    from requests import exceptions

    if isinstance(error, exceptions.SSLError):
        return "no secure connection: the server's certificate or TLS was not accepted (it is never switched off here)"
    if isinstance(error, exceptions.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, exceptions.Timeout) or "timed out" in str(error):
        return f"the server stalled: nothing came for {timeout} seconds"
    if isinstance(error, exceptions.ChunkedEncodingError):
        return "the connection ended before the file did; the next try goes on from there"
    if isinstance(error, exceptions.ConnectionError):
        return "no connection: there is no network, or the server does not answer"
    return f"{type(error).__name__}: {error}"


def unpack(archive, folder):
    """Unpack the zip file ``archive`` into ``folder``, after a look at every member.

    Raises DataError, with nothing written, for a member that would leave the folder or is no plain file or folder,
    and for more than MAX_MEMBERS members or MAX_BYTES bytes; also for a damaged archive.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = source.infolist()
            _check_members(members)
            # zipfile stops a member at its declared size, so the sum that was checked is what can be written.
            for member in cache.bar(members, "unpacking", unit="file"):
                source.extract(member, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"the archive {Path(archive).name} is damaged or cannot be read: {error}") from error


def _check_members(members):
    if len(members) > MAX_MEMBERS:
        raise DataError(f"the archive has {len(members)} members, more than {MAX_MEMBERS}: it is not BUSI")
    size = sum(member.file_size for member in members)
    if size > MAX_BYTES:
        raise DataError(f"the archive would unpack to {size} bytes, more than {MAX_BYTES}: it is not BUSI")
    for member in members:
        path = PureWindowsPath(member.filename)  # reads both kinds of slash, and drive letters
        if path.anchor or ".." in path.parts:
            raise DataError(f'the archive is not safe: its member "{member.filename}" would leave the folder')
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(f'the archive is not safe: its member "{member.filename}" is a link or a device')
