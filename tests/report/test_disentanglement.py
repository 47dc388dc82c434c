"""Known factors of variation in the report: the measures against beta, the sources' claim, the table of factors."""

from dataclasses import replace
from itertools import permutations
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from vae_study.report.frames import Missing
from vae_study.report.page import figures, pages, panels
from vae_study.report.sections.disentanglement import (
    JUDGES,
    LEAST_RUNS,
    MEASURES,
    BetaEffect,
    FactorTable,
    beta_effect,
    claim,
    factor_table,
    measure_table,
    rank_correlation,
)
from vae_study.report.tables import StudyTables, tidy
from vae_study.tracking.record import StudyRecord

from .studies import study

FIRST, UDR = JUDGES
BETAS = (0.5, 1.0, 2.0, 4.0, 8.0)


def with_factors(slope: float = 0.1, seeds: int = 4, others: bool = False) -> StudyRecord:
    """A study of five betas and further seeds, in which MIG rises by `slope` each time beta doubles."""
    random, record = np.random.default_rng(2), study(trials=5, epochs=2, labels=False)
    assert record.champion is not None

    def measured(beta_N: np.ndarray) -> dict[str, np.ndarray]:
        rise_N = np.log2(beta_N) * slope
        found = {name: np.clip(0.3 + rise_N + random.normal(0, 0.03, len(beta_N)), 0, 1) for name in MEASURES}
        return found | {"test/collapsed": np.zeros(len(beta_N))}

    trials = record.trials.assign(state="finished", beta=BETAS, **measured(np.array(BETAS)))
    trials = trials.assign(latent_dim=[4, 8, 16, 8, 4] if others else 8).drop(
        columns=["kl_annealing.schedule", "kl_annealing.warmup", "free_bits.kind"]
    )
    again = pd.DataFrame({"trial": np.repeat(np.arange(5), seeds), "seed": np.tile(np.arange(1, seeds + 1), 5)})
    again = again.assign(**measured(np.repeat(BETAS, seeds)))
    names = np.array(["shape", "scale", "angle"])
    information_ZF = np.array([[0.1, 1.2, 0.0], [0.9, 0.1, 0.2], [0.0, 0.0, 0.1], [0.2, 0.3, 0.1]])
    champion = replace(
        record.champion,
        trial=0,
        factor_names_F=names,
        factor_information_ZF=information_ZF,
        factor_entropy_F=np.array([1.0986, 1.7918, 2.0794]),
    )
    search = {"beta": {"choices": list(BETAS)}, **({"latent_dim": {"choices": [4, 8, 16]}} if others else {})}
    config = {**record.config, "search": search}
    return replace(record, config=config, trials=trials, champion=champion, confirmations=again)


def effect(record: StudyRecord) -> BetaEffect:
    found = beta_effect(tidy(record))
    assert not isinstance(found, Missing)
    return found


def test_every_seed_is_a_run_at_the_beta_of_its_trial():
    record = with_factors(seeds=3)
    found = effect(record)
    assert found.runs["beta"].value_counts().to_dict() == dict.fromkeys(BETAS, 4)
    assert found.metrics == MEASURES
    of = {(row["trial"], 0): row for row in record.trials.to_dict("records")}
    of |= {(row["trial"], row["seed"]): row for row in record.confirmations.to_dict("records")}
    for row in found.runs.to_dict("records"):
        assert row[FIRST] == of[row["trial"], row["seed"]][FIRST]
    expected = spearmanr(found.runs["beta"], found.runs[FIRST])[0]
    assert found.trends[FIRST].correlation == pytest.approx(expected)
    assert found.trends[FIRST].runs == 20


def test_where_other_parameters_differ_too_a_trial_counts_once_with_the_mean_of_its_seeds():
    record = with_factors(others=True, slope=0.02)
    found = effect(record)
    assert (found.searched_more, found.first.of_trials, found.first.runs) == (True, True, 5)
    own = record.trials.set_index("trial")[FIRST]
    means = [fmean([own[t], *record.confirmations.query("trial == @t")[FIRST]]) for t in range(5)]
    assert found.trends[FIRST].correlation == pytest.approx(spearmanr(BETAS, means)[0])
    assert "no experiment" in claim(StudyTables(record))


def test_the_p_value_is_that_of_all_orders():
    x_N, y_N = np.array([1.0, 2, 4, 8, 16, 32]), np.array([0.1, 0.3, 0.2, 0.5, 0.4, 0.6])
    correlation, p_value = rank_correlation(x_N, y_N)
    every = [abs(spearmanr(x_N, order)[0]) for order in permutations(y_N)]
    assert correlation == pytest.approx(spearmanr(x_N, y_N)[0])
    assert p_value == pytest.approx(np.mean([one >= abs(correlation) - 1e-12 for one in every]), abs=0.01)


def test_of_many_runs_the_p_value_is_students():
    random = np.random.default_rng(0)
    x_N = random.normal(size=300)
    y_N = 0.1 * x_N + random.normal(size=300)
    assert rank_correlation(x_N, y_N) == pytest.approx(tuple(spearmanr(x_N, y_N)))


