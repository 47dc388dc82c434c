"""Measures of disentanglement: of codes against known factors of variation, and without factors. Numpy only.

A code is disentangled if each of its dimensions follows one factor of variation, such as the angle of a shape. The
measures take posterior means as the code, as Locatello et al. 2019 (arXiv 1811.12359) do; the papers leave it open.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vae_study.data.table import Factor
from vae_study.metrics import ACTIVE_VARIANCE

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

# Locatello et al. 2019, appendix C: mutual information is estimated from histograms of 20 bins a dimension.
BINS = 20
# Of the FactorVAE score; more rows a vote tell factors apart better than more votes do.
VOTES, ROWS_PER_VOTE = 800, 64
# Of DCI: trees of a forest, and rows that it is fitted to.
TREES, FOREST_ROWS = 10, 2_000
# With more active dimensions it is left out: the forests take a second for each 60 of them.
MOST_FOREST_DIMENSIONS = 256
# Duan et al. 2020, section 4: a dimension with a smaller mean KL, nats, is not informative.
INFORMATIVE_KL = 0.01
CODE_ROWS = 500


@dataclass(frozen=True, kw_only=True)
class FactorValues:
    """F known factors of variation of N rows.

    Attributes:
        value_NF: Numbers as they are, categories as whole numbers from 0.
        is_number_F: Which factors are numbers.
    """

    value_NF: Floats
    is_number_F: NDArray[np.bool_]

    @classmethod
    def of(cls, factors: Sequence[Factor]) -> Self:
        """The values of some factors, one at least, of the same rows."""
        columns = [one.code_N if not one.is_number else np.array(one.values)[one.code_N] for one in factors]
        value_NF = np.stack(columns, axis=1).astype(np.float64)
        return cls(value_NF=value_NF, is_number_F=np.array([one.is_number for one in factors]))

    def levels(self) -> Ids:
        """Each factor's values as whole numbers from 0, (N, F): numbers with more than BINS values are binned."""
        level_NF = np.empty(self.value_NF.shape, np.int64)
        for f, value_N in enumerate(self.value_NF.T):
            distinct, level_N = np.unique(value_N, return_inverse=True)
            is_fine = self.is_number_F[f] and len(distinct) > BINS
            level_NF[:, f] = binned(value_N[:, None])[:, 0] if is_fine else level_N
        return level_NF


def binned(x_ND: Floats, bins: int = BINS) -> Ids:
    """The bin of each value, from 0: each column's range is cut into bins of one width, closed at their lower ends."""
    bin_ND = np.zeros(x_ND.shape, np.int64)
    for d, x_N in enumerate(x_ND.T):
        inner = np.linspace(x_N.min(), x_N.max(), bins + 1)[1:-1]
        bin_ND[:, d] = np.searchsorted(inner, x_N, side="right")
    return bin_ND


def entropies(level_NF: Ids) -> Floats:
    """The entropy of each factor from the shares of its levels, nats, (F,)."""
    return np.array([_entropy(np.bincount(level_N)) for level_N in level_NF.T])


def _entropy(count_V: NDArray[np.int64]) -> float:
    share_V = count_V[count_V > 0] / count_V.sum()
    return float(-(share_V * np.log(share_V)).sum())


def mutual_information(code_NZ: Floats, level_NF: Ids) -> Floats:
    """The mutual information of each dimension's bin and each factor's level, nats, (Z, F).

    I(z; v) = H(z) + H(v) - H(z, v), from the shares of bins and levels (Chen et al. 2018, arXiv 1802.04942, equation 5;
    histograms as Locatello et al. 2019). It is too large by about (bins - 1)(levels - 1) / 2N nats (Miller 1955).
    """
    bin_NZ, levels_F = binned(code_NZ), level_NF.max(axis=0) + 1
    entropy_Z, entropy_F = entropies(bin_NZ), entropies(level_NF)
    joint_ZF = np.empty((bin_NZ.shape[1], level_NF.shape[1]))
    for z, bin_N in enumerate(bin_NZ.T):
        for f, level_N in enumerate(level_NF.T):
            joint_ZF[z, f] = _entropy(np.bincount(bin_N * levels_F[f] + level_N))
    # Rounding may leave -1e-16.
    return np.maximum(entropy_Z[:, None] + entropy_F - joint_ZF, 0)


