"""The demo's page in a real browser: uploads good and bad, the slider, twenty in a row, two visitors at once.

Marked ``browser`` as test_browser.py is; the extra `demo` brings Voilà.
"""

import io
import re
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.browser, pytest.mark.slow]
WAIT = 240_000  # milliseconds: the first visitor waits for Keras, and for the training of the run


@pytest.fixture(scope="module")
def address(phantom_dir, tmp_path_factory):
    """A served page, on 60 phantoms; returns its address."""
    pytest.importorskip("voila", reason="the extra 'demo' is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("demo") / "voila.log"
    command = [sys.executable, "-m", "busitools.cli", "demo", "--port", str(port), "-p", "DATASET", str(phantom_dir)]
    with open(log, "w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        for _ in range(240):
            if place := re.search(r"http://127\.0\.0\.1:\d+/", log.read_text()):
                break
            time.sleep(0.5)
        else:
            pytest.fail(log.read_text()[-2000:])
        yield place.group()
    finally:
        server.terminate()
        server.wait(timeout=30)


class Visitor:
    """One open page, and what went wrong on it."""

    def __init__(self, browser, address, width=1280):
        self.wrong = []
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(WAIT)
        self.page.on("console", lambda m: m.type == "error" and self.wrong.append(m.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda r: r.url.startswith((address, "data:", "blob:")) or self.wrong.append(r.url))
        self.page.goto(address)
        self.page.wait_for_selector("p[role=status]")

    def upload(self, name, content):
        """Upload a file; return the sentence that the page then says about it."""
        with self.page.expect_file_chooser() as chooser:
            self.page.click("button:has-text('Upload a picture')")
        chooser.value.set_files({"name": name, "mimeType": "image/png", "buffer": content})
        self.page.wait_for_selector(f"p[role=status]:has-text('{name}')")
        return self.page.inner_text("p[role=status]")

    def pictures(self):
        """The addresses of the pictures on the page: the scan, the bars, the neighbours."""
        return self.page.locator("img[alt]").evaluate_all("images => images.map(image => image.src)")


@pytest.fixture(scope="module")
def visitor(browser, address):
    return Visitor(browser, address)


def noise(seed):
    """A picture that is no scan, another one for each seed, as the bytes of a PNG."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (80, 100, 3), dtype="uint8")
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_scan_is_uploaded_and_the_slider_moves(visitor, phantoms, pictures):
    with open(phantoms.table["path"].iloc[0], "rb") as file:
        said = visitor.upload("mine.png", file.read())
    assert "The model says" in said or "unlike anything" in said
    before = visitor.pictures()
    assert len(before) == 3
    visitor.page.screenshot(path=pictures / "demo-1280.png", full_page=True)
    visitor.page.locator(".noUi-handle").focus()
    visitor.page.keyboard.press("End")
    visitor.page.wait_for_function("before => document.querySelector('img[alt]').src != before", arg=before[0])
    assert visitor.pictures()[1:] == before[1:], "the slider moves the heat map alone"
    assert visitor.wrong == []


def test_what_is_no_scan_is_said_to_be_unlike(visitor, pictures):
    assert "unlike anything that the model has seen" in visitor.upload("noise.png", noise(0))
    visitor.page.screenshot(path=pictures / "demo-unlike.png", full_page=True)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("letter.png", b"Dear doctor, " * 9, "is no picture"),
        ("large.png", bytes(30_000_000), "The limit is 8 million"),
        ("<b>bold.png", b"x", "<b>bold.png is no picture"),
    ],
)
def test_a_bad_upload_gets_a_sentence_and_the_page_lives_on(visitor, name, content, words):
    assert words in visitor.upload(name, content)
    assert visitor.pictures() == []
    assert "unlike" in visitor.upload("after.png", noise(1)) and len(visitor.pictures()) == 3
    assert visitor.wrong == []


def test_twenty_uploads_in_a_row_and_another_visitor(visitor, browser, address, pictures):
    second = Visitor(browser, address, width=390)
    assert second.page.evaluate("document.documentElement.scrollWidth") <= 390
    second.page.screenshot(path=pictures / "demo-390.png", full_page=True)
    assert "other.png: " in second.upload("other.png", noise(99))
    theirs, seconds, seen = second.pictures(), [], set()
    for number in range(20):
        began = time.perf_counter()
        assert f"noise-{number:02d}.png: " in visitor.upload(f"noise-{number:02d}.png", noise(number))
        seconds.append(round(time.perf_counter() - began, 2))
        seen.add(visitor.pictures()[0])
    print("seconds per upload:", *seconds)
    assert len(seen) == 20, "each upload shows its own picture"
    assert second.pictures() == theirs and "other.png" in second.page.inner_text("p[role=status]")
    assert "last.png: " in second.upload("last.png", noise(98))
    assert "noise-19.png: " in visitor.page.inner_text("p[role=status]")
    assert visitor.wrong == second.wrong == []
