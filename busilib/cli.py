"""The command line: ``busi data get|check|phantom``, ``busi run|refresh``, ``busi exercises|grade``."""

import argparse
import ast
import sys
from pathlib import Path

from busilib.errors import BusiError


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
    from busilib import batch

    executions = batch.run(options.lessons, options.out, {name: _value(text) for name, text in options.p})
    return _tell(executions, f"Read them: open {options.out}/index.html in a browser.")


def _refresh(options):
    from busilib import batch

    return _tell(batch.refresh(options.lessons), "The stored outputs are those of this run.")


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
    from busilib.classroom import exercises

    written = exercises.write()
    print(f"{len(written)} exercises are in {written[0].parent}")
    return 0


def _grade(options):
    from busilib.classroom import grading, sandbox

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
