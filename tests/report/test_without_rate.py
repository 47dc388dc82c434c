"""Families without a KL, and studies of other objectives than reconstruction and KL."""

from dataclasses import replace

import numpy as np
import pytest
from vae_study.report.formatting import hypervolume_unit
from vae_study.report.frames import Missing
from vae_study.report.plane import Plane, plane, plane_metrics
from vae_study.report.sections.choices import choices
from vae_study.report.sections.code import collapse
from vae_study.report.sections.progress import training_curves
from vae_study.report.sections.thresholds import scores
from vae_study.report.tables import tidy

from .families import mixed_families, without_rate
from .studies import study

SMALL = {"trials": 12, "epochs": 4}


def test_the_stored_collapse_is_used_and_else_the_rule() -> None:
    record = study(trials=4, epochs=2)
    trials = record.trials.assign(state="finished", **{
        "val/collapsed": [1.0, 0.0, np.nan, np.nan], "val/active_units": [3.0, 0.0, 0.0, 3.0], "val/kl": [9, 0, 9, 9.0],
    })  # fmt: skip
    found = collapse(tidy(replace(record, trials=trials)))
    assert (found.trials, found.known, found.with_kl) == ((0, 2), 4, True)
    assert not collapse(tidy(without_rate(**SMALL))).with_kl


def test_the_plane_is_that_of_the_objectives_there_are() -> None:
    table = plane(tidy(without_rate(**SMALL)))
    assert isinstance(table, Plane)
    assert table.metrics == ("val/reconstruction", "val/squared_error")
    assert table.objectives_are_the_axes
    assert not table.has_elbo
    trials = without_rate(**SMALL).trials.set_index("trial")
    assert table.points["y"].tolist() == trials.loc[table.points["trial"], "val/squared_error"].tolist()


def test_one_objective_is_a_strip_with_the_best_so_far() -> None:
    record = without_rate(("val/squared_error",), **SMALL)
    table = plane(tidy(record))
    assert isinstance(table, Plane)
    assert table.is_strip
    finished = record.trials[record.trials["state"] == "finished"].sort_values("trial")
    values = finished["val/squared_error"].tolist()
    assert table.best["y"].tolist() == [min(values[: i + 1]) for i in range(len(values))]
    goal = [{"metric": "val/squared_error", "direction": "maximize"}]
    other = plane(tidy(replace(record, config={**record.config, "objectives": goal})))
    assert isinstance(other, Plane)
    assert other.best["y"].tolist() == [max(values[: i + 1]) for i in range(len(values))]


@pytest.mark.parametrize(
    ("objectives", "rate", "metrics"),
    [
        (("val/kl", "val/reconstruction", "val/auroc"), True, ("val/reconstruction", "val/kl")),
        (("val/elbo",), True, ("val/reconstruction", "val/kl")),
        (("val/elbo", "val/auroc"), True, ("val/elbo", "val/auroc")),
        (("val/reconstruction",), False, ("val/reconstruction",)),
        (("val/auroc", "val/squared_error", "val/active_units"), False, ("val/auroc", "val/squared_error")),
    ],
)
def test_which_metrics_make_the_plane(objectives: tuple[str, ...], rate: bool, metrics: tuple[str, ...]) -> None:
    record = study(**SMALL) if rate else mixed_families(**SMALL)
    goals = [{"metric": metric, "direction": "minimize"} for metric in objectives]
    assert plane_metrics(tidy(replace(record, config={**record.config, "objectives": goals}))) == metrics


def test_curves_and_scores_of_a_point_code_know_no_kl() -> None:
    record = tidy(without_rate(**SMALL))
    curves, scored = training_curves(record), scores(record)
    assert not isinstance(curves, Missing)
    assert curves.terms == ("val/reconstruction", "val/squared_error", "val/active_units")
    assert not isinstance(scored, Missing)
    assert scored.score == "reconstruction"
    assert [choice.name for choice in choices(record)] == ["val/reconstruction", "val/auroc"]


def test_with_one_objective_the_best_trials_are_followed() -> None:
    record = without_rate(("val/squared_error",), **SMALL)
    table = training_curves(tidy(record), most=4)
    assert not isinstance(table, Missing)
    finished = record.trials[record.trials["state"] == "finished"].sort_values("val/squared_error")
    assert table.trials[:1] == (finished["trial"].iloc[0],)
    assert set(table.trials) <= set(finished["trial"].head(4))
    assert not table.is_frontier


def test_the_unit_of_a_hypervolume() -> None:
    assert hypervolume_unit(["val/reconstruction"]) == "nats"
    assert hypervolume_unit(["val/reconstruction", "val/kl"]) == "nats²"
    assert hypervolume_unit(["val/reconstruction", "val/auroc"]) == ""
