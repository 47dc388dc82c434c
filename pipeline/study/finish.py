"""The end of a study: the champion, the finalists' files, the parent run's last words."""

import pandas as pd

from pipeline.choosing import Pick, choose
from pipeline.choosing.baseline import baseline_scores
from pipeline.choosing.comparison import compare, detectors
from pipeline.folders import Folder
from pipeline.study.files import EXAMPLES, SCORES, WEIGHTS, fetch, read_scores
from pipeline.study.keeper import frontier_numbers
from pipeline.study.plan import Plan
from pipeline.tracking import layout
from pipeline.tracking.layout import trial_name
from pipeline.tracking.study import close_study
from pipeline.tracking.writer import TrackingWriter


def finish_study(plan: Plan, writer: TrackingWriter, is_complete: bool) -> None:
    """Choose the champion, compare it with other choices, attach the finalists' files, and close the parent run."""
    trials = writer.trials()
    champion = choose(trials, plan.rule, plan.spec.anomaly.score)
    frontier = frontier_numbers(plan, trials)
    _attach(plan, writer, trials, {*frontier, *([champion.trial] if champion else [])})
    if champion is not None:
        _compare(plan, writer, trials, frontier)
    state = "finished" if is_complete else "interrupted"
    close_study(writer, state, _note(plan, trials, frontier, champion), plan.rule, champion)


def _attach(plan: Plan, writer: TrackingWriter, trials: pd.DataFrame, finalists: set[int]) -> None:
    for number in trials.loc[trials["state"] == "finished", "trial"]:
        names = [SCORES, *([EXAMPLES, WEIGHTS] if number in finalists else [])]
        writer.log_files(trial_name(number), fetch(_folder(plan, number), names, writer.outbox / trial_name(number)))


def _compare(plan: Plan, writer: TrackingWriter, trials: pd.DataFrame, frontier: list[int]) -> None:
    found = detectors(
        trials, frontier, plan.label_free_rule, plan.spec.anomaly.score, members=plan.spec.ensemble.members
    )
    table, scores = compare(found, lambda number: read_scores(_folder(plan, number)), baseline_scores(plan.data))
    writer.log_frame(table, layout.CHOICES_FILE)
    writer.log_frame(scores, layout.DETECTORS_FILE)


def _folder(plan: Plan, number: int) -> Folder:
    return plan.trials / trial_name(number)


def _note(plan: Plan, trials: pd.DataFrame, frontier: list[int], champion: Pick | None) -> str:
    counts = trials["state"].value_counts().to_dict()
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    chosen = "No trial was chosen."
    if champion is not None:
        chosen = f"Chosen by {plan.rule}: **{trial_name(champion.trial)}**, scored by {champion.score}."
    names = ", ".join(trial_name(number) for number in frontier) or "none"
    return (
        f"{chosen}\n\n{len(trials)} trials on {plan.data.source}: {states}.\n\n"
        f"Frontier ({len(frontier)}): {names}.\n\n`vae-study report {plan.name}` writes the report again."
    )
