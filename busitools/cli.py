"""The command line, ``busi``: data, run, refresh, sweep, collect, repeat, exercises, grade."""

import argparse
import ast
import difflib
import sys
from pathlib import Path

from busilib.errors import BusiError, RunError


def main(arguments=None):
    """Run one command; print errors that are meant for the user in plain words and exit with 1."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (BusiError, ValueError) as error:
        print(f"busi: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("busi: stopped", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(prog="busi", description="Lessons on breast-ultrasound classification.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="execute lessons, on phantoms and quick unless told otherwise")
    run.add_argument("lessons", nargs="*", metavar="LESSON", help="03, or a notebook's path; all when none is named")
    run.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter")
    run.add_argument("--out", default="runs/quick", help="folder of the executed lessons (default: %(default)s)")
    run.set_defaults(command=_run)

    sweep = commands.add_parser("sweep", help="execute a grid of lessons and parameters, here or on a cluster")
    sweep.add_argument("grid", help="a YAML file; docs/examples/sweep_quick.yaml is one to begin with")
    sweep.add_argument("--out", default="runs/sweep", help="folder of the sweep (default: %(default)s)")
    where = sweep.add_mutually_exclusive_group()
    where.add_argument("--workers", type=_count, help="executions at a time here (default: one a GPU, else 1)")
    where.add_argument("--scheduler", metavar="ADDRESS", help="a Dask scheduler that is running, like tcp://host:8786")
    where.add_argument("--slurm", action="store_true", help="SLURM jobs, as the grid's slurm section says")
    sweep.add_argument("--dry-run", action="store_true", help="show what would be done (with --slurm, the job script)")
    sweep.set_defaults(command=_sweep)

    collect = commands.add_parser("collect", help="read all runs of a folder into one table, Parquet and CSV")
    collect.add_argument("folder", help="of runs, or of a sweep")
    collect.add_argument("--plot", metavar="COLUMN", help="draw the measure over this column, into FOLDER/plot.png")
    collect.add_argument("--measure", default="test_accuracy", help="what to average and draw (default: %(default)s)")
    collect.set_defaults(command=_collect)

    repeat = commands.add_parser("repeat", help="train a finished run once more, from its run.json alone")
    repeat.add_argument("file", metavar="RUN_JSON")
    repeat.add_argument("--dataset", help="where the scans are, when they are neither phantoms nor the BUSI of `get`")
    repeat.add_argument("--weights", help="the file of the weights, when they came from one")
    repeat.add_argument("--out", default="runs/repeated", help="folder of the new run (default: %(default)s)")
    repeat.set_defaults(command=_repeat)

    refresh = commands.add_parser("refresh", help="replace the lessons' stored outputs by those of a clean quick run")
    refresh.add_argument("lessons", nargs="*", metavar="LESSON")
    refresh.set_defaults(command=_refresh)

    exercises = commands.add_parser("exercises", help="teachers: write the exercises from their solutions")
    exercises.set_defaults(command=_exercises)

    grade = commands.add_parser("grade", help="teachers: grade a folder of submissions, each in a sandbox")
    grade.add_argument("submissions", help="a folder that holds a folder, or a notebook, a student")
    grade.add_argument("--out", default="gradebook.csv", help="the table; log and feedback go beside it")
    grade.add_argument("--solutions", help="folder of the notebooks with solutions (default: the checkout's)")
    grade.add_argument("--seconds", type=int, default=60, help="for a cell (default: %(default)s; five times for all)")
    grade.add_argument("--memory", type=int, default=4, help="GB for a submission (default: %(default)s)")
    grade.add_argument("--jobs", type=int, default=2, help="how many at a time (default: %(default)s)")
    grade.add_argument("--trusted", action="store_true", help="no sandbox: the code runs as you, with your files")
    grade.set_defaults(command=_grade)

    data = commands.add_parser("data", help="get, check or make a data set").add_subparsers(
        required=True, metavar="COMMAND"
    )
    get = data.add_parser("get", help="download BUSI (about 200 MB)")
    get.add_argument("folder", nargs="?", help="where to put it (default: data/ of the checkout, else the cache)")
    get.set_defaults(command=_get)
    check = data.add_parser("check", help="say what is in a folder and what is wrong with it")
    check.add_argument("folder")
    check.add_argument("--json", action="store_true", help="the same for programs")
    check.set_defaults(command=_check)
    phantom = data.add_parser("phantom", help="make made-up scans in the BUSI layout")
    phantom.add_argument("folder")
    phantom.add_argument("--n", type=int, default=300, help="how many (default: %(default)s)")
    phantom.add_argument("--seed", type=int, default=0)
    phantom.set_defaults(command=_phantom)
    return parser


def _run(options):
    from busitools import notebooks

    executions = notebooks.run(options.lessons, options.out, {name: _value(text) for name, text in options.p})
    return _tell(executions, f"Read them: open {options.out}/index.html in a browser.")


def _sweep(options):
    from busitools import sweep

    if options.dry_run:
        return _dry_run(options)
    where = {"workers": options.workers, "scheduler": options.scheduler, "slurm": options.slurm}
    executions = sweep.sweep(options.grid, options.out, **where)
    failed = [item for item in executions if item.error is not None]
    for item in failed:
        print(f"{item.output.parent.name}   FAILED: {item.error}")
    finished = len(executions) - len(failed)
    print(f"{finished} of {len(executions)} executions are finished; see {options.out}/executions.csv")
    if failed:
        print(f"Tracebacks: {options.out}/{sweep.FAILED}. The same command does again only what is missing.")
    print(f"Read the runs: busi collect {options.out}")
    return 1 if failed else 0


def _dry_run(options):
    from busitools import sweep

    todo = sweep.plans(options.grid, options.out)
    for plan in todo:
        state = "finished" if plan.finished() else "to do"
        print(f"{plan.name}  {state:<8}  " + ", ".join(f"{name}={value!r}" for name, value in plan.parameters.items()))
    print(f"{len(todo)} executions, {sum(plan.finished() is not None for plan in todo)} of them finished")
    if options.slurm:
        print("\nEach job is submitted with:\n\n" + sweep.job_script(options.grid))
    return 0


def _collect(options):
    from busilib import figures, runs

    if not Path(options.folder).is_dir():
        raise RunError(f"There is no folder {options.folder}")
    table = runs.collect(options.folder)
    if table.empty:
        raise RunError(f"{options.folder} holds no finished runs")
    for column in (options.plot, options.measure):
        if column is not None and column not in table:
            close = difflib.get_close_matches(column, table.columns, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(table.columns)}"
            raise RunError(f"The table has no column {column!r}. {hint}")
    print(runs.means(table, [options.measure]).round(3).to_string(index=False))
    for (name, protocol), group in table.groupby(["name", "protocol"]):
        one = runs.best(group)
        how = "on the test part, as the protocol has it" if one["validation_is_test"] else "by validation"
        print(f"best of {name}, {protocol}, chosen {how}: {one['run']}, seed {one['seed']}, fold {one['fold']}, "
              f"validation {one['validation_accuracy']:.3f}, test {one['test_accuracy']:.3f}")  # fmt: skip
    files = runs.write_table(table, options.folder)
    if options.plot:
        files.append(Path(options.folder) / "plot.png")
        means = runs.means(table, [options.measure], by=["protocol", options.plot])
        picture = figures.by_parameter(table, means, options.plot, options.measure)
        picture.save(files[-1])
        print(picture.description)
    print(f"{len(table)} runs: " + ", ".join(map(str, files)))
    return 0


def _repeat(options):
    from busitools import repeat

    run, same = repeat.repeat(options.file, options.dataset, options.weights, options.out)
    print(f"{run.folder}\n{same}")
    return 0


def _count(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _refresh(options):
    from busitools import notebooks

    return _tell(notebooks.refresh(options.lessons), "The stored outputs are those of this run.")


def _tell(executions, ending):
    for item in executions:
        state = "ok" if item.error is None else f"FAILED in {item.error}"
        print(f"{item.lesson.stem:<36} {item.seconds:6.0f} s   {state}")
    failed = sum(item.error is not None for item in executions)
    print(f"{len(executions) - failed} of {len(executions)} lessons finished. {ending}")
    return 1 if failed else 0


def _value(text):
    """Read a parameter's value as Python does, as papermill -p would: 3 → int, 0.5 → float, paper → "paper"."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _exercises(options):
    from busitools import exercises

    written = exercises.write()
    print(f"{len(written)} exercises are in {written[0].parent}")
    return 0


def _grade(options):
    from busitools import grading, sandbox

    limits = sandbox.Limits(seconds=options.seconds, total=5 * options.seconds, memory=options.memory)
    out = Path(options.out)
    grades = grading.grade(
        options.submissions, out, options.solutions, trusted=options.trusted, limits=limits, jobs=options.jobs
    )
    for one in grades:
        print(f"{one.student:<24} {one.exercise:<3} {one.points:5g} of {one.of:<4g} {'; '.join(one.remarks)}")
    print(f"{len(grades)} submissions. Table: {out}. Pages: {out.with_name(out.stem + '_feedback')}")
    print("WITHOUT a sandbox." if options.trusted else sandbox.REMAINS)
    return 0


def _get(options):
    from busilib.data import fetch

    print(f"BUSI is ready in {fetch.get(options.folder)}")
    return 0


def _check(options):
    from busilib.data import catalogue

    text, status = catalogue.check(options.folder, options.json)
    print(text)
    return status


def _phantom(options):
    from busilib.data import phantom

    print(f"{options.n} phantoms are in {phantom.make(options.folder, options.n, options.seed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