def mig(information_ZF: Floats, entropy_F: Floats) -> float:
    """The mutual information gap, from 0 to 1 (Chen et al. 2018, equation 6).

    The mean over factors v of (I(z1; v) - I(z2; v)) / H(v), where z1 and z2 are the two dimensions that know most about
    v; a single dimension has no rival. Factors with one value do not count; NaN if there is no other.
    """
    varies_F = entropy_F > 0
    if not varies_F.any():
        return math.nan
    gap_F = _gap(information_ZF[:, varies_F])
    return float((gap_F / entropy_F[varies_F]).mean())


def _gap(score_ZF: Floats) -> Floats:
    """How much larger the largest value of each column is than the second largest, or than 0 if there is none."""
    padded_ZF = np.concatenate([np.zeros((2, score_ZF.shape[1])), score_ZF])
    second_F, first_F = np.sort(padded_ZF, axis=0)[-2:]
    return np.asarray(first_F - second_F)


def modularity(information_ZF: Floats) -> float:
    """How much each dimension knows about one factor only, from 0 to 1 (Ridgeway and Mozer 2018, equation 2).

    The mean over dimensions of 1 - sum over f of (m_f - t_f)^2 / (m^2 (F - 1)), where m_f is the mutual information
    with factor f, m the largest of them, t_f = m for that factor and 0 for others. Dimensions that know nothing do not
    count; 0 if none knows anything, NaN for a single factor.
    """
    factors = information_ZF.shape[1]
    if factors < 2:
        return math.nan
    square_ZF = information_ZF**2
    largest_Z = square_ZF.max(axis=1)
    knows_Z = largest_Z > 0
    rest_Z = (square_ZF.sum(axis=1) - largest_Z)[knows_Z] / largest_Z[knows_Z] / (factors - 1)
    return float((1 - rest_Z).mean()) if knows_Z.any() else 0.0


def sap(code_NZ: Floats, factors: FactorValues) -> float:
    """The separated attribute predictability, from 0 to 1 (Kumar et al. 2018, arXiv 1711.00848, section 3).

    The mean over factors of the gap between the two dimensions that predict it best. A number is predicted by linear
    regression, with score cov(z, v)^2 / (var z var v); a category by one threshold for each of its values, on either
    side, with the mean over values of the best balanced accuracy. Dimensions whose variance is at most ACTIVE_VARIANCE
    have the score 0. Factors with one value do not count; NaN if there is no other.
    """
    varies_F = np.ptp(factors.value_NF, axis=0) > 0
    if not varies_F.any():
        return math.nan
    score_ZF = np.zeros((code_NZ.shape[1], len(varies_F)))
    for z in np.flatnonzero(code_NZ.var(axis=0) > ACTIVE_VARIANCE):
        for f in np.flatnonzero(varies_F):
            value_N = factors.value_NF[:, f]
            score = _explained_share if factors.is_number_F[f] else _threshold_accuracy
            score_ZF[z, f] = score(code_NZ[:, z], value_N)
    return float(_gap(score_ZF[:, varies_F]).mean())


def _explained_share(z_N: Floats, value_N: Floats) -> float:
    z_N, value_N = z_N - z_N.mean(), value_N - value_N.mean()
    return float((z_N @ value_N) ** 2 / (z_N @ z_N) / (value_N @ value_N))


def _threshold_accuracy(z_N: Floats, value_N: Floats) -> float:
    """The mean over values of the best balanced accuracy of "z is above a threshold", or below it."""
    order_N = np.argsort(z_N, kind="stable")
    sorted_N, levels = z_N[order_N], np.unique(value_N)
    # A threshold lies between two different values of z.
    is_cut_N = np.append(sorted_N[1:] > sorted_N[:-1], True)
    total = 0.0
    for level in levels:
        is_level_N = value_N[order_N] == level
        below_N = np.cumsum(is_level_N)[is_cut_N] / is_level_N.sum()
        others_N = np.cumsum(~is_level_N)[is_cut_N] / (~is_level_N).sum()
        total += 0.5 + np.abs(below_N - others_N).max() / 2
    return total / len(levels)


