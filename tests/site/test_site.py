"""The website: built without a warning, whole without network, and read in a real Chromium. Minutes, so marked slow.

``make site`` installs what it needs. A site that is built already may be named by the environment variable BUSI_SITE.
The checks of axe-core run where BUSI_AXE names its file axe.min.js (from the npm package axe-core).
"""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from busitools import notebooks

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KINDS = ["index.html", "notebooks/05_confusion_matrices.html", "notebooks/exercises/05_confusion_matrices.html"]
KINDS += [
    "notebooks/13_try_a_scan.html",
    "docs/teaching.html",
    "docs/glossary.html",
    "docs/results.html",
    "reference/busilib.metrics.html",
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site():
    """The folder of the built site."""
    for name in ("sphinx", "myst_nb", "sphinx_book_theme"):
        pytest.importorskip(name, reason="the extra `site` is not installed: make site")
    if os.environ.get("BUSI_SITE"):
        return Path(os.environ["BUSI_SITE"])
    subprocess.run([sys.executable, ROOT / "docs" / "site" / "build.py"], check=True, cwd=ROOT)
    return ROOT / "build" / "site"


class Page(HTMLParser):
    """What a page loads, where it links to, its pictures, title and language."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.ids, self.alts, self.language, self.title = [], [], set(), [], None, ""
        self.in_title, self.details = False, 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids.add(values.get("id"))
        self.details += tag == "details"
        if tag == "html":
            self.language = values.get("lang")
        if tag == "img":
            self.alts.append(values.get("alt"))
        if tag == "title" and not self.title:
            self.in_title = True
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "author"):
            self.loads.append(values.get("href", ""))
        elif values.get("src"):
            self.loads.append(values["src"])

    def handle_data(self, data):
        self.title += data if self.in_title else ""

    def handle_endtag(self, tag):
        self.in_title &= tag != "title"


@pytest.fixture(scope="module")
def pages(site):
    """All pages: path → Page. The theme's own fragments in _static are none."""
    return {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}


def test_the_licences_of_what_it_carries_are_there(site):
    fonts = list((site / "_static").rglob("*.woff2"))
    assert fonts and "Font Awesome" in (site / "_static" / "fonts-licence.txt").read_text(encoding="utf-8")
    for theme in ("sphinx_book_theme", "pydata_sphinx_theme"):
        assert "Redistribution" in (site / "_static" / "licences" / f"{theme}.txt").read_text(encoding="utf-8")


def test_nothing_comes_from_elsewhere(site, pages):
    assert len(pages) > 40
    outside = {(path.name, source) for path, page in pages.items() for source in page.loads if "//" in source[:8]}
    assert outside == set()
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_every_page_has_title_and_language_and_every_picture_a_description(pages):
    for path, page in pages.items():
        assert page.title.strip() and (page.language or "").startswith("en"), path
        assert None not in page.alts, path
        if re.match(r"\d\d_", path.name):
            assert all(alt.strip() for alt in page.alts), path


def test_links_inside_lead_somewhere(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            other = (path.parent / target).resolve() if target else path
            if not other.exists() or (anchor and other in pages and anchor not in pages[other].ids):
                broken.append((path.relative_to(site).as_posix(), link))
    assert broken == []


def test_answers_stay_folded_and_long_descriptions_whole(site, pages):
    assert pages[site / "notebooks" / "00_first_steps.html"].details >= 5
    notebook = json.loads((ROOT / "notebooks" / "05_confusion_matrices.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    stored = {output["metadata"]["image/png"]["alt"] for output in outputs if "image/png" in output.get("data", {})}
    assert stored and stored <= set(pages[site / "notebooks" / "05_confusion_matrices.html"].alts)


def test_docstrings_keep_their_literals(site):
    for path in (site / "reference").glob("*.html"):
        assert not re.search(r'<span class="pre">\\', path.read_text(encoding="utf-8")), path


def test_the_index_of_the_search_knows_grad_cam(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert '"grad"' in index or "grad:" in index
    assert "Grad-CAM" in index


@pytest.fixture(scope="module")
def address(site):
    """The site on a server of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_in_a_browser(address, width, scheme, tmp_path):
    """No error, nothing asked of another server, nothing wider than the window; axe-core, where it is at hand."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no Chromium on the PATH")
    shots = Path(os.environ.get("BUSI_SCREENSHOTS", tmp_path))
    wrong = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.set_default_timeout(120_000)
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: r.url.startswith((address, "data:", "blob:")) or wrong.append(r.url))
        for kind in KINDS:
            page.goto(address + kind)
            page.screenshot(path=shots / f"{kind.replace('/', '-')[:-5]}-{width}-{scheme}.png")
            if page.evaluate("document.documentElement.scrollWidth") > width:
                wrong.append(f"{kind} is wider than {width} pixels")
            if os.environ.get("BUSI_AXE"):
                page.add_script_tag(path=os.environ["BUSI_AXE"])
                found = page.evaluate("axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes[0].html))")
                wrong += [f"{kind}: {violation[:300]}" for violation in found]
        page.goto(f"{address}search.html?q=Grad-CAM")
        page.locator("ul.search li").first.wait_for()
        browser.close()
    assert wrong == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_of_busi_run_in_a_browser(scheme, tmp_path):
    """An executed lesson asks for nothing from elsewhere and fits a phone; axe-core where it is at hand."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no Chromium on the PATH")
    target = shutil.copy(ROOT / "notebooks" / "13_try_a_scan.ipynb", tmp_path / "13_try_a_scan.ipynb")
    address, wrong = notebooks.page(target).as_uri(), []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or wrong.append(r.url))
        page.goto(address)
        page.screenshot(path=Path(os.environ.get("BUSI_SCREENSHOTS", tmp_path)) / f"busi-run-390-{scheme}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        if os.environ.get("BUSI_AXE"):
            page.add_script_tag(path=os.environ["BUSI_AXE"])
            wrong += page.evaluate("axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes[0].html))")
        browser.close()
    assert wrong == []
