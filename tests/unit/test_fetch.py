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

from busilib.data import catalogue, fetch
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
ZIP = io.BytesIO()
with zipfile.ZipFile(ZIP, "w") as archive:
    for file, data in FILES.items():
        archive.writestr(file, data)
GOOD = ZIP.getvalue()
SHA256 = hashlib.sha256(GOOD).hexdigest()
READ = catalogue.read


def agree(monkeypatch, *warnings):
    """Let the facts table agree with whatever came, except for these warnings."""
    monkeypatch.setattr(catalogue, "read", lambda folder, name: types.SimpleNamespace(warnings=warnings))


class Handler(BaseHTTPRequestHandler):
    """Serves GOOD at /good.zip (with ranges), and one kind of trouble at each other path."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Range"]))
        what = self.path.strip("/").split(".")[0]
        if what == "good":
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            return self.answer(GOOD[start:], 206 if start < len(GOOD) else 416)
        half, page = GOOD[: len(GOOD) // 2], b"\n<!DOCTYPE html><html>Please sign in</html>"
        content = {"truncated": half, "stalled": half, "wrong": GOOD[:-1] + b"!", "page": page}.get(what, GOOD)
        if what == "moved":
            return self.answer(b"over there", 302, Location="/good.zip")
        self.answer(content, 404 if what == "missing" else 200, len(content if what in ("wrong", "page") else GOOD))
        self.close_connection = True
        if what == "stalled":
            self.wfile.flush()
            self.server.over.wait(60)

    def answer(self, content, status=200, length=None, **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(length or len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.over, server.asked, server.handle_error = threading.Event(), [], lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Give every test its own cache and current folder, no kagglehub, and a facts table that agrees."""
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    agree(monkeypatch)


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


@pytest.fixture
def part(tmp_path):
    """What has come of a download that was interrupted."""
    path = tmp_path / "cache" / "downloads" / "busi" / f"{SHA256[:16]}.part"
    path.parent.mkdir(parents=True)
    return path


def kaggle(monkeypatch, download):
    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(dataset_download=download))


def content(folder):
    return {
        f"{fetch.FOLDER}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in folder.rglob("*.png")
    }


def test_good_archive_is_unpacked_explained_and_not_fetched_again(get, server, target, tmp_path, capsys):
    folder = get("good")
    assert folder == target / "Dataset_BUSI_with_GT"
    assert content(folder) == FILES
    assert [path.name for path in target.iterdir()] == [folder.name]
    assert not list((tmp_path / "cache").rglob("*.zip")) + list((tmp_path / "cache").rglob("*.png"))
    said = capsys.readouterr().out
    for word in ("scholar.cu.edu.eg", "200 MB", "licence", "10.1016/j.dib.2019.104863", "BUSI is ready"):
        assert word in said
    assert get("missing") == get("missing", target=folder) == folder and server.asked == []
    assert "already here and is used as it is" in capsys.readouterr().out


def test_where_it_is_looked_for(tmp_path, monkeypatch, get):
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


def test_a_strange_folder_is_refused(get, target, server):
    (target / fetch.FOLDER).mkdir()
    (target / fetch.FOLDER / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="exists but holds no images. Move it away"):
        get("good")
    assert server.asked == []


REASONS = {
    "truncated": "Connection broken",
    "stalled": "Read timed out",
    "wrong": "SHA256 hash of downloaded file",
    "page": "SHA256 hash of downloaded file",
    "missing": "404 Client Error: Not Found",
}


@pytest.mark.parametrize("what", REASONS)
def test_failure_names_the_reason_and_the_ways_on(get, target, server, part, what):
    with pytest.raises(DataError) as caught:
        get(what, timeout=0.3)
    ways = (fetch.PAGE, fetch.KAGGLE_PAGE, str(target), 'DATASET="/path/to/', 'DATASET="phantom"')
    for words in (REASONS[what], f"/{what}.zip", "kagglehub", *ways):
        assert words in str(caught.value)
    assert list(target.iterdir()) == []
    have = part.stat().st_size if part.exists() else 0
    assert (have > 0) == (what in ("truncated", "stalled")), "what came is only used where it is the archive's"
    assert content(get("good")) == FILES
    assert server.asked == [("/good.zip", f"bytes={have}-")]


def test_no_network_and_no_tls(get, server, target):
    with pytest.raises(DataError, match="ConnectionError: .*127.0.0.1.*9"):
        get(url="http://127.0.0.1:9/Dataset_BUSI.zip")
    with pytest.raises(DataError, match="SSLError"):
        get(url=server.address.replace("http:", "https:") + "/good.zip")
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("error", [DataError("benign (2).png is damaged"), KeyboardInterrupt()])
def test_unusable_contents_leave_nothing(get, server, target, monkeypatch, error):
    def refuse(folder, name):
        raise error

    monkeypatch.setattr(catalogue, "read", refuse)
    with pytest.raises(type(error)):
        get("good")
    assert list(target.iterdir()) == []
    agree(monkeypatch)
    get("missing")  # the archive itself was whole, and is not fetched again
    assert server.asked == []


@pytest.mark.parametrize(
    ("left", "what"),
    [
        (GOOD[:3000], "good"),  # goes on
        (GOOD[:3000], "norange"),  # the server starts over
        (GOOD[:3000], "moved"),  # goes on after a redirect
        (GOOD, "good"),  # was complete, but not yet renamed: the server has nothing more (416)
    ],
)
def test_left_overs_are_used(get, part, left, what):
    part.write_bytes(left)
    (part.parent / "unpacked" / "benign").mkdir(parents=True)
    (part.parent / "unpacked" / "benign" / "benign (99).png").write_bytes(b"half")
    assert content(get(what)) == FILES


@pytest.mark.parametrize("left", [b"something else", GOOD + b"more"])
def test_left_overs_of_something_else_are_deleted(get, part, left):
    part.write_bytes(left)
    with pytest.raises(DataError, match="Deleted download for safety"):
        get("good")
    assert content(get("good")) == FILES


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
    assert server.asked == [("/good.zip", "bytes=0-")]


def test_kaggle_comes_after_the_official_archive(get, target, tmp_path, monkeypatch):
    copy = tmp_path / "kagglehub" / "versions" / "1"
    with zipfile.ZipFile(ZIP) as archive:
        archive.extractall(copy)
    kaggle(monkeypatch, lambda handle: str(copy))
    agree(monkeypatch, "1 image has other pixels.", "2 masks missing.")
    with pytest.raises(DataError, match=r"not BUSI as its facts table knows it: 1 image has other pixels\. 2 masks"):
        get("missing")
    assert list(target.iterdir()) == []
    agree(monkeypatch)
    assert content(get("missing")) == FILES
    kaggle(monkeypatch, lambda handle: 1 / 0)
    get("good", target=target / "official")
    with pytest.raises(DataError, match="(?s)Not Found.*ZeroDivisionError"):
        get("missing", target=target / "none")
    assert len(list(copy.rglob("*.png"))) == len(FILES), "kagglehub's own copy stays"


def test_other_images_are_refused_by_the_real_facts_table(get, target, monkeypatch):
    monkeypatch.setattr(catalogue, "read", READ)
    with pytest.raises(DataError, match="771 images of BUSI missing"):
        get("good")
    assert list(target.iterdir()) == []