@dataclass(frozen=True, kw_only=True)
class Dci:
    """Disentanglement, completeness and informativeness, each from 0 to 1; NaN where there is one factor or dimension.

    Attributes:
        disentanglement: How much each dimension is important for one factor only.
        completeness: How much one dimension only is important for each factor.
        informativeness: The mean over factors of the share of rows whose level is predicted.
    """

    disentanglement: float
    completeness: float
    informativeness: float


def importance_scores(importance_ZF: Floats) -> tuple[float, float]:
    """Disentanglement and completeness (Eastwood and Williams 2018, section 2).

    With R_zf the importance of dimension z for factor f: disentanglement is the sum over z of rho_z (1 - H_F(P_z)),
    where P_zf = R_zf / sum over f of R_zf, H_F is the entropy to the base F, and rho_z the share of z in the sum of all
    R. Completeness is the same of the transposed matrix. Both are 0 if no dimension matters.
    """
    return _purity(importance_ZF), _purity(importance_ZF.T)


def _purity(weight_RC: Floats) -> float:
    columns = weight_RC.shape[1]
    if columns < 2:
        return math.nan
    total_R = weight_RC.sum(axis=1)
    if not total_R.sum() > 0:
        return 0.0
    share_RC = weight_RC / np.where(total_R > 0, total_R, 1)[:, None]
    logarithm_RC = np.log(np.where(share_RC > 0, share_RC, 1)) / math.log(columns)
    purity_R = 1 + (share_RC * logarithm_RC).sum(axis=1)
    return float((total_R / total_R.sum() * purity_R).sum())


def dci(train_NZ: Floats, train_level_NF: Ids, test_NZ: Floats, test_level_NF: Ids, seed: int = 0) -> Dci:
    """DCI with random forests (Eastwood and Williams 2018, section 2), one for each factor.

    The importance of a dimension is the mean decrease in impurity of trees that may split by any dimension: others are
    forced to use some that say nothing. The forests classify the factors' levels, and informativeness is their accuracy
    on test, as in Locatello et al. 2019.

    Args:
        train_NZ, train_level_NF: Codes and levels that the forests are fitted to: the first FOREST_ROWS.
        test_NZ, test_level_NF: Others.
        seed: Of the forests.
    """
    # A worker trains before it needs it.
    from sklearn.ensemble import RandomForestClassifier

    importance_ZF = np.zeros((train_NZ.shape[1], train_level_NF.shape[1]))
    accuracy_F = np.zeros(train_level_NF.shape[1])
    for f in range(len(accuracy_F)):
        forest = RandomForestClassifier(n_estimators=TREES, max_features=None, random_state=seed)
        forest.fit(train_NZ[:FOREST_ROWS], train_level_NF[:FOREST_ROWS, f])
        importance_ZF[:, f] = forest.feature_importances_
        accuracy_F[f] = forest.score(test_NZ, test_level_NF[:, f])
    disentanglement, completeness = importance_scores(importance_ZF)
    return Dci(disentanglement=disentanglement, completeness=completeness, informativeness=float(accuracy_F.mean()))


def fixed_factor_batches(
    level_NF: Ids, random: np.random.Generator, votes: int = VOTES, rows: int = ROWS_PER_VOTE
) -> Iterator[tuple[int, Ids]]:
    """For each vote of the FactorVAE score a factor, and rows that share its level, drawn with replacement.

    The level is that of a row drawn at random, of those that share theirs with another row. There are no votes if no
    factor has such rows and two levels.
    """
    shared = {}
    for f, level_N in enumerate(level_NF.T):
        shared_M = np.flatnonzero(np.bincount(level_N)[level_N] > 1)
        if len(shared_M) and np.ptp(level_N) > 0:
            shared[f] = shared_M
    for f in random.choice([*shared], votes) if shared else ():
        level = level_NF[random.choice(shared[f]), f]
        yield int(f), random.choice(np.flatnonzero(level_NF[:, f] == level), rows)


