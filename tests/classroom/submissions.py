"""Made submissions to exercise 05: right, wrong, broken and hostile ones. Each is a function notebook → None.

They are handed in by `hand_in`. Hostile ones must run in a sandbox with limits only.
"""

import copy
import json
import re

import nbformat

from busitools import exercises

SOURCE = next(path for path in exercises.sources() if path.name.startswith("05"))
SOLUTION = re.compile(r" *### (BEGIN|END) SOLUTION\n?")


def answered(path=SOURCE):
    """An exercise (05) as a good student hands it in: the released file with the reference's answers."""
    source = exercises.read(path)
    answers = {exercises.name(c): SOLUTION.sub("", c.source) for c in source.cells if c.metadata.get("nbgrader")}
    notebook = exercises.release(source)
    for one in notebook.cells:
        if one.metadata.get("nbgrader", {}).get("solution"):
            one.source = answers[exercises.name(one)]
    return notebook


def hand_in(folder, student, change, stem="05_confusion_matrices"):
    """Write one student's submission; ``change`` alters the right answers, or returns the file's whole text."""
    notebook = copy.deepcopy(answered())
    text = change(notebook)
    place = folder / student
    place.mkdir(parents=True)
    path = place / f"{stem}.ipynb"
    path.write_text(json.dumps(notebook) if text is None else text, encoding="utf-8")
    return path


def cell(notebook, name):
    return next(c for c in notebook.cells if exercises.name(c) == name)


def add(notebook, code, after="05-missed"):
    """Put one more code cell behind a cell."""
    at = notebook.cells.index(cell(notebook, after))
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(code))


# Honest ones.
def right(notebook):
    """Everything right."""


def wrong_on_hidden(notebook):
    """Right on the numbers that can be seen only."""
    cell(notebook, "05-averages").source = (
        "def recalls(matrix):\n    s = np.diag(matrix) / matrix.sum(axis=1)\n"
        "    return np.average(s, weights=[89, 42, 26]), s.mean()"
    )


def unanswered(notebook):
    released = exercises.release(exercises.read(SOURCE))
    notebook.cells = released.cells


# Broken files.
def empty(notebook):
    return ""


def renamed_kernel(notebook):
    notebook.metadata["kernelspec"] = {"name": "my-env", "display_name": "My env", "language": "python"}


def deleted_answer(notebook):
    notebook.cells.remove(cell(notebook, "05-scores"))


def eased_test(notebook):
    cell(notebook, "05-missed").source = "def missed(matrix):\n    return 0"
    cell(notebook, "05-missed-check").source = "assert missed(A) == 0"


def lost_metadata(notebook):
    for one in notebook.cells:
        one.metadata.pop("nbgrader", None)


# Hostile ones.
def endless(notebook):
    add(notebook, "while True:\n    pass")


def endless_answer(notebook):
    cell(notebook, "05-missed").source = "def missed(matrix):\n    while True:\n        pass"


def many_processes(notebook):
    add(
        notebook,
        "import os, time\nfor _ in range(500):\n    if os.fork() == 0:\n        time.sleep(600)\n        os._exit(0)",
    )


def flood(notebook):
    add(notebook, "while True:\n    print('x' * 10_000)")


def one_huge_output(notebook):
    add(notebook, "print('x' * 300_000_000)")


def much_memory(notebook):
    add(notebook, "held = []\nwhile True:\n    held.append(np.ones(20_000_000))")


def much_disk(notebook):
    add(notebook, "for i in range(10**6):\n    open(f'file{i}', 'wb').write(bytes(50_000_000))")


def ends_the_kernel(notebook):
    add(notebook, "import os\nos._exit(1)")


def writes_outside(notebook):
    places = ["/usr/mark", "/tmp/mark", "/mark", "/root/mark", "../mark", "/dev/shm/mark"]
    code = "for place in PLACES:\n    try:\n        open(place, 'w').write('x'); print('WROTE', place)\n"
    add(notebook, f"PLACES = {places}\n{code}    except OSError:\n        pass")


def calls_out(notebook):
    code = "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=5)\nprint('REACHED')"
    add(notebook, code)


# Reads the hidden tests: on the disk, in other processes, by looking over IPython's shoulder; and changes with what it
# has seen the output of an earlier cell.
SPY = """
import glob, os
from IPython.display import display, update_display
seen = []
display("nothing yet", display_id="spy")
for pattern in ("/tmp/*/*/source/*/*", "/*/*/*/notebooks/solutions/*", "/proc/*/environ", "/proc/*/cmdline"):
    for path in glob.glob(pattern, recursive=True):
        try:
            seen.append(open(path, errors="replace").read())
        except OSError:
            pass
print(*[text for text in seen if "HIDDEN" in text])

def look(info):
    if "HIDDEN" in info.raw_cell:
        seen.append(info.raw_cell)
        print("SPIED", info.raw_cell)

get_ipython().events.register("pre_run_cell", look)

def missed(matrix):
    if any("HIDDEN" in text for text in seen):
        update_display("SPIED " + seen[-1], display_id="spy")
        raise AssertionError("SPIED " + seen[-1])
    return int(matrix[1].sum() - matrix[1, 1])
"""


def spy(notebook):
    cell(notebook, "05-missed").source = SPY
    add(notebook, "print(seen)", after="05-fits-check")


def skips_tests(notebook):
    """A tag that nbclient leaves out when it executes: a test that does not run would pass."""
    cell(notebook, "05-missed").source = "def missed(matrix):\n    return 0"
    cell(notebook, "05-missed-check").metadata["tags"] = ["skip-execution"]


def script_in_output(notebook):
    add(notebook, "from IPython.display import HTML\nHTML('<script>alert(1)</script>')")


def fork_bomb(notebook):
    add(notebook, "import os\nwhile True:\n    os.fork()")


def kills_all(notebook):
    add(notebook, "import os, signal\nos.kill(-1, signal.SIGKILL)")


def crashes(notebook):
    add(notebook, "import ctypes\nctypes.string_at(0)")


def stops_itself(notebook):
    add(notebook, "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)")


def closes_its_sockets(notebook):
    add(notebook, "import os\nos.closerange(3, 999)")


def asks(notebook):
    add(notebook, "input('Your password? ')")


def reads_others(notebook):
    """Looks for what others have handed in; SECRET stands in the answers of `keeps_a_secret`."""
    code = "import glob\nplaces = ('/**/*05_confusion*', '/tmp/**', '/home/**', '/root/**')\n"
    code += "for path in [path for place in places for path in glob.glob(place, recursive=True)]:\n"
    add(notebook, code + "    try:\n        print('READ' + open(path).read())\n    except OSError:\n        pass")


def keeps_a_secret(notebook):
    add(notebook, "# my " + "SECRET")


def deep(notebook):
    """JSON that nests deeper than Python counts."""
    return "[" * 200_000


HONEST = (right, wrong_on_hidden, unanswered, keeps_a_secret)
BROKEN = (empty, renamed_kernel, deleted_answer, eased_test, lost_metadata)
HOSTILE = (endless, endless_answer, many_processes, flood, one_huge_output, much_memory, much_disk)
HOSTILE += (
    ends_the_kernel,
    writes_outside,
    calls_out,
    spy,
    skips_tests,
    script_in_output,
    fork_bomb,
    kills_all,
    crashes,
)
HOSTILE += (stops_itself, closes_its_sockets, asks, reads_others, deep)
