"""What failed and why, in both pages."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from vae_study.report import write_report
from vae_study.report.failures import LONGEST_REASON, MOST_REASONS, failures, first_line
from vae_study.report.figure import Grid
from vae_study.report.sections.outcomes import failure_grid
from vae_study.report.tables import StudyTables, tidy
from vae_study.tracking.record import StudyRecord

from .eventful import eventful
from .page import page_of
from .studies import study
from .test_tables import record_of

SMALL = {"trials": 30, "epochs": 6}


def failed(*reasons: tuple[str, str | None], **columns: Any) -> StudyRecord:
    made = record_of([("failed", 1.0, 1.0)] * len(reasons))
    kinds, why = zip(*reasons, strict=True)
    told = made.trials.assign(failure=list(kinds), reason=pd.Series(why, dtype=object), **columns)
    return tidy(replace(made, trials=told))


def test_failures_are_grouped_by_class_and_reason_the_most_frequent_first() -> None:
    found = failures(
        failed(("error", "KeyError: 'a'\nmore"), ("diverged", "val/kl"), ("error", "KeyError: 'b'"), ("error", None),
               ("diverged", "val/kl"), ("error", "KeyError: 'b'"), ("preempted", "worker died"))
    )  # fmt: skip
    assert [(f.kind, f.reason, f.reasons, f.trials) for f in found] == [
        ("error", "KeyError: 'b'", 1, (2, 5)),
        ("error", "KeyError: 'a'", 1, (0,)),
        ("error", "", 0, (3,)),
        ("diverged", "val/kl", 1, (1, 4)),
        ("preempted", "worker died", 1, (6,)),
    ]


@given(st.lists(st.tuples(st.sampled_from("AB"), st.sampled_from("abcdefghijk")), min_size=1, max_size=40))
def test_every_failed_trial_is_told_once_and_rare_reasons_are_counted(reasons: list[tuple[str, str]]) -> None:
    found = failures(failed(*reasons))
    assert sorted(trial for failure in found for trial in failure.trials) == list(range(len(reasons)))
    for kind in {kind for kind, _ in reasons}:
        mine = [failure for failure in found if failure.kind == kind]
        assert len(mine) <= MOST_REASONS + 1
        assert sum(failure.reasons for failure in mine) == len({why for k, why in reasons if k == kind})
        for failure in mine:
            assert all(reasons[trial][0] == kind for trial in failure.trials)
            assert not failure.reason or all(reasons[trial][1] == failure.reason for trial in failure.trials)


@given(st.text())
def test_a_reason_is_one_line_of_bounded_length_without_what_cannot_be_printed(text: str) -> None:
    line = first_line(text)
    assert len(line) <= LONGEST_REASON
    assert line.isprintable()
    assert line == line.strip()


def test_a_reason_is_cut_and_freed_of_colours() -> None:
    assert first_line("x" * LONGEST_REASON) == "x" * LONGEST_REASON
    assert first_line("x" * (LONGEST_REASON + 1)) == "x" * (LONGEST_REASON - 1) + "…"
    assert first_line("\n \n\x1b[36m(pid=7)\x1b[0m  KeyError:\t'a'\nmore") == "(pid=7) KeyError: 'a'"
    assert [first_line(nothing) for nothing in (None, np.nan, "", "\n", "\x1b[0m")] == [""] * 5


def test_reasons_are_escaped_in_both_pages_and_never_widen_them(tmp_path: Path) -> None:
    made = eventful(study(trials=6, epochs=3))
    nasty = ['Error: <script>alert("1")</script> | `x` & <wbr>', "y" * 5000]
    trials = made.trials.astype({"reason": object})
    trials.loc[[4, 5], ["state", "failure"]] = ["failed", "error"]
    trials.loc[[4, 5], "reason"] = nasty
    folder = write_report(replace(made, trials=trials), tmp_path / "report").parent
    page, markdown = page_of(folder), (folder / "report.md").read_text(encoding="utf-8")
    assert [script.get("id") for script in page.all("script")] == ["figures", "library", None]
    assert nasty[0] in page.text
    assert "<script" not in markdown
    assert "&lt;script&gt;" in markdown
    assert "y" * LONGEST_REASON not in page.text + markdown
    source = (folder / "report.html").read_text(encoding="utf-8")
    # The address of a table's CSV has the whole text, and is not shown.
    shown = re.sub(r'href="data:text/csv[^"]*"', "", source)
    assert "y" * 32 + "<wbr>" in shown
    assert "y" * 33 not in shown
    row = next(line for line in markdown.splitlines() if line.startswith("| error | 1 | 4 |"))
    assert len(row.replace("\\|", "").split("|")) == 7


def test_the_table_of_failures_has_no_column_of_what_is_not_known() -> None:
    made = study(trials=64, epochs=24)

    def printed(record: StudyRecord) -> Grid:
        return failure_grid(StudyTables(record))

    kinds = made.trials[made.trials["state"] == "failed"].groupby("failure")["trial"].apply(list)
    grid = printed(made)
    assert len(grid.rows) > 1
    assert grid.head == ("failure", "trials", "their numbers", "epochs trained")
    assert {row[0]: row[1:] for row in grid.rows} == {
        kind: (str(len(mine)), ", ".join(map(str, mine)), "2") for kind, mine in kinds.items()
    }
    assert printed(eventful(made)).head[-2:] == ("epochs trained", "reason")
    assert printed(replace(made, history=made.history.head(0))).head == ("failure", "trials", "their numbers")


def test_failures_tell_the_fewest_and_the_most_epochs_of_their_trials() -> None:
    made = failed(("error", "a"), ("error", "a"), ("error", "a"), ("diverged", "b"))
    history = pd.DataFrame({"trial": [0, 0, 1, 1, 1, 1], "epoch": [0, 1, 0, 1, 2, 2]})
    found = {failure.kind: failure.epochs for failure in failures(replace(made, history=history))}
    assert found == {"error": (0, 3), "diverged": (0, 0)}
    assert [row[3] for row in failure_grid(StudyTables(replace(made, history=history))).rows] == ["0 to 3", "0"]