def factor_vae_score(code_NZ: Floats, level_NF: Ids, seed: int = 0) -> float:
    """The FactorVAE score, from 0 to 1 (Kim and Mnih 2018, arXiv 1802.05983, section 4).

    For each vote, the rows of a batch share the level of one factor; the dimension whose variance in the batch is the
    smallest share of its variance over all rows votes for that factor. The score is the accuracy of the classifier that
    names, for each dimension, the factor that it got most votes for. Dimensions whose variance is at most
    ACTIVE_VARIANCE do not vote; 0 if none is left, NaN if no factor can be drawn.
    """
    variance_Z = code_NZ.var(axis=0)
    active_Z = variance_Z > ACTIVE_VARIANCE
    scaled_NZ = code_NZ[:, active_Z] / np.sqrt(variance_Z[active_Z])
    votes_ZF = np.zeros((scaled_NZ.shape[1], level_NF.shape[1]))
    batches = [*fixed_factor_batches(level_NF, np.random.default_rng(seed))]
    if not batches or not active_Z.any():
        return 0.0 if batches else math.nan
    for f, rows_B in batches:
        votes_ZF[scaled_NZ[rows_B].var(axis=0).argmin(), f] += 1
    return float(votes_ZF.max(axis=1).sum() / len(batches))


def total_correlation(code_NZ: Floats) -> float:
    """The total correlation of the code, nats, as if it were Gaussian (Locatello et al. 2019, section 5.4).

    KL(q(z) || product of q(z_j)) = (sum over j of log C_jj - log det C) / 2, where C is the covariance of the posterior
    means (Watanabe 1960), of the dimensions whose variance is above ACTIVE_VARIANCE. 0 if dimensions are uncorrelated,
    or fewer than two are active; NaN if one is a linear function of others.
    """
    active_NZ = code_NZ[:, code_NZ.var(axis=0) > ACTIVE_VARIANCE]
    if active_NZ.shape[1] < 2:
        return 0.0
    sign, logarithm = np.linalg.slogdet(np.corrcoef(active_NZ, rowvar=False))
    return max(0.0, float(-logarithm / 2)) if sign > 0 and math.isfinite(logarithm) else math.nan


def udr(code_SNZ: Sequence[Floats], kl_SZ: Sequence[Floats]) -> Floats:
    """The unsupervised disentanglement ranking of S models that differ in their seeds (Duan et al. 2020, section 4).

    Models i and j agree by (sum over b of r_b^2 / sum over a of R_ab + sum over a of r_a^2 / sum over b of R_ab) /
    (dimensions of i + dimensions of j), where R_ab is the absolute rank correlation of dimension a of i with b of j,
    r_b and r_a its largest values in column b and row a, and dimensions with a mean KL of INFORMATIVE_KL or less are
    left out, as in the authors' code. 1 if one code is the other with its dimensions in another order or other signs,
    and these are uncorrelated.

    Args:
        code_SNZ: Each model's posterior means of the same N rows; models may differ in their dimensions.
        kl_SZ: Each model's mean KL a dimension, nats.

    Returns:
        Each model's median over the others, (S,), 1 at most; NaN of a model without an informative dimension, or
        without any other that has one.
    """
    ranks = [_ranks(code_NZ[:, kl_Z > INFORMATIVE_KL]) for code_NZ, kl_Z in zip(code_SNZ, kl_SZ, strict=True)]
    models = len(ranks)
    agreement_SS = np.full((models, models), np.nan)
    for i in range(models):
        for j in range(i):
            if ranks[i].shape[1] and ranks[j].shape[1]:
                agreement_SS[i, j] = agreement_SS[j, i] = _agreement(np.abs(ranks[i].T @ ranks[j]))
    known_S = np.isfinite(agreement_SS).any(axis=1)
    found_S = np.full(models, np.nan)
    found_S[known_S] = np.nanmedian(agreement_SS[known_S], axis=1)
    return found_S


