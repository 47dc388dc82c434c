"""The measures of disentanglement, against slow references in plain Python that follow the papers word by word."""

import math
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestClassifier
from vae_study.config.data import DataConfig
from vae_study.config.study import DiagnosticsConfig
from vae_study.data import Dataset, build_dataset
from vae_study.data.table import Factor, Table
from vae_study.metrics import ACTIVE_VARIANCE, METRICS
from vae_study.vae.disentanglement import (
    BINS,
    INFORMATIVE_KL,
    FactorValues,
    dci,
    entropies,
    factor_vae_score,
    fixed_factor_batches,
    importance_scores,
    measure_factors,
    mig,
    modularity,
    mutual_information,
    sap,
    total_correlation,
    udr,
)
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import outcome_of, outcomes_of

from tests.vae.builders import model_setup, train

CLOSE = pytest.approx
seeds = st.integers(0, 2**32 - 1)


def example(seed: int, rows: int = 120) -> tuple[NDArray[np.float64], FactorValues]:
    """Codes that know something of their factors: two numbers, one of them with many values, and a category."""
    random = np.random.default_rng(seed)
    value_NF = np.stack(
        [random.integers(0, 5, rows), random.normal(size=rows), random.integers(0, 3, rows)], axis=1
    ).astype(float)
    mixing_FZ = random.normal(size=(3, 4)) * random.integers(0, 2, (3, 4))
    code_NZ = value_NF @ mixing_FZ + random.normal(size=(rows, 4)) * random.choice([0.05, 0.5, 2], 4)
    return code_NZ, FactorValues(value_NF=value_NF, is_number_F=np.array([True, True, False]))


def aligned(rows: int = 600, seed: int = 0) -> tuple[NDArray[np.float64], FactorValues]:
    """Each dimension is a factor, up to its sign and scale."""
    value_NF = np.random.default_rng(seed).integers(0, 4, (rows, 3)).astype(float)
    factors = FactorValues(value_NF=value_NF, is_number_F=np.ones(3, bool))
    return value_NF * [-3.0, 1.0, 0.5], factors


def measured(*parts) -> dict[str, float]:
    """The metrics of `measure_factors`."""
    return dict(measure_factors(*parts).metrics)


def slow_bins(values: list[float]) -> list[int]:
    low, high = min(values), max(values)
    edges = [low + (high - low) * step / BINS for step in range(1, BINS)]
    return [sum(value >= edge for edge in edges) for value in values]


def slow_information(left: list[int], right: list[int]) -> float:
    rows = len(left)
    both, lefts, rights = Counter(zip(left, right, strict=True)), Counter(left), Counter(right)
    return sum(n / rows * math.log(n * rows / (lefts[a] * rights[b])) for (a, b), n in both.items())


def slow_entropy(values: list[int]) -> float:
    return -sum(n / len(values) * math.log(n / len(values)) for n in Counter(values).values())


def slow_table(code_NZ: NDArray[np.float64], factors: FactorValues) -> tuple[list[list[float]], list[list[int]]]:
    """The mutual information of each dimension and factor, and each factor's levels."""
    levels = []
    for f, is_number in enumerate(factors.is_number_F):
        values = factors.value_NF[:, f].tolist()
        fine = is_number and len({*values}) > BINS
        levels.append(slow_bins(values) if fine else [sorted({*values}).index(value) for value in values])
    bins = [slow_bins(column.tolist()) for column in code_NZ.T]
    return [[slow_information(one, level) for level in levels] for one in bins], levels


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_mutual_information_mig_and_modularity_are_their_definitions(seed: int):
    code_NZ, factors = example(seed)
    table, levels = slow_table(code_NZ, factors)
    level_NF = factors.levels()
    information_ZF = mutual_information(code_NZ, level_NF)
    assert information_ZF == CLOSE(np.array(table), abs=1e-9)
    gaps = []
    for f, level in enumerate(levels):
        best, second = sorted((row[f] for row in table), reverse=True)[:2]
        gaps.append((best - second) / slow_entropy(level))
    assert mig(information_ZF, entropies(level_NF)) == CLOSE(sum(gaps) / len(gaps), abs=1e-6)
    scores = []
    for row in table:
        best = max(range(len(row)), key=row.__getitem__)
        template = [row[f] if f == best else 0.0 for f in range(len(row))]
        error = sum((m - t) ** 2 for m, t in zip(row, template, strict=True))
        scores.append(1 - error / (row[best] ** 2 * (len(row) - 1)))
    assert modularity(information_ZF) == CLOSE(sum(scores) / len(scores), abs=1e-6)


