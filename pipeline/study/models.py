"""The models of a study that has ended: its frontier, the chosen trial and the ensembles, ready to score new rows."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.choosing import Pick, ranked
from pipeline.choosing.comparison import ENSEMBLES
from pipeline.choosing.comparison import Detector as Choice
from pipeline.detector import Baseline, Detector, baseline_of, pack
from pipeline.errors import UserError
from pipeline.study.files import SCORER, WEIGHTS, fetch, read_scores
from pipeline.study.plan import Plan
from pipeline.tracking import layout
from pipeline.tracking.layout import trial_name
from pipeline.tracking.models import as_pyfunc
from pipeline.tracking.replay import PARENT
from pipeline.tracking.writer import TrackingWriter

logger = logging.getLogger(__name__)

EXAMPLE_ROWS = 5
# What a model is described by, where the trial has it.
METRICS = ("val/elbo", "val/reconstruction", "val/kl", "val/auroc", "test/auroc", "test/auroc_low", "test/auroc_high")

PICKS = "vae_study.picks"

Parameters = Callable[[int], Mapping[str, Any]]


def log_models(plan: Plan, writer: TrackingWriter, parameters: Parameters, choices: Sequence[Choice]) -> None:
    """Attach a model of each choice to its trial's run; that of an ensemble to the parent run.

    Args:
        plan: The study's.
        writer: Where they are attached.
        parameters: The configuration of a trial.
        choices: Single trials by their names, and ensembles.
    """
    builder = _Builder(plan, writer.outbox, parameters)
    for choice in choices:
        try:
            folder = builder.build(choice)
        except (UserError, OSError) as error:
            logger.warning("there is no model of %s: %s", choice.name, error)
            continue
        key = PARENT if choice.name in ENSEMBLES else choice.name
        writer.log_model(key, choice.name, folder, _about(choice))


def singles(plan: Plan, trials: pd.DataFrame, numbers: Sequence[int]) -> Iterator[Choice]:
    """Each of some trials with the score that the study's rule would use it with."""
    asked = plan.spec.anomaly
    picks = {pick.trial: pick for pick in ranked(trials, plan.rule, asked.score)}
    for number in numbers:
        pick = picks.get(number, Pick(number, asked.followed, float("nan")))
        yield Choice(name=trial_name(number), needs_labels=False, picks=(pick,))


def _about(choice: Choice) -> dict[str, Any]:
    picks = [[pick.trial, pick.score] for pick in choice.picks]
    tags = {PICKS: json.dumps(picks)}
    if len(picks) == 1:
        tags |= {layout.TRIAL: str(picks[0][0]), layout.CHAMPION_SCORE: str(picks[0][1])}
    return {"tags": tags, "metrics": METRICS if len(picks) == 1 else ()}


class _Builder:
    """Builds models below the study's outbox, where they stay until they are uploaded."""

    def __init__(self, plan: Plan, outbox: Path, parameters: Parameters):
        self.plan, self.outbox, self.parameters = plan, outbox, parameters

    @cached_property
    def _baseline(self) -> Baseline:
        return baseline_of(self.plan.data)

    def build(self, choice: Choice) -> Path:
        """The folder of a model for MLflow."""
        folder, data = self.outbox / "models" / choice.name, self.plan.data
        shutil.rmtree(folder, ignore_errors=True)
        specs = {pick.trial: self.plan.spec.trial(self.parameters(pick.trial)) for pick in choice.picks}
        baseline = self._baseline if choice.with_baseline else None
        pack(folder / "packed", data, specs, choice, self._files, self._scores, baseline)
        rows_ND = data.splits["validation"].normal_ND[:EXAMPLE_ROWS]
        output = Detector.load(folder / "packed").score(rows_ND)
        as_pyfunc(folder / "packed", data.preprocessing.inverse(rows_ND), output, folder / "model")
        return folder / "model"

    def _files(self, number: int) -> dict[str, Path]:
        name = trial_name(number)
        paths = fetch(self.plan.trials / name, (WEIGHTS, SCORER), self.outbox / name)
        return {path.name: path for path in paths}

    def _scores(self, number: int) -> pd.DataFrame:
        return read_scores(self.plan.trials / trial_name(number))