@pytest.mark.parametrize(("x_N", "y_N"), [([1] * 5, [1, 2, 3, 4, 5]), ([1, 2, 3, 4, 5], [0] * 5), ([1, 2], [2, 1])])
def test_what_has_no_rank_correlation_has_none(x_N: list[float], y_N: list[float]):
    assert np.isnan(rank_correlation(np.array(x_N, float), np.array(y_N, float))).all()


def test_by_chance_few_studies_confirm_the_claim():
    random = np.random.default_rng(3)
    p_values = [rank_correlation(np.repeat(BETAS, 3), random.normal(size=15))[1] for _ in range(60)]
    assert np.mean(np.array(p_values) < 0.05) < 0.15


@pytest.mark.parametrize(("slope", "says"), [(0.1, "is confirmed"), (-0.1, "is contradicted"), (0.0, "is not shown")])
def test_the_claim_of_the_sources_is_judged_by_mig(slope: float, says: str):
    record = with_factors(slope=slope)
    tables = StudyTables(record)
    said = claim(tables)
    trend = effect(record).trends[FIRST]
    assert said.startswith(f"That a larger beta disentangles {says} by this study: MIG and beta have ")
    assert f"(p = {trend.p_value:.4f}) over 25 runs." in said
    assert said.count("SAP") == 1
    # More total correlation is worse, while more of the others is better.
    better = said.partition("Better at a larger beta: ")[2].partition(".")[0]
    assert ("total correlation" in better) == (slope < 0)
    assert ("modularity" in better) == (slope > 0)


def test_too_few_runs_show_nothing():
    record = with_factors(seeds=0)
    few = replace(record, trials=record.trials.head(LEAST_RUNS - 1), confirmations=record.confirmations.head(0))
    said = claim(StudyTables(few))
    assert said.startswith("That a larger beta disentangles is not shown by this study: MIG is known of 4 runs")
    assert "(p" not in said.partition("Without")[0]


def test_models_along_the_path_of_a_sweep_are_no_runs():
    record = with_factors(seeds=0)
    kept = replace(record, trials=record.trials.assign(sweep=[np.nan, np.nan, np.nan, 0, 0]))
    found = effect(kept)
    assert (len(found.runs), found.left_out) == (3, 2)


def test_the_table_has_the_mean_at_each_beta():
    record = with_factors()
    grid, found = measure_table(StudyTables(record)), effect(record)
    assert grid.head == ("measure", *(f"beta {beta:g} (5)" for beta in BETAS), "rank correlation", "p-value", "over")
    (row,) = (row for row in grid.rows if row[0] == "MIG")
    for cell, beta in zip(row[1:6], BETAS, strict=True):
        assert float(cell) == pytest.approx(fmean(found.runs[found.runs["beta"] == beta][FIRST]), abs=0.00051)


def test_the_table_of_factors_is_what_was_stored_with_the_dimension_that_knows_most_first():
    record = with_factors()
    found = factor_table(tidy(record))
    assert isinstance(found, FactorTable)
    assert found.factors == ("shape", "scale", "angle")
    assert found.dimension_L == (2, 1, 4, 3)
    champion: Any = record.champion
    for f, entropy in enumerate(champion.factor_entropy_F):
        for column, dimension in enumerate(found.dimension_L):
            expected = champion.factor_information_ZF[dimension - 1, f] / entropy
            assert found.share_FL[f, column] == pytest.approx(expected)


def test_the_section_is_on_the_page_of_a_study_with_factors_only(digits: StudyRecord):
    tables = StudyTables(with_factors())
    html, markdown = pages(tables, panels(tables))
    for text in (html, markdown):
        assert "That a larger beta disentangles is confirmed by this study" in text
        assert "What each dimension of the code knows of each factor" in text
    assert {"disentanglement", "factor_table"} <= {figure.name for figure in figures()}
    tables = StudyTables(digits)
    assert claim(tables) == ""
    assert not measure_table(tables).rows
    assert all("isentanglement" not in text for text in pages(tables, panels(tables)))


def test_without_factors_the_claim_is_judged_by_the_seeds_of_each_trial():
    record = with_factors()
    known = [name for name in MEASURES if name not in (UDR, "test/total_correlation")]
    without = replace(
        record, trials=record.trials.drop(columns=known), confirmations=record.confirmations.drop(columns=known)
    )
    found = effect(without)
    assert found.metrics == (UDR, "test/total_correlation")
    assert (found.first.of_trials, found.first.runs) == (True, 5)
    said = claim(StudyTables(without))
    assert said.startswith("That a larger beta disentangles is confirmed by this study: UDR and beta ")
    assert "over 5 trials. Each trial counts once" in said


def test_one_beta_has_no_effect_but_its_measures_are_told():
    record = with_factors(seeds=0)
    one = replace(record, trials=record.trials.assign(beta=1.0), confirmations=record.confirmations.head(0))
    assert isinstance(beta_effect(tidy(one)), Missing)
    tables = StudyTables(one)
    assert claim(tables) == ""
    assert [row[0] for row in measure_table(tables).rows][:2] == ["MIG", "DCI disentanglement"]
