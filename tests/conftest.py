"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def busi_dir():
    """The folder of the real BUSI, named by the environment variable BUSI_DIR; without it the test is skipped."""
    folder = os.environ.get("BUSI_DIR")
    if not folder:
        pytest.skip("BUSI_DIR is not set: it names the folder of the real BUSI")
    return Path(folder)
