"""fetch: against a local server that also misbehaves, and against archives that were made to do harm."""

import hashlib
import io
import stat
import sys
import threading
import time
import types
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
    """Return the bytes of a zip file; ``files`` maps a name or a ZipInfo to the content."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


GOOD = zipped(FILES)
REAL_DIFFERENCES = fetch.differences
SHA256 = hashlib.sha256(GOOD).hexdigest()


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
        self.server.over.wait(10)

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
    return sorted(path.name for path in fetch.cache_dir("downloads").iterdir() if path.name != "busi.lock")


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


@pytest.mark.parametrize("what", ["good", "unsized"])
def test_with_a_progress_bar(get, monkeypatch, capsys, what):
    monkeypatch.setenv("BUSILIB_PROGRESS", "1")
    get(what)
    assert "BUSI: 100%" in capsys.readouterr().err or what == "unsized"


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
    assert fetch.places() == [cache]
    (tmp_path / "work" / "data").mkdir()
    (tmp_path / "checkout" / "data").mkdir(parents=True)
    (tmp_path / "checkout" / "pyproject.toml").touch()
    monkeypatch.setattr(fetch, "__file__", str(tmp_path / "checkout/busilib/data/fetch.py"))
    assert fetch.places() == [tmp_path / "checkout/data", tmp_path / "work/data", cache]
    assert fetch.find("busi") is None
    monkeypatch.chdir(tmp_path / "checkout")
    assert fetch.places() == [tmp_path / "checkout/data", cache]
    folder = get("good", target=None)
    assert folder == tmp_path / "checkout/data/Dataset_BUSI_with_GT" == fetch.find("busi")


def test_found_in_the_cache_even_when_there_is_a_data_folder(tmp_path, monkeypatch, get):
    monkeypatch.setattr(fetch, "__file__", str(tmp_path / "site-packages/busilib/data/fetch.py"))
    folder = get("good", target=None)
    assert folder == tmp_path / "cache/busi/Dataset_BUSI_with_GT"
    (tmp_path / "work" / "data" / fetch.FOLDER).mkdir(parents=True)  # empty: not the data set
    assert fetch.find() == folder == get("missing", target=None)


def test_find_knows_only_busi():
    with pytest.raises(DataError, match='No data set is called "busy"'):
        fetch.find("busy")


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
    "wrong": "the server sent another file in place of the archive",
    "missing": "the server answered 404 Not Found",
    "page": "the server sent a web page in place of the archive",
    "stalled": "the server stalled: nothing came for 0.3 seconds",
}


@pytest.mark.parametrize("what", REASONS)
def test_failure_names_the_reason_and_the_ways_on(get, target, what):
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        get(what, timeout=0.3)
    assert time.monotonic() - start < 2
    message = str(caught.value)
    assert REASONS[what] in message
    assert f"/{what}.zip" in message
    assert "kagglehub is not installed" in message
    for way in (fetch.PAGE, fetch.KAGGLE_PAGE, str(target), 'DATASET="/path/to/', 'DATASET="phantom"'):
        assert way in message
    assert list(target.iterdir()) == []
    parts = [f"Dataset_BUSI-{SHA256[:16]}.part"]  # kept only where the next call can go on from it
    assert left_in_cache() == (parts if what in ("truncated", "stalled") else [])


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


def test_unusable_contents_leave_nothing(get, server, target, monkeypatch):
    def refuse(folder):
        raise DataError("benign (2).png is damaged")

    monkeypatch.setattr(fetch, "differences", refuse)
    with pytest.raises(DataError, match=r"benign \(2\).png is damaged"):
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
    (part,) = left_in_cache()
    have = (fetch.cache_dir("downloads") / part).stat().st_size
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
    downloads = fetch.cache_dir("downloads")
    (downloads / f"Dataset_BUSI-{SHA256[:16]}.part").write_bytes(left)
    (downloads / "unpacked" / "benign").mkdir(parents=True)
    (downloads / "unpacked" / "benign" / "benign (99).png").write_bytes(b"half")
    assert content(get(what)) == FILES
    assert len(server.asked) == requests
    assert left_in_cache() == []


def test_left_over_does_not_hide_a_wrong_server(get):
    part = fetch.cache_dir("downloads") / f"Dataset_BUSI-{SHA256[:16]}.part"
    part.write_bytes(GOOD[:3000])
    with pytest.raises(DataError, match="sent a web page"):
        get("page")
    assert not part.exists()


def test_keyboard_interrupt_leaves_nothing_in_the_target(get, target, monkeypatch):
    def interrupt(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "differences", interrupt)
    with pytest.raises(KeyboardInterrupt):
        get("good")
    assert list(target.iterdir()) == []
    assert "unpacked" not in left_in_cache()


def test_two_at_once_download_once(target, server):
    found = []
    server.asked.clear()
    one = partial(fetch.get, target, f"{server.address}/good.zip", SHA256)
    threads = [threading.Thread(target=lambda: found.append(one())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 2 and content(found[0]) == FILES
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


def test_kaggle_is_not_asked_when_the_archive_came(get, monkeypatch):
    kaggle(monkeypatch, lambda handle: pytest.fail("asked"))
    get("good")


def test_kaggle_only(get, server, tmp_path, monkeypatch):
    kaggle(monkeypatch, lambda handle: str(kaggle_copy(tmp_path)))
    assert content(get("good", source="kaggle")) == FILES
    assert server.asked == []


def test_kaggle_with_other_images_is_refused(get, target, tmp_path, monkeypatch):
    kaggle(monkeypatch, lambda handle: str(kaggle_copy(tmp_path)))
    monkeypatch.setattr(fetch, "differences", lambda folder: ["benign (1) has other pixels", "b", "c", "d"])
    with pytest.raises(
        DataError, match=r"not BUSI as its facts table knows it: benign \(1\) has other pixels; b; c; \.\."
    ):
        get("good", source="kaggle")
    assert list(target.iterdir()) == []


def test_kaggle_that_fails_is_one_more_reason(get, target, monkeypatch):
    def fail(handle):
        raise ValueError("403 from Kaggle")

    kaggle(monkeypatch, fail)
    with pytest.raises(DataError, match="(?s)404 Not Found.*kagglehub failed with ValueError: 403 from Kaggle"):
        get("missing")
    assert list(target.iterdir()) == []


def test_kaggle_with_something_else(get, target, tmp_path, monkeypatch):
    kaggle(monkeypatch, lambda handle: str(tmp_path))
    with pytest.raises(DataError, match="Three ways on"):
        get("missing")
    assert list(target.iterdir()) == []


# Archives made to do harm


def unpacked(tmp_path, files):
    (tmp_path / "made.zip").write_bytes(zipped(files))
    fetch.unpack(tmp_path / "made.zip", tmp_path / "out")
    return tmp_path / "out"


def refused(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        unpacked(tmp_path, files)
    assert not (tmp_path / "out").exists()


UNSAFE = ["../evil", "/etc/evil", "a/../../evil", "C:/evil", "C:evil", "..\\evil", "\\evil", "\\\\host\\share\\evil"]


@pytest.mark.parametrize("name", UNSAFE)
def test_member_outside_the_folder(tmp_path, name):
    refused(tmp_path, FILES | {name: b"evil"}, "would leave the folder")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_member_that_is_no_file(tmp_path, kind):
    member = zipfile.ZipInfo("benign/benign (1).png")
    member.external_attr = (kind | 0o777) << 16
    refused(tmp_path, {"benign/benign (2).png": png(2), member: b"/etc/passwd"}, "is a link or a device")


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_MEMBERS", 10)
    refused(tmp_path, FILES, "has 18 members, more than 10")


def test_too_many_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES", 1_000_000)
    refused(tmp_path, {"bomb.png": bytes(1_000_001)}, "would unpack to 1000001 bytes, more than 1000000")


def test_member_that_lies_about_its_size(tmp_path):
    made = zipped({"bomb.png": bytes(100_000)})
    made = made.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    (tmp_path / "made.zip").write_bytes(made)
    with pytest.raises(DataError, match="made.zip is damaged"):
        fetch.unpack(tmp_path / "made.zip", tmp_path / "out")
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.png")) <= 10


@pytest.mark.parametrize(
    "damage", [lambda made: made[:-30], lambda made: b"no zip", lambda made: made.replace(b"IDAT", b"JDAT", 1)]
)
def test_damaged_archive(tmp_path, damage):
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("benign/benign (1).png", png(1))
    (tmp_path / "made.zip").write_bytes(damage(stored.getvalue()))
    with pytest.raises(DataError, match="the archive made.zip is damaged or cannot be read"):
        fetch.unpack(tmp_path / "made.zip", tmp_path / "out")


def test_unsafe_archive_through_get(get, server, target, monkeypatch):
    made = zipped(FILES | {"../../../evil": b"evil"})
    monkeypatch.setattr(Handler, "good", lambda self: self.answer(made))
    with pytest.raises(DataError, match="(?s)not safe.*Three ways on"):
        get("good", sha256=hashlib.sha256(made).hexdigest())
    assert list(target.iterdir()) == []
    assert not list(target.parent.rglob("evil"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "a", "b (1)", "C:", ""]), min_size=1, max_size=5), st.sampled_from("/\\"))
def test_no_accepted_name_leaves_the_folder(tmp_path_factory, parts, slash):
    folder = tmp_path_factory.mktemp("zip")
    name = slash.join(parts)
    try:
        fetch._check_members([zipfile.ZipInfo(name)])
    except DataError:
        return
    assert (folder / "out" / name.replace("\\", "/")).resolve().is_relative_to(folder / "out")


# The real facts table


def test_other_images_are_refused_by_the_real_facts_table(get, target, monkeypatch):
    monkeypatch.setattr(fetch, "differences", REAL_DIFFERENCES)
    with pytest.raises(DataError, match="most of its images have other pixels than BUSI's"):
        get("good")
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("warnings", [(), ("1 image of BUSI is missing: benign (1).",)])
def test_warnings_of_the_catalogue_count(monkeypatch, warnings):
    scans = types.SimpleNamespace(table=None, warnings=warnings)
    monkeypatch.setattr("busilib.data.catalogue.read", lambda folder: scans)
    monkeypatch.setattr("busilib.data.facts.matches", lambda table: [0, 1, -1])
    assert REAL_DIFFERENCES("anywhere") == list(warnings)


def test_real_busi_has_no_differences(busi_dir):
    assert REAL_DIFFERENCES(busi_dir) == []
