"""The command line, ``busi``: data, run, refresh, sweep, collect, repeat, cache, doctor, demo,
exercises, grade."""

import shutil
import sys
from pathlib import Path

import click

from busilib.cache import write_file
from busilib.errors import BusiError, RunError


def main(arguments=None):
    """Run one command and return the exit status; errors that are meant for the user are printed in plain words."""
    try:
        return _busi.main(arguments, "busi", standalone_mode=False) or 0
    except click.UsageError as error:
        error.show()
        return 2
    except (BusiError, ValueError) as error:
        words, status = error, 1
    except ImportError as error:
        words, status = f"this needs {error.name or error}: pip install 'busi-notebooks[sweep,teacher]'", 1
    except OSError as error:
        words, status = f"{error.filename}: {error.strerror}" if error.filename else error, 1
    except click.Abort:
        words, status = "stopped", 130
    print(f"busi: {words}", file=sys.stderr)
    return status


@click.group(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
def _busi():
    """Lessons on breast-ultrasound classification. For teaching and research, not for diagnosis."""


@_busi.group("data")
def _data():
    """Get, check, convert or make a data set."""


@_busi.command("run")
@click.argument("lessons", nargs=-1, metavar="[LESSON]...")
@click.option("-p", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter; may be given several times.")
@click.option("--out", default="runs/quick", help="Folder of the executed lessons.")
def _run(lessons, p, out):
    """Execute lessons, on phantoms and quick unless told otherwise.

    LESSON is a number like 03, or a notebook's path; all when none is named.
    """
    from busitools import notebooks

    return _tell(notebooks.run(lessons, out, dict(p)), f"Read them: open {out}/index.html in a browser.")


@_busi.command("refresh")
@click.argument("lessons", nargs=-1, metavar="[LESSON]...")
def _refresh(lessons):
    """Replace the lessons' stored outputs by those of a clean quick run."""
    from busitools import notebooks

    return _tell(notebooks.refresh(lessons), "The stored outputs are those of this run.")


def _tell(executions, ending):
    """Print a line as each execution ends; return the exit status."""
    errors = []
    for item in executions:
        processor = "" if item.processor is None else f"{item.processor:6.0f} s of processor time"
        state = "ok" if item.error is None else f"FAILED: {item.error}"
        print(f"{item.lesson.stem:<36} {item.seconds:6.0f} s {processor}   {state}   {item.output}", flush=True)
        errors.append(item.error)
    print(f"{errors.count(None)} of {len(errors)} finished. {ending}")
    return int(any(errors))


@_busi.command("sweep")
@click.argument("grid")
@click.option("--out", default="runs/sweep", help="Folder of the sweep.")
@click.option("--workers", type=click.IntRange(1), help="Executions at a time here. [default: one per GPU, else 1]")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler that is running, like tcp://host:8786.")
@click.option("--slurm", is_flag=True, help="SLURM jobs, as the grid's slurm section says.")
@click.option("--dry-run", is_flag=True, help="Show what would be done (with --slurm, the job script).")
def _sweep(grid, out, dry_run, **where):
    """Execute a grid of lessons and parameters, here or on a cluster.

    GRID is a YAML file; docs/examples/sweep_quick.yaml is one to begin with.
    """
    from busitools import sweep

    if dry_run:
        for plan in sweep.plans(grid, out):
            values = ", ".join(f"{name}={value!r}" for name, value in plan.parameters.items())
            print(f"{plan.name}  {'finished' if plan.finished() else 'to do':<8}  {values}")
        return print(f"\nEach job is submitted with:\n\n{sweep.job_script(grid)}" if where["slurm"] else "")
    ending = f"See {out}/executions.csv; what failed is in {out}/{sweep.FAILED}. The same command does what is missing."
    return _tell(sweep.sweep(grid, out, **where), f"{ending} Read the runs: busi collect {out}")


@_busi.command("collect")
@click.argument("folder")
@click.option("--plot", metavar="COLUMN", help="Draw the measure over this column, into FOLDER/plot.png.")
@click.option("--measure", default="test_accuracy", help="What to average and draw.")
def _collect(folder, plot, measure):
    """Read all runs of a folder, or of a sweep, into one table, Parquet and CSV."""
    from busilib import figures, runs

    if not Path(folder).is_dir() or (table := runs.collect(folder)).empty:
        raise RunError(f"There are no finished runs in {folder}")
    for column in {plot or measure, measure} - set(table):
        raise RunError(f"The table has no column {column!r}. There are: {', '.join(table.columns)}")
    print(runs.means(table, [measure]).round(3).to_string(index=False))
    for (name, protocol), group in table.groupby(["name", "protocol"]):
        best = runs.best(group)
        how = "on the test part, as the protocol has it" if best["validation_is_test"] else "by validation"
        print(f"best of {name}, {protocol}, chosen {how}: {best['run']}, seed {best['seed']}, fold {best['fold']}, "
              f"validation {best['validation_accuracy']:.3f}, test {best['test_accuracy']:.3f}")  # fmt: skip
    files = [Path(folder) / name for name in ("runs.csv", "runs.parquet")]
    for file, save in zip(files, (table.to_csv, table.to_parquet), strict=True):
        with write_file(file) as temporary:
            save(temporary, index=False)
    if plot:
        picture = figures.by_parameter(table, runs.means(table, [measure], by=["protocol", plot]), plot, measure)
        (Path(folder) / "plot.png").write_bytes(picture.png)
        print(picture.description)
    print(f"{len(table)} runs: " + ", ".join(map(str, files)))


@_busi.command("repeat")
@click.argument("file", metavar="RUN_JSON")
@click.option("--dataset", help="Where the scans are, when they are neither phantoms nor the BUSI of `get`.")
@click.option("--weights", help="The file of the weights, when they came from one.")
@click.option("--out", default="runs/repeated", help="Folder of the new run.")
def _repeat(file, dataset, weights, out):
    """Train a finished run once more, from its run.json alone."""
    from busitools import repeat

    run, comparison = repeat.repeat(file, dataset, weights, out)
    print(f"{run.folder}\n{comparison}")


@_busi.command("cache")
@click.argument("what", type=click.Choice(["show", "clear"]), default="show")
@click.argument("kinds", nargs=-1, metavar="[KIND]...")
def _cache(what, kinds):
    """Show what the cache holds, or clear it.

    `clear` takes the KINDs that are named; without one all that can be made again, so neither runs nor busi.
    """
    from busilib import cache

    sizes = cache.sizes()
    if what == "clear":
        for kind in set(kinds) - set(sizes):
            raise BusiError(f"The cache holds no {kind!r}. It holds: {', '.join(sizes) or 'nothing'}")
        gone = kinds or set(sizes) - {"runs", "busi"}
        sizes = {kind: size for kind, size in sizes.items() if kind in gone}
        for kind in sizes:
            shutil.rmtree(cache.cache_dir(kind))
    for kind, size in sizes.items():
        print(f"{kind:<14} {size / 1e6:10.1f} MB")
    print(f"{sum(sizes.values()) / 1e6:.1f} MB {'cleared from' if what == 'clear' else 'in'} {cache.cache_dir()}")


@_busi.command("doctor")
@click.option("--class", "for_class", is_flag=True, help="What a teacher needs for the lesson, too.")
def _doctor(for_class):
    """Say what works here, and what to do where something does not; the exit status is 1 then."""
    from busitools import doctor

    return doctor.report(doctor.examine(for_class))


@_busi.command("demo")
@click.option("-p", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter of lesson 13.")
@click.option("--ip", default="127.0.0.1", help="0.0.0.0 lets the whole network in.")
@click.option("--port", default=8866)
def _demo(p, ip, port):
    """Serve lesson 13's page, on which a visitor tries a scan."""
    from busitools import demo

    return demo.serve(dict(p), ip, port)


@_busi.command("exercises")
def _exercises():
    """Teachers: write the exercises from their solutions."""
    from busitools import exercises

    written = exercises.write()
    print(f"{len(written)} exercises are in {written[0].parent}")


@_busi.command("grade")
@click.argument("submissions")
@click.option("--out", default="gradebook.csv", help="The table; log and feedback go beside it.")
@click.option("--solutions", help="Folder of the notebooks with solutions. [default: the checkout's]")
@click.option("--seconds", default=60, help="Per cell; five times that for all.")
@click.option("--memory", default=4, help="GB per submission.")
@click.option("--jobs", default=2, help="How many at a time.")
@click.option("--trusted", is_flag=True, help="No sandbox: the code runs as you, with your files.")
def _grade(submissions, out, solutions, seconds, memory, jobs, trusted):
    """Teachers: grade a folder of submissions, each in a sandbox.

    SUBMISSIONS is a folder that holds a folder, or a notebook, per student.
    """
    from busitools import grading, sandbox

    limits, out = sandbox.Limits(seconds=seconds, total=5 * seconds, memory=memory), Path(out)
    grading.grade(submissions, out, solutions, trusted=trusted, limits=limits, jobs=jobs)
    print(out.with_suffix(".log").read_text(encoding="utf-8"))


@_data.command("get")
@click.argument("folder", required=False)
def _get(folder):
    """Download BUSI (about 200 MB).

    FOLDER is where to put it: data/ of the checkout when none is named, else the cache.
    """
    from busilib.data import fetch

    print(f"BUSI is ready in {fetch.get(folder)}")


@_data.command("check")
@click.argument("folder")
@click.option("--json", is_flag=True, help="The same for programs.")
def _check(folder, json):
    """Say what is in a folder and what is wrong with it."""
    from busilib.data import catalogue
    from busitools import check

    print(check.report(catalogue.read(folder), json))


@_data.command("convert")
@click.argument("source")
@click.argument("target")
def _convert(source, target):
    """Copy a data set of another layout into one that can be read.

    SOURCE has one of the usual layouts: BUS-BRA's, BUS-UCLM's, folders images and masks, or train, val and test.
    TARGET is the new folder; labels.csv in it names class, masks and patient of each image.
    """
    from busitools import convert

    counts, warnings = convert.convert(source, target)
    print("\n".join([counts.to_string(), *(f"warning: {one}" for one in warnings)]))
    print(f"The copy is in {target}. The lessons read it with DATASET = {target!r}.")


@_data.command("audit")
@click.argument("folder")
@click.argument("split", metavar="SPLIT.csv")
@click.option("--json", is_flag=True, help="The same for programs.")
def _audit(folder, split, json):
    """Say what a split of a folder leaks; the exit status is 1 when it does.

    SPLIT.csv has the columns file and split.
    """
    from busilib.data import audit, catalogue

    findings = audit.check(catalogue.read(folder), audit.read(split))
    print(audit.report(findings, json))
    return int(audit.leaks(findings))


@_data.command("phantom")
@click.argument("folder")
@click.option("--n", default=300, help="How many.")
@click.option("--seed", default=0)
def _phantom(folder, n, seed):
    """Make made-up scans in the BUSI layout."""
    from busilib.data import phantom

    print(f"{n} phantoms are in {phantom.make(folder, n, seed)}")


if __name__ == "__main__":
    sys.exit(main())
