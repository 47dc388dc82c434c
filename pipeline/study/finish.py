"""The end of a study: the champion, the finalists' files, the parent run's last words."""

from collections.abc import Sequence

import pandas as pd

from pipeline.choosing import Pick, choose
from pipeline.choosing.baseline import baseline_scores
from pipeline.choosing.comparison import ENSEMBLES, Detector, compare, detectors
from pipeline.folders import Folder
from pipeline.report.figures.alone import frontier_png
from pipeline.study.files import EXAMPLES, SCORER, SCORES, WEIGHTS, fetch, read_scores
from pipeline.study.keeper import frontier_numbers
from pipeline.study.models import Parameters, log_models, singles
from pipeline.study.plan import Plan
from pipeline.tracking import layout
from pipeline.tracking.description import result_note
from pipeline.tracking.layout import trial_name
from pipeline.tracking.study import close_study
from pipeline.tracking.views import shared_view
from pipeline.tracking.writer import TrackingWriter


def finish_study(plan: Plan, writer: TrackingWriter, parameters: Parameters, is_complete: bool) -> None:
    """Choose the champion, compare it with other choices, attach the finalists' files, and close the parent run.

    Args:
        plan: The study's.
        writer: Of its runs.
        parameters: The configuration of a trial.
        is_complete: Whether all trials are done; only then are there models to be used.
    """
    trials = writer.trials()
    table = pd.DataFrame(columns=["rule"])
    champion = choose(trials, plan.rule, plan.spec.anomaly.score)
    frontier = frontier_numbers(plan, trials)
    finalists = sorted({*frontier, *([champion.trial] if champion else [])})
    _attach(plan, writer, trials, finalists)
    if champion is not None:
        found = detectors(
            trials, frontier, plan.label_free_rule, plan.spec.anomaly.score, members=plan.spec.ensemble.members
        )
        table = _compare(plan, writer, found)
        if is_complete:
            ensembles = [one for one in found if one.name in ENSEMBLES]
            log_models(plan, writer, parameters, [*singles(plan, trials, finalists), *ensembles])
            name = trial_name(champion.trial)
            writer.crown(name, plan.rule, f"{name} of {plan.name}, chosen by {plan.rule}, scored by {champion.score}.")
        writer.show(shared_view(plan.spec.plain(), plan.rule, "{parent}", champion.score))
    picture = layout.PICTURE_FILE if _picture(plan, writer, trials, champion) else None
    about = plan.spec.plain(), plan.name, plan.data.summary(), trials, table, plan.rule, champion
    state = "finished" if is_complete else "interrupted"
    close_study(writer, state, result_note(*about, is_complete, picture), plan.rule, champion)


def _attach(plan: Plan, writer: TrackingWriter, trials: pd.DataFrame, finalists: Sequence[int]) -> None:
    for number in trials.loc[trials["state"] == "finished", "trial"]:
        names = [SCORES, *([EXAMPLES, WEIGHTS, SCORER] if number in finalists else [])]
        writer.log_files(trial_name(number), fetch(_folder(plan, number), names, writer.outbox / trial_name(number)))


def _compare(plan: Plan, writer: TrackingWriter, found: Sequence[Detector]) -> pd.DataFrame:
    table, scores = compare(found, lambda number: read_scores(_folder(plan, number)), baseline_scores(plan.data))
    writer.log_frame(table, layout.CHOICES_FILE)
    writer.log_frame(scores, layout.DETECTORS_FILE)
    return table


def _folder(plan: Plan, number: int) -> Folder:
    return plan.trials / trial_name(number)


def _picture(plan: Plan, writer: TrackingWriter, trials: pd.DataFrame, champion: Pick | None) -> bool:
    """Draw the frontier for the parent run's description; False where there is nothing to draw."""
    drawn = frontier_png(plan.name, plan.spec.plain(), trials, plan.reference, champion)
    if drawn is None:
        return False
    writer.log_bytes(drawn, layout.PICTURE_FILE)
    return True