def slow_sap(code_NZ: NDArray[np.float64], factors: FactorValues) -> float:
    gaps = []
    for f, is_number in enumerate(factors.is_number_F):
        values, scores = factors.value_NF[:, f].tolist(), []
        for column in code_NZ.T:
            if np.var(column) <= ACTIVE_VARIANCE:
                scores.append(0.0)
            elif is_number:
                scores.append(np.corrcoef(column, values)[0, 1] ** 2)
            else:
                scores.append(np.mean([slow_threshold(column.tolist(), values, value) for value in {*values}]))
        best, second = sorted(scores, reverse=True)[:2]
        gaps.append(best - second)
    return float(np.mean(gaps))


def slow_threshold(column: list[float], values: list[float], value: float) -> float:
    """The best balanced accuracy of all thresholds, on both sides."""
    found = [0.5]
    of_value = [z for z, v in zip(column, values, strict=True) if v == value]
    of_others = [z for z, v in zip(column, values, strict=True) if v != value]
    for low, high in pairwise(sorted({*column})):
        cut = (low + high) / 2
        below = sum(z < cut for z in of_value) / len(of_value), sum(z < cut for z in of_others) / len(of_others)
        found += [(below[0] + 1 - below[1]) / 2, (1 - below[0] + below[1]) / 2]
    return max(found)


@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_sap_is_its_definition(seed: int):
    code_NZ, factors = example(seed, rows=60)
    code_NZ[:, 0] *= 1e-3
    code_NZ[:, 1] = code_NZ[:, 1].round()
    assert sap(code_NZ, factors) == CLOSE(slow_sap(code_NZ, factors), abs=1e-6)


def slow_importances(forest: RandomForestClassifier, dimensions: int) -> list[float]:
    """The mean decrease in impurity, node by node of each tree."""
    totals = [0.0] * dimensions
    for one in forest.estimators_:
        tree, own = one.tree_, [0.0] * dimensions
        for node, (left, right) in enumerate(zip(tree.children_left, tree.children_right, strict=True)):
            if left >= 0:
                weights = [tree.weighted_n_node_samples[place] * tree.impurity[place] for place in (node, left, right)]
                own[tree.feature[node]] += weights[0] - weights[1] - weights[2]
        totals = [total + part / sum(own) for total, part in zip(totals, own, strict=True)]
    return [total / sum(totals) for total in totals]


def slow_purity(rows: list[list[float]]) -> float:
    everything, score = sum(map(sum, rows)), 0.0
    for row in rows:
        shares = [value / sum(row) for value in row if value > 0] if sum(row) > 0 else []
        entropy = -sum(share * math.log(share, len(row)) for share in shares)
        score += sum(row) / everything * (1 - entropy)
    return score