def compared_code(code_NZ: Floats, kl_Z: Floats | None) -> dict[str, NDArray[np.float32]]:
    """What `udr` needs of a model, small enough to be kept: `code`, of the first CODE_ROWS rows, and `kl`.

    Of a family without a KL for each dimension, those whose variance is above ACTIVE_VARIANCE count as informative.
    """
    if kl_Z is None or len(kl_Z) != code_NZ.shape[1]:
        kl_Z = np.where(code_NZ.var(axis=0) > ACTIVE_VARIANCE, np.inf, 0)
    return {"code": code_NZ[:CODE_ROWS].astype(np.float32), "kl": kl_Z.astype(np.float32)}


def _ranks(code_NZ: Floats) -> Floats:
    """Ranks, ties at their mean, of mean 0 and length 1, so that products are Spearman's correlations."""
    from scipy.stats import rankdata

    rank_NZ = np.asarray(rankdata(code_NZ, axis=0), np.float64)
    rank_NZ -= rank_NZ.mean(axis=0)
    length_Z = np.sqrt((rank_NZ**2).sum(axis=0))
    return rank_NZ / np.where(length_Z > 0, length_Z, 1)


def _agreement(correlation_AB: Floats) -> float:
    total = 0.0
    for axis in (0, 1):
        sums, largest = correlation_AB.sum(axis=axis), correlation_AB.max(axis=axis)
        total += float((largest**2 / np.where(sums > 0, sums, 1)).sum())
    return total / sum(correlation_AB.shape)


@dataclass(frozen=True, kw_only=True)
class FactorMeasures:
    """What a code tells of the factors.

    Attributes:
        metrics: The measures that need factors, by name; NaN where one is not defined.
        information_ZF: The mutual information of each dimension and each factor, nats.
        entropy_F: Of each factor's levels, nats: the largest value that its column can have.
    """

    metrics: Mapping[str, float]
    information_ZF: Floats
    entropy_F: Floats


def measure_factors(
    train_NZ: Floats, train: FactorValues, test_NZ: Floats, test: FactorValues, seed: int = 0
) -> FactorMeasures:
    """Measure a code against known factors.

    A dimension whose variance is at most ACTIVE_VARIANCE counts as one that says nothing: a draw of it is all noise,
    though its posterior mean may follow the factors on a scale that nothing after it can see.

    Args:
        train_NZ, train: Codes and factors of training rows, which DCI's forests are fitted to.
        test_NZ, test: Those of the rows that are measured.
        seed: Of the forests and of the votes.
    """
    is_active_Z = test_NZ.var(axis=0) > ACTIVE_VARIANCE
    train_NZ, test_NZ = np.where(is_active_Z, train_NZ, 0), np.where(is_active_Z, test_NZ, 0)
    values = np.concatenate([train.value_NF, test.value_NF])
    both_NF = FactorValues(value_NF=values, is_number_F=train.is_number_F).levels()
    train_level_NF, level_NF = np.split(both_NF, [len(train_NZ)])
    information_ZF, entropy_F = mutual_information(test_NZ, level_NF), entropies(level_NF)
    found = Dci(disentanglement=math.nan, completeness=math.nan, informativeness=math.nan)
    if is_active_Z.sum() <= MOST_FOREST_DIMENSIONS:
        found = dci(train_NZ, train_level_NF, test_NZ, level_NF, seed)
    metrics = {
        "mig": mig(information_ZF, entropy_F),
        "dci_disentanglement": found.disentanglement,
        "dci_completeness": found.completeness,
        "dci_informativeness": found.informativeness,
        "sap": sap(test_NZ, test),
        "factor_vae_score": factor_vae_score(test_NZ, level_NF, seed),
        "modularity": modularity(information_ZF),
    }
    return FactorMeasures(metrics=metrics, information_ZF=information_ZF, entropy_F=entropy_F)
