"""benchmarks/: a row's arithmetic, what is kept in results.json, and what a failing module may not take with it."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench

    return bench


@pytest.fixture
def rows(bench):
    import rows

    return rows


def test_a_ratio_above_1_means_that_ours_is_better(rows):
    faster = rows.row("input", 300.0, "images/s", other=100.0, target="ratio >= 2.5", device="a GPU")
    assert (faster["ratio"], faster["reached"], faster["device"]) == (3.0, True, "a GPU")
    slower = rows.row("start", 0.4, "s", other=0.1, better="lower", target="ours <= 0.3")
    assert (slower["ratio"], slower["reached"]) == (0.25, False)
    alone = rows.row("peak", 1234.5678, "MB")
    assert (alone["ours"], alone["ratio"], alone["target"], alone["reached"]) == (1235.0, None, None, None)
    assert list(alone) == list(rows.COLUMNS)
    assert alone["device"].startswith("CPU, ")


@pytest.mark.parametrize("target", ["10", "ratio > 10", "theirs <= 1", "ratio >= fast", "ratio >= 2"])
def test_a_target_that_cannot_be_checked_is_refused(rows, target):
    with pytest.raises(ValueError, match="target"):
        rows.row("input", 3.0, "s", target=target)


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_no_number_is_no_result(rows, figure):
    with pytest.raises(ValueError, match="no result"):
        rows.row("input", 1.0, "s", other=figure)


def test_functions_are_timed_in_turns(rows):
    calls = []
    taken = rows.seconds(lambda: calls.append("a"), lambda: calls.append("b"), repeats=3)
    assert "".join(calls) == "ababab" and len(taken) == 2 and min(taken) >= 0


def test_only_what_was_measured_is_replaced(bench, rows, tmp_path):
    results = tmp_path / "results.json"
    bench.store("growth", [rows.row("kept", 1.0, "s"), rows.row("new", 1.0, "s"), rows.row("stale", 1.0, "s")], results)
    bench.store("start", [rows.row("help", 0.2, "s")], results)
    again = [rows.not_measured("kept", "no GPU"), rows.row("new", 2.0, "s"), rows.not_measured("never", "no GPU")]
    said = bench.store("growth", again, results)
    found = {row["name"]: row["ours"] for row in bench.load(results)}
    assert found == {"start: help": 0.2, "growth: kept": 1.0, "growth: new": 2.0, "growth: never": None}
    assert list(found)[0] == "start: help"  # in the order of the modules, whichever came first
    assert "growth: kept not measured: no GPU, the earlier row is kept" in said
    assert "growth: never not measured: no GPU, no earlier row" in said
    before = results.read_text(encoding="utf-8")
    said = bench.store("growth", [rows.not_measured("never", "no GPU", "ours <= 1")], results)
    assert results.read_text(encoding="utf-8") == before and "the earlier rows are kept" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_two_rows_of_one_name_or_other_columns_are_refused(bench, rows, tmp_path):
    row = rows.row("help", 0.2, "s")
    for wrong in ([row, row], [{"name": "help", "ours": 0.2}]):
        with pytest.raises(ValueError, match="start"):
            bench.store("start", wrong, tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()


def test_a_write_that_fails_leaves_the_earlier_results(bench, rows, tmp_path):
    results = tmp_path / "results.json"
    bench.store("start", [rows.row("help", 0.2, "s")], results)
    before = results.read_bytes()
    with pytest.raises(TypeError):
        bench.store("start", [rows.row("help", 0.3, "s", note={1, 2})], results)
    assert results.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


MODULES = {
    "bench_fine": "import rows\ndef measure():\n    return [rows.row('a', 2.0, 's', note='of a made-up module')]",
    "bench_fails": "def measure():\n    raise RuntimeError('no such thing')",
    "bench_dies": "import os\ndef measure():\n    os._exit(9)",
    "bench_skips": "import rows\ndef measure():\n    raise rows.Skipped('there is no GPU')",
}


def test_a_failing_module_takes_no_other_with_it(bench, tmp_path, monkeypatch, capsys):
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["bench"])  # the children need not load pytest again
    results = tmp_path / "results.json"
    earlier = {"name": "bench_fails: b", "ours": 7.0, "note": ""}
    results.write_text(json.dumps([dict.fromkeys(bench.COLUMNS) | earlier]), encoding="utf-8")

    status = bench.main(["--only", "bench_fails", "bench_dies", "bench_skips", "bench_absent", "bench_fine"], results)

    said = capsys.readouterr().out
    assert status == 1
    assert {row["name"]: row["ours"] for row in bench.load(results)} == {"bench_fails: b": 7.0, "bench_fine: a": 2.0}
    assert "bench_fails: FAILED: RuntimeError: no such thing" in said and "bench_dies: FAILED" in said
    assert "bench_skips: skipped: there is no GPU; there are no earlier rows" in said
    assert "bench_absent: skipped: benchmarks/bench_absent.py is not there" in said
    assert "of a made-up module" in said
    assert bench.main(["--only", "bench_skips", "bench_fine"], results) == 0


def test_the_stored_results_follow_from_their_figures(bench, rows):
    """No row was edited by hand: ratio and reached are those of its own figures."""
    stored = bench.load()
    assert len({row["name"] for row in stored}) == len(stored) > 0
    for row in stored:
        assert list(row) == list(rows.COLUMNS)
        if row["ours"] is not None:
            if row["other"] is not None:
                better = max(row["ours"] / row["other"], row["other"] / row["ours"])
                assert max(row["ratio"], 1 / row["ratio"]) == pytest.approx(better, rel=2e-3)
            assert row["reached"] == rows._reached(row["name"], row["target"], row["ours"], row["ratio"])


def test_the_readme_shows_the_stored_results(bench):
    table = bench.markdown(bench.load())
    assert table.count("\n") > 15, "few rows were measured"
    readme = (BENCHMARKS.parent / "README.md").read_text(encoding="utf-8")
    assert table in readme, f"copy this into the README, under Fast:\n{table}"