@pytest.mark.parametrize("seed", range(3))
def test_dci_is_its_definition(seed: int):
    (train_NZ, train), (test_NZ, test) = example(seed), example(seed + 100)
    train_level_NF, test_level_NF = train.levels(), test.levels()
    importances, accuracies = [], []
    for f in range(3):
        forest = RandomForestClassifier(10, max_features=None, random_state=seed).fit(train_NZ, train_level_NF[:, f])
        importances.append(slow_importances(forest, 4))
        hits = [a == b for a, b in zip(forest.predict(test_NZ), test_level_NF[:, f], strict=True)]
        accuracies.append(sum(hits) / len(hits))
    found = dci(train_NZ, train_level_NF, test_NZ, test_level_NF, seed)
    assert found.disentanglement == CLOSE(slow_purity([*map(list, zip(*importances, strict=True))]), abs=1e-6)
    assert found.completeness == CLOSE(slow_purity(importances), abs=1e-6)
    assert found.informativeness == CLOSE(sum(accuracies) / 3, abs=1e-6)


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_scores_of_importances_are_their_definitions(seed: int):
    random = np.random.default_rng(seed)
    weight_ZF = random.random((5, 3)) * random.integers(0, 2, (5, 3))
    weight_ZF[0, 0] = 1
    disentanglement, completeness = importance_scores(weight_ZF)
    assert disentanglement == CLOSE(slow_purity(weight_ZF.tolist()), abs=1e-6)
    assert completeness == CLOSE(slow_purity(weight_ZF.T.tolist()), abs=1e-6)


@given(seed=seeds)
@settings(max_examples=5, deadline=None)
def test_the_factorvae_score_is_its_definition(seed: int):
    code_NZ, factors = example(seed)
    code_NZ[:, 2] *= 1e-3
    levels, votes = factors.levels(), defaultdict(Counter)
    for f, rows in fixed_factor_batches(levels, np.random.default_rng(seed)):
        assert len({levels[row][f] for row in rows}) == 1
        shares = {}
        for z in range(4):
            column = code_NZ[:, z].tolist()
            if np.var(column) > ACTIVE_VARIANCE:
                shares[z] = np.var([column[row] for row in rows]) / np.var(column)
        votes[min(shares, key=shares.__getitem__)][f] += 1
    right = sum(max(counts.values()) for counts in votes.values())
    expected = right / sum(sum(counts.values()) for counts in votes.values())
    assert factor_vae_score(code_NZ, levels, seed) == CLOSE(expected, abs=1e-6)


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_total_correlation_is_that_of_a_gaussian(seed: int):
    random = np.random.default_rng(seed)
    code_NZ = random.normal(size=(50, 4)) @ random.normal(size=(4, 4))
    code_NZ = np.concatenate([code_NZ, 1e-3 * code_NZ[:, :1]], axis=1)
    active_NZ = code_NZ[:, np.var(code_NZ, axis=0) > ACTIVE_VARIANCE]
    covariance = np.cov(active_NZ, rowvar=False)
    expected = (sum(math.log(value) for value in np.diag(covariance)) - math.log(np.linalg.det(covariance))) / 2
    assert total_correlation(code_NZ) == CLOSE(expected, abs=1e-6)


def slow_udr(codes: list[NDArray[np.float64]], kls: list[NDArray[np.float64]]) -> list[float]:
    scores = []
    for i in range(len(codes)):
        found = []
        for j in range(len(codes)):
            if i == j:
                continue
            known_i, known_j = ([z for z, kl in enumerate(kls[k]) if kl > INFORMATIVE_KL] for k in (i, j))
            table = [[abs(spearmanr(codes[i][:, a], codes[j][:, b])[0]) for b in known_j] for a in known_i]
            columns = [*map(list, zip(*table, strict=True))]
            found.append(sum(max(v) ** 2 / sum(v) for v in (*table, *columns)) / (len(known_i) + len(known_j)))
        scores.append(float(np.median(found)))
    return scores


@pytest.mark.parametrize("seed", range(3))
def test_udr_is_its_definition(seed: int):
    random = np.random.default_rng(seed)
    codes = [random.normal(size=(40, 3)) @ random.normal(size=(3, dimensions)) for dimensions in (4, 4, 5, 3)]
    kls = [random.choice([0.001, 0.5], code.shape[1], p=[0.3, 0.7]) for code in codes]
    for kl_Z in kls:
        kl_Z[0] = 1
    assert udr(codes, kls) == CLOSE(np.array(slow_udr(codes, kls)), abs=1e-6)


