"""fetch: against a local server that also misbehaves."""

import hashlib
import io
import sys
import threading
import types
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from busilib.data import fetch
from busilib.errors import DataError


def png(value):
    """Return the bytes of a small grey PNG of noise, so that an archive of some of them is not compressed away."""
    pixels = np.random.default_rng(value).integers(0, 256, (48, 64), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


FILES = {
    f"Dataset_BUSI_with_GT/{label}/{label} ({number}){kind}.png": png(number)
    for label in ("benign", "malignant", "normal")
    for number in range(1, 4)
    for kind in ("", "_mask")
}


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


GOOD = zipped(FILES)
REAL_DIFFERENCES = fetch.differences
SHA256 = hashlib.sha256(GOOD).hexdigest()
PART = f"busi/{SHA256[:16]}.part"


class Handler(BaseHTTPRequestHandler):
    """Serves GOOD at /good.zip (with ranges), and one kind of trouble at each other path."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        getattr(self, self.path.strip("/").split(".")[0])()

    def answer(self, content, status=200, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def good(self):
        asked = self.headers.get("Range")
        if not asked:
            return self.answer(GOOD)
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(GOOD):
            return self.answer(b"", 416, Content_Range=f"bytes */{len(GOOD)}")
        self.answer(GOOD[start:], 206, Content_Range=f"bytes {start}-{len(GOOD) - 1}/{len(GOOD)}")

    def norange(self):
        self.answer(GOOD)

    def unsized(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(GOOD)

    def moved(self):
        self.answer(b"over there", 302, Location="/good.zip")

    def truncated(self):
        self.answer(GOOD[: len(GOOD) // 2], length=len(GOOD))
        self.close_connection = True

    def wrong(self):
        self.answer(GOOD[:-1] + b"!")

    def missing(self):
        self.answer(b"<html>not here</html>", 404)

    def page(self):
        self.answer(b"\n<!DOCTYPE html><html>Please sign in</html>", Content_Type="text/html")

    def stalled(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(GOOD)))
        self.end_headers()
        self.wfile.write(GOOD[: len(GOOD) // 2])
        self.wfile.flush()
        self.server.over.wait(60)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.over, server.asked, server.handle_error = threading.Event(), [], lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.address = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def elsewhere(request, tmp_path, monkeypatch):
    """Give every test its own cache and current folder, no kagglehub, and a facts table that agrees."""
    if "busi_dir" in request.fixturenames:
        return  # reading the real data set takes long: the common cache is welcome
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("BUSILIB_PROGRESS", "0")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    monkeypatch.setattr(fetch, "differences", lambda folder: [])


@pytest.fixture
def target(tmp_path):
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


@pytest.fixture
def get(server, target):
    """Call fetch.get on the local server: get("good") fetches /good.zip."""

    def call(what="good", **options):
        server.asked.clear()
        return fetch.get(**{"target": target, "url": f"{server.address}/{what}.zip", "sha256": SHA256} | options)

    return call


def kaggle(monkeypatch, download):
    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(dataset_download=download))


def left_in_cache():
    downloads = fetch.cache_dir("downloads")
    return sorted(path.relative_to(downloads).as_posix() for path in downloads.rglob("*.*") if path.suffix != ".lock")


def content(folder):
    return {
        f"{fetch.FOLDER}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in folder.rglob("*.png")
    }


# A download that works


def test_good_archive_is_unpacked_and_explained(get, target, capsys):
    folder = get("good", source="official")
    assert folder == target / "Dataset_BUSI_with_GT"
    assert content(folder) == FILES
    assert [path.name for path in target.iterdir()] == [folder.name]
    assert left_in_cache() == []
    said = capsys.readouterr().out
    for word in ("scholar.cu.edu.eg", "200 MB", "licence", "CC0, CC BY 4.0, unstated", "10.1016/j.dib.2019.104863"):
        assert word in said
    assert "BUSI is ready" in said


@pytest.mark.parametrize("what", ["norange", "unsized", "moved"])
def test_unusual_but_honest_servers(get, what):
    assert content(get(what)) == FILES


def test_second_call_downloads_nothing(get, server, capsys):
    folder = get("good")
    assert get("missing") == folder
    assert server.asked == []
    assert "already here and is used as it is" in capsys.readouterr().out


def test_target_may_be_the_data_set_folder_itself(get, target):
    assert get("good", target=target / fetch.FOLDER) == target / fetch.FOLDER


# Where it is looked for


def test_places_and_find(tmp_path, monkeypatch, get):
    cache = tmp_path / "cache" / "busi"
    monkeypatch.setattr(fetch, "__file__", str(tmp_path / "site-packages/busilib/data/fetch.py"))
    assert fetch.places() == [cache] and fetch.find() is None
    folder = get("good", target=None)
    assert folder == cache / fetch.FOLDER == fetch.find()
    (tmp_path / "work" / "data" / fetch.FOLDER).mkdir(parents=True)  # empty: not the data set
    (tmp_path / "checkout" / "data").mkdir(parents=True)
    (tmp_path / "checkout" / "pyproject.toml").touch()
    monkeypatch.setattr(fetch, "__file__", str(tmp_path / "checkout/busilib/data/fetch.py"))
    assert fetch.places() == [tmp_path / "checkout/data", tmp_path / "work/data", cache]
    assert fetch.find() == folder == get("missing", target=None)


def test_folder_of_the_user_is_not_touched(get, target, server):
    own = target / fetch.FOLDER / "benign"
    own.mkdir(parents=True)
    (own / "benign (1).png").write_bytes(b"whatever")
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    assert get("good") == target / fetch.FOLDER
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    assert server.asked == []


def test_empty_folder_is_filled_and_a_strange_one_refused(get, target, server):
    (target / fetch.FOLDER).mkdir()
    (target / fetch.FOLDER / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="exists but holds no images. Move it away"):
        get("good")
    assert server.asked == []
    (target / fetch.FOLDER / "notes.txt").unlink()
    assert content(get("good")) == FILES


# A download that fails

REASONS = {
    "truncated": "the connection ended before the file did",
    "wrong": "the server sent something else in place of the archive",
    "missing": "the server answered 404 Not Found",
    "page": "the server sent something else in place of the archive: it is a web page",
    "stalled": "the server stalled: nothing came for 0.3 seconds",
}


@pytest.mark.parametrize("what", REASONS)
def test_failure_names_the_reason_and_the_ways_on(get, target, what):
    with pytest.raises(DataError) as caught:
        get(what, timeout=0.3)
    message = str(caught.value)
    assert REASONS[what] in message
    assert f"/{what}.zip" in message
    assert "kagglehub is not installed" in message
    for way in (fetch.PAGE, fetch.KAGGLE_PAGE, str(target), 'DATASET="/path/to/', 'DATASET="phantom"'):
        assert way in message
    assert list(target.iterdir()) == []
    part = fetch.cache_dir("downloads") / PART
    size = part.stat().st_size if part.exists() else 0
    assert (size > 0) == (what in ("truncated", "stalled")), "only where the next call can go on from it"


def test_no_network(get, target):
    with pytest.raises(DataError, match="no connection: there is no network") as caught:
        get(url="http://127.0.0.1:9/Dataset_BUSI.zip", source="official")
    assert "kagglehub" not in str(caught.value)
    assert list(target.iterdir()) == []


def test_broken_tls(get, server, target):
    with pytest.raises(DataError, match="no secure connection.*never switched off"):
        get(url=server.address.replace("http:", "https:") + "/good.zip")
    assert list(target.iterdir()) == []


def test_unknown_source():
    with pytest.raises(DataError, match='no source "mirror": choose one of auto, official, kaggle'):
        fetch.get(source="mirror")


@pytest.mark.parametrize("error", [DataError("benign (2).png is damaged"), KeyboardInterrupt()])
def test_unusable_contents_leave_nothing(get, server, target, monkeypatch, error):
    def refuse(folder):
        raise error

    monkeypatch.setattr(fetch, "differences", refuse)
    with pytest.raises(type(error)):
        get("good")
    assert list(target.iterdir()) == []
    monkeypatch.setattr(fetch, "differences", lambda folder: [])
    get("missing")  # the archive itself was whole, and is not fetched again
    assert server.asked == []


def test_target_that_cannot_be_written(get, target):
    (target / "file").touch()
    with pytest.raises(DataError, match="file"):
        get("good", target=target / "file")


# Going on with an interrupted download


@pytest.mark.parametrize("what", ["truncated", "stalled"])
def test_interrupted_download_is_continued(get, server, what):
    with pytest.raises(DataError):
        get(what, timeout=0.3)
    have = (fetch.cache_dir("downloads") / PART).stat().st_size
    assert content(get("good")) == FILES
    assert 0 < have < len(GOOD)
    assert server.asked == [("/good.zip", f"bytes={have}-")]
    assert left_in_cache() == []


@pytest.mark.parametrize(
    "left, what, requests",
    [
        (GOOD[:3000], "good", 1),  # goes on
        (GOOD[:3000], "norange", 1),  # the server starts over
        (GOOD[:3000], "moved", 2),  # goes on after a redirect
        (b"something else", "good", 2),  # the result is wrong: one fresh download
        (GOOD, "good", 1),  # was complete, but not yet renamed: the server has nothing more (416)
        (GOOD + b"more", "good", 2),  # too long
        (b"", "good", 1),
    ],
)
def test_left_overs(get, server, left, what, requests):
    downloads = fetch.cache_dir("downloads", "busi")
    (downloads.parent / PART).write_bytes(left)
    (downloads / "unpacked" / "benign").mkdir(parents=True)
    (downloads / "unpacked" / "benign" / "benign (99).png").write_bytes(b"half")
    assert content(get(what)) == FILES
    assert len(server.asked) == requests
    assert left_in_cache() == []


def test_left_over_does_not_hide_a_wrong_server(get):
    part = fetch.cache_dir("downloads", "busi").parent / PART
    part.write_bytes(GOOD[:3000])
    with pytest.raises(DataError, match="it is a web page"):
        get("page")
    assert not part.exists() or not part.stat().st_size


def test_two_at_once_download_once(target, server):
    folders = []
    server.asked.clear()
    one = partial(fetch.get, target, f"{server.address}/good.zip", SHA256)
    threads = [threading.Thread(target=lambda: folders.append(one())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2 and content(folders[0]) == FILES
    assert server.asked == [("/good.zip", None)]


# Kaggle


def kaggle_copy(tmp_path):
    """Return a folder as kagglehub leaves it."""
    with zipfile.ZipFile(io.BytesIO(GOOD)) as archive:
        archive.extractall(tmp_path / "kagglehub" / "versions" / "1")
    return tmp_path / "kagglehub" / "versions" / "1"


def test_kaggle_after_the_official_archive(get, tmp_path, monkeypatch, capsys):
    asked = []
    kaggle(monkeypatch, lambda handle: asked.append(handle) or str(kaggle_copy(tmp_path)))
    assert content(get("missing")) == FILES
    assert asked == ["aryashah2k/breast-ultrasound-images-dataset"]
    assert "404 Not Found" in capsys.readouterr().out
    assert len(list((tmp_path / "kagglehub").rglob("*.png"))) == len(FILES)  # kagglehub's own copy stays


def test_kaggle_only_or_not_at_all(get, server, tmp_path, monkeypatch, target):
    kaggle(monkeypatch, lambda handle: str(kaggle_copy(tmp_path)))
    assert content(get("good", source="kaggle")) == FILES
    assert server.asked == []
    kaggle(monkeypatch, lambda handle: pytest.fail("asked"))
    get("good", target=target / "other")


def test_kaggle_with_other_images_is_refused(get, target, tmp_path, monkeypatch):
    kaggle(monkeypatch, lambda handle: str(kaggle_copy(tmp_path)))
    monkeypatch.setattr(fetch, "differences", lambda folder: ["benign (1) has other pixels", "b", "c", "d"])
    with pytest.raises(DataError, match=r"not BUSI as its facts table knows it: benign \(1\) has other pixels b c d"):
        get("good", source="kaggle")
    assert list(target.iterdir()) == []


def test_kaggle_that_fails_is_one_more_reason(get, target, monkeypatch):
    def fail(handle):
        raise ValueError("403 from Kaggle")

    kaggle(monkeypatch, fail)
    with pytest.raises(DataError, match="(?s)404 Not Found.*kagglehub failed with ValueError: 403 from Kaggle"):
        get("missing")
    assert list(target.iterdir()) == []


# The real facts table


def test_other_images_are_refused_by_the_real_facts_table(get, target, monkeypatch):
    monkeypatch.setattr(fetch, "differences", REAL_DIFFERENCES)
    with pytest.raises(DataError, match="most of its images have other pixels than BUSI's"):
        get("good")
    assert list(target.iterdir()) == []


def test_warnings_of_the_catalogue_count(monkeypatch):
    warnings = ("1 image of BUSI missing: benign (1).",)
    scans = types.SimpleNamespace(kind="busi", warnings=warnings)
    monkeypatch.setattr("busilib.data.catalogue.read", lambda folder: scans)
    assert REAL_DIFFERENCES("anywhere") == list(warnings)


def test_real_busi_has_no_differences(busi_dir):
    assert REAL_DIFFERENCES(busi_dir) == []
