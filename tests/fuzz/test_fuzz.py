"""Whatever is given to the command, it does its work or says in one message what is wrong, and where.

A case that fails is repeated by its number: `python -m tests.fuzz.child 123 124`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_SECONDS

SOME, ALL = 100, 1000


def check(first: int, last: int, log: Path) -> None:
    """Run cases in a process of their own; each that hangs, dies or ends in another way than it should is told of."""
    words, root = [sys.executable, "-m", "tests.fuzz.child", str(first), str(last)], Path(__file__).parents[2]
    with log.open("w") as errors:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=root)
        assert process.stdout is not None
        lines = [json.loads(line) for line in process.stdout]
        code = process.wait(PATIENCE_SECONDS)
    wrong = [f"case {line['number']}: {line['wrong']}" for line in lines if line.get("wrong")]
    assert not wrong, "\n\n".join(wrong)
    assert code == 0, f"case {lines[-1]['number'] if lines else first}: exit code {code}\n{log.read_text()[-5000:]}"
    assert [line["number"] for line in lines if "wrong" in line] == [*range(first, last)]


def test_a_hundred_cases_each_do_their_work_or_say_what_is_wrong(tmp_path):
    check(0, SOME, tmp_path / "log")


@pytest.mark.thorough
def test_a_thousand_cases_each_do_their_work_or_say_what_is_wrong(tmp_path):
    check(SOME, ALL, tmp_path / "log")