def test_a_code_that_is_its_factors_has_the_best_scores():
    code_NZ, factors = aligned()
    train, test = (replace(factors, value_NF=factors.value_NF[rows]) for rows in (slice(300), slice(300, None)))
    found = measured(code_NZ[:300], train, code_NZ[300:], test)
    assert min(found.values()) > 0.9
    assert found["dci_informativeness"] == found["factor_vae_score"] == 1
    assert total_correlation(code_NZ) < 0.02


def test_a_rotated_code_has_worse_scores_but_tells_as_much():
    code_NZ, factors = aligned()
    rotation_ZZ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    straight = measured(code_NZ, factors, code_NZ, factors)
    rotated = measured(*(code_NZ @ rotation_ZZ, factors) * 2)
    assert rotated["dci_informativeness"] == straight["dci_informativeness"] == 1
    for name in ("mig", "dci_disentanglement", "dci_completeness", "sap", "modularity"):
        assert rotated[name] < straight[name] - 0.1, name


@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_order_and_signs_of_dimensions_do_not_matter(seed: int):
    code_NZ, factors = example(seed)
    random = np.random.default_rng(seed)
    order_Z, sign_Z = random.permutation(4), random.choice([-1.0, 1.0], 4)
    other_NZ, level_NF = code_NZ[:, order_Z] * sign_Z, factors.levels()
    assert factor_vae_score(other_NZ, level_NF) == factor_vae_score(code_NZ, level_NF)
    assert sap(other_NZ, factors) == CLOSE(sap(code_NZ, factors), abs=1e-9)
    assert total_correlation(other_NZ) == CLOSE(total_correlation(code_NZ), abs=1e-9)
    kl_Z = np.ones(4)
    third_NZ = random.normal(size=code_NZ.shape)
    first, second, _ = udr([code_NZ, other_NZ, third_NZ], [kl_Z, kl_Z, kl_Z])
    assert first == CLOSE(second, abs=1e-9)


def test_udr_is_1_for_independent_dimensions_in_another_order():
    # An orthogonal design, in which all rank correlations are 0.
    code_NZ = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3)
    found_S = udr([code_NZ, -code_NZ[:, [2, 0, 1]]], [np.ones(3), np.ones(3)])
    assert found_S == CLOSE(1, abs=1e-9)


def test_a_dimension_that_is_all_noise_says_nothing_however_well_its_mean_follows_a_factor():
    code_NZ, factors = aligned()
    collapsed_NZ = code_NZ * [1e-3, 1, 1]
    without_NZ = code_NZ * [0, 1, 1]
    found = measured(collapsed_NZ, factors, collapsed_NZ, factors)
    assert found == measured(without_NZ, factors, without_NZ, factors)
    assert found["mig"] < 0.7 < measured(code_NZ, factors, code_NZ, factors)["mig"]
    nothing = measured(*(code_NZ * 1e-3, factors) * 2)
    shares = [np.bincount(level_N).max() / len(level_N) for level_N in factors.levels().T]
    assert nothing.pop("dci_informativeness") == CLOSE(np.mean(shares), abs=0.02)
    assert {*nothing.values()} == {0}


def test_measures_that_are_not_defined_are_nan_and_collapsed_codes_have_0():
    code_NZ, factors = aligned(rows=50)
    one = FactorValues(value_NF=factors.value_NF[:, :1], is_number_F=factors.is_number_F[:1])
    found = measured(code_NZ, one, code_NZ, one)
    assert {name for name, value in found.items() if math.isnan(value)} == {"dci_disentanglement", "modularity"}
    constant = FactorValues(value_NF=np.ones((50, 2)), is_number_F=np.ones(2, bool))
    found = measured(code_NZ, constant, code_NZ, constant)
    assert math.isnan(found["mig"])
    assert math.isnan(found["sap"])
    assert math.isnan(found["factor_vae_score"])
    found = measured(np.zeros((50, 3)), factors, np.zeros((50, 3)), factors)
    assert {found[name] for name in ("mig", "sap", "factor_vae_score", "modularity", "dci_disentanglement")} == {0}
    assert np.isnan(udr([code_NZ, code_NZ], [np.zeros(3), np.ones(3)])).all()
    assert math.isnan(total_correlation(np.stack([code_NZ[:, 0]] * 2, axis=1)))


