"""docs/pilot.md: its questions, their key, and the program that counts the answers."""

import re
from pathlib import Path

import pandas as pd

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "pilot.md").read_text(encoding="utf-8")
KEY = pd.read_csv(DOCS / "pilot_key.csv", dtype=str)


def test_each_question_of_both_forms_has_its_answer():
    for form, text in zip("AB", re.split(r"^### Form .$", PAGE, flags=re.MULTILINE)[1:], strict=True):
        questions = dict(re.findall(r"^\*\*(\d\d)\.\*\* (.*?)(?=\n\n)", text, flags=re.MULTILINE | re.DOTALL))
        key = KEY[KEY["form"] == form].set_index("item")["right"]
        assert list(questions) == [f"{number:02d}" for number in range(14)] == list(key.index)
        for item, question in questions.items():
            assert re.findall(r"\b([a-d])\) ", question) == list("abc") and key[item] in "abc", item


def test_the_program_counts(tmp_path, monkeypatch, capsys):
    """Ten students: 01 is learned by nine, 02 forgotten by one; one student is absent afterwards."""
    right = KEY.set_index(["form", "item"])["right"]
    rows = []
    for number in range(10):
        forms = {"before": "AB"[number % 2], "after": "BA"[number % 2]}
        for item in KEY["item"].unique():
            knows = {"before": item != "01", "after": item != "02" or number > 0}
            rows += [(f"s{number}", when, item, f, right[f, item] if knows[when] else "d") for when, f in forms.items()]
    rows = [row for row in rows if row[:2] != ("s9", "after")]
    pd.DataFrame(rows, columns=["student", "when", "item", "form", "answer"]).to_csv(
        tmp_path / "answers.csv", index=False
    )
    KEY.to_csv(tmp_path / "pilot_key.csv", index=False)
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "01: 0% → 100%, 9 won, 0 lost, p = 0.004"
    assert lines[2] == "02: 100% → 89%, 0 won, 1 lost, p = 1.000"
    assert lines[3] == "03: 100% → 100%, 0 won, 0 lost, p = 1.000" and len(lines) == 15
    assert lines[-1].startswith("mean gain 0.9 questions [") and lines[-1].endswith("9 students")
