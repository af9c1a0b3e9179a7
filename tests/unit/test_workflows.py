"""The workflows for GitHub are YAML that says what it means: their jobs are bounded, and what they call is there."""

import re
from pathlib import Path

import pytest
import yaml

from busitools import cli

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request):
    return yaml.safe_load(request.param.read_text(encoding="utf-8"))


def commands(workflow):
    """All shell commands of a workflow, those of its matrix too."""
    for job in workflow["jobs"].values():
        yield from (step["run"] for step in job["steps"] if "run" in step)
        yield from (row.get("install", "") for row in job.get("strategy", {}).get("matrix", {}).get("include", []))


def test_jobs_are_bounded_and_may_do_little(workflow):
    assert True in workflow or "on" in workflow  # YAML 1.1 reads the key `on` as true
    assert "contents" in workflow["permissions"]
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 90
        assert set(job.get("needs", [])) <= set(workflow["jobs"])
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])


def test_what_is_called_is_there(workflow):
    text = "\n".join(commands(workflow))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= set(targets)
    assert set(re.findall(r"\bbusi ([a-z]+)", text)) <= set(cli._busi.commands)
    assert all((ROOT / path).exists() for path in re.findall(r"\btests/[\w./-]+", text))


def test_every_week_three_sets_of_versions_and_a_failure_is_told():
    weekly = yaml.safe_load((ROOT / ".github" / "workflows" / "weekly.yml").read_text(encoding="utf-8"))
    rows = weekly["jobs"]["lessons"]["strategy"]["matrix"]["include"]
    assert [row["versions"] for row in rows] == ["colab", "lowest", "newest"]
    report = weekly["jobs"]["report"]
    assert report["needs"] == ["lessons", "links"] and report["if"].startswith("failure()")
    assert report["permissions"] == {"issues": "write"} and "gh issue create" in report["steps"][0]["run"]