def test_dci_is_left_out_of_a_code_with_very_many_active_dimensions():
    code_NZ, factors = aligned(rows=200)
    long_NZ = np.hstack([code_NZ, np.random.default_rng(0).normal(size=(200, 254))])
    found = measured(long_NZ, factors, long_NZ, factors)
    missing = {name for name, value in found.items() if math.isnan(value)}
    assert missing == {"dci_disentanglement", "dci_completeness", "dci_informativeness"}
    long_NZ[:, 256] *= 1e-3
    assert not any(map(math.isnan, measured(long_NZ, factors, long_NZ, factors).values()))


def shapes_like() -> Dataset:
    """Pictures of 16 pixels that follow three factors, with the factors."""
    random = np.random.default_rng(0)
    level_NF = random.integers(0, 4, (400, 3)).astype(np.int32)
    x_ND = 1 / (1 + np.exp(-(level_NF - 1.5) @ random.normal(size=(3, 16)))) + random.normal(size=(400, 16)) * 0.01
    names, kinds = ("shape", "scale", "angle"), (("a", "b", "c", "d"), (0.0, 1.0, 2.0, 3.0), (0.0, 1.0, 2.0, 3.0))
    factors = [
        Factor(name=name, code_N=level_N, values=values)
        for name, level_N, values in zip(names, level_NF.T, kinds, strict=True)
    ]
    table = Table(
        x_ND=x_ND.astype(np.float32), feature_names=tuple(map(str, range(16))), factors=tuple(factors), where="shapes"
    )
    return build_dataset(table, DataConfig(source="digits"))


def test_a_trial_is_measured_by_its_code_of_the_test_rows_and_leaves_its_table():
    data = shapes_like()
    setups = [model_setup(seed=seed, beta=0.1, latent_dim=4) for seed in (1, 2)]
    model_batch = ModelBatch(setups, data, "elbo", "cpu")
    train(model_batch, 3)
    outcomes = outcomes_of(model_batch, DiagnosticsConfig(iwae_draws=0))
    for k, outcome in enumerate(outcomes):
        codes = {name: model_batch.measure(name)[k].mean_NZ for name in ("train", "test")}
        values = {name: FactorValues.of(data.splits[name].factors) for name in ("train", "test")}
        parts = codes["train"], values["train"], codes["test"], values["test"], setups[k].seed
        expected = measure_factors(*parts)
        found = {name: outcome.metrics[f"test/{name}"] for name in expected.metrics}
        assert found == CLOSE(dict(expected.metrics), abs=1e-6)
        assert outcome.metrics["test/total_correlation"] == CLOSE(total_correlation(codes["test"]), abs=1e-6)
        assert outcome.arrays["factor_names"].tolist() == ["shape", "scale", "angle"]
        assert outcome.arrays["factor_information"] == CLOSE(expected.information_ZF, abs=1e-6)
        assert outcome.arrays["factor_information"].shape == (4, 3)
    assert outcome_of(model_batch, 1, DiagnosticsConfig(iwae_draws=0)).metrics == CLOSE(outcomes[1].metrics, rel=1e-6)


def test_every_measure_is_in_the_table_of_metrics_with_its_direction():
    code_NZ, factors = aligned()
    for name in (*measured(code_NZ, factors, code_NZ, factors), "total_correlation"):
        assert METRICS[name].direction
