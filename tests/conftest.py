"""Fixtures and rules for all tests."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ["BUSILIB_PROGRESS"] = "0"


# Runs at the start of every kernel: blocking sockets in pytest itself does not reach them.
NO_NETWORK = """
import ipaddress, socket

def _guard(method):
    def connect(self, address):
        host = address[0] if isinstance(address, tuple) else ""
        try:
            local = not host or host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            local = False
        if self.family in (socket.AF_INET, socket.AF_INET6) and not local:
            raise ConnectionRefusedError(f"{host}: tests allow connections to this machine only")
        return method(self, address)
    return connect

def _resolve(host, *rest, _resolve=socket.getaddrinfo, **options):
    if host not in (None, "", "localhost", "127.0.0.1", "::1", b"localhost"):
        raise ConnectionRefusedError(f"{host}: tests allow connections to this machine only")
    return _resolve(host, *rest, **options)

socket.socket.connect = _guard(socket.socket.connect)
socket.socket.connect_ex = _guard(socket.socket.connect_ex)
socket.getaddrinfo = _resolve
"""


def pytest_configure(config):
    """Give the whole run one fresh cache and kernels without network; pytest-xdist's workers inherit both."""
    if hasattr(config, "workerinput"):
        return
    config.own_folder = Path(tempfile.mkdtemp(prefix="busilib-tests-"))
    os.environ.setdefault("BUSILIB_CACHE", str(config.own_folder / "cache"))
    profile = config.own_folder / "ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True)
    (profile / "startup" / "00-no-network.py").write_text(NO_NETWORK, encoding="utf-8")
    # ipykernel 7.3 and later warns of plain TCP at every start.
    (profile / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 'ERROR'\n")
    os.environ["IPYTHONDIR"] = str(config.own_folder / "ipython")


def pytest_unconfigure(config):
    if hasattr(config, "own_folder"):
        shutil.rmtree(config.own_folder, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where BUSI_DIR is set, a test that asks for the real BUSI may not skip."""
    report = yield
    asks = "busi_dir" in getattr(item, "fixturenames", ())
    if os.environ.get("BUSI_DIR") and asks and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"BUSI_DIR is set, so this test must run, but it was skipped: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def busi_dir():
    """The folder of the real BUSI, named by the environment variable BUSI_DIR; without it the test is skipped."""
    folder = os.environ.get("BUSI_DIR")
    if not folder:
        pytest.skip("BUSI_DIR is not set: it names the folder of the real BUSI")
    return Path(folder)


@pytest.fixture(scope="session")
def busi(busi_dir):
    """The catalogue of the real BUSI."""
    from busilib.data import catalogue

    return catalogue.read(busi_dir, name="busi")


@pytest.fixture(scope="session")
def phantom_dir():
    """A folder of 60 phantoms, in the cache: read it, never write into it."""
    from busilib.data import phantom

    return phantom.cached(60, seed=0)


@pytest.fixture(scope="session")
def phantoms(phantom_dir):
    """The catalogue of 60 phantoms."""
    from busilib.data import catalogue

    return catalogue.read(phantom_dir)


def tiny_network(include_top, weights, input_shape, name=None):
    """Return a backbone of two stages, as a function of keras.applications would."""
    import keras

    x = pixels = keras.Input(input_shape)
    for number, width in enumerate((8, 16), start=1):
        x = keras.layers.Conv2D(width, 3, strides=4, padding="same")(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU(name=f"stage_{number}")(x)
    return keras.Model(pixels, x, name=name)


def add_tiny(patch):
    """Make "Tiny" a name in BACKBONES for as long as ``patch``, a pytest.MonkeyPatch, is in force."""
    import busilib.learning  # noqa: F401, I001  (loads Keras quietly)
    import keras
    from busilib.learning.models import BACKBONES, Backbone

    patch.setattr(keras.applications, "Tiny", tiny_network, raising=False)
    patch.setitem(BACKBONES, "Tiny", Backbone("tf", "stage_1", "stage_1", "tiny_notop.h5"))
    return "Tiny"


@pytest.fixture(scope="session")
def tiny():
    """A backbone of two stages that trains in a second; its name is a key of BACKBONES while tests run."""
    with pytest.MonkeyPatch.context() as patch:
        yield add_tiny(patch)
