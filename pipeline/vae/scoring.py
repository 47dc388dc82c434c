"""Every anomaly score of every member, example by example; what is fitted is fitted on training rows only."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.anomaly import SCORES, Parts, Scorer, reference_rows
from pipeline.anomaly.scores import OF_CODE, OF_RESIDUAL
from pipeline.vae.evaluation import likely_parts
from pipeline.vae.families import Family
from pipeline.vae.frozen import for_scoring
from pipeline.vae.passes import rows_per_pass, whole_blocks
from pipeline.vae.population import Population

Floats = NDArray[np.float64]
# Draws of z for the reconstruction probability (An and Cho 2015 call it L).
DRAWS = 10


@dataclass(frozen=True, kw_only=True)
class RowScorer:
    """Trained models with all that their scores need: what rows are put through.

    Attributes:
        model: K models, made `for_scoring`.
        scorers_K: What each has learned of its training rows.
        noise_LKZ: Standard normal noise of the reconstruction probability's draws: the same for every row, so that a
            row's score does not depend on which rows are scored with it.
    """

    model: Family
    scorers_K: Sequence[Scorer]
    noise_LKZ: Tensor

    def scores(self, x_ND: Tensor, names: Collection[str] = SCORES) -> list[dict[str, Floats]]:
        """Some scores of some rows, for each model; memory grows with the scores only, not with their parts."""
        rows = rows_per_pass(self.model)
        chunks = [self._scores(x_ND[start : start + rows], names) for start in range(0, len(x_ND), rows)]
        return [_joined([chunk_K[k] for chunk_K in chunks]) for k in range(len(self.scorers_K))]

    def _scores(self, x_BD: Tensor, names: Collection[str]) -> list[dict[str, Floats]]:
        # Whole blocks up to the scores: products of a few rows are rounded in another way there, too.
        parts_K = parts_of(self.model, whole_blocks(x_BD), self.noise_LKZ, names)
        every_K = [scorer.scores(parts, names) for scorer, parts in zip(self.scorers_K, parts_K, strict=True)]
        return [{name: score_B[: len(x_BD)] for name, score_B in every.items()} for every in every_K]


class PopulationScorer:
    """The scorers of a population's K members, and how to put examples through them."""

    def __init__(self, population: Population):
        """Fit every member's scorer to the reference rows of train."""
        self.population = population
        train_ND = population.examples["train"].x_ND
        trained_ND = train_ND[population.index(reference_rows(len(train_ND)))]
        model, noise_LKZ = for_scoring(population.model), draw_noise(population, DRAWS)
        scorers_K = [Scorer.fit(parts) for parts in _trained_parts(model, trained_ND)]
        self.rows = RowScorer(model=model, scorers_K=scorers_K, noise_LKZ=noise_LKZ)

    def scores(self, x_ND: Tensor) -> list[dict[str, Floats]]:
        """Every score of some rows, for each member."""
        return self.rows.scores(x_ND)

    def of_rows(self, x_ND: NDArray[np.float32]) -> list[dict[str, Floats]]:
        """The same, but for the reconstruction probability, for rows that are in no split."""
        names = [name for name in SCORES if name != "reconstruction_probability"]
        return self.rows.scores(self.population.tensor(x_ND), names)

    def noise(self, member: int) -> Tensor:
        """One member's own noise of the reconstruction probability, (L, Z)."""
        mask_Z = self.population.model.code_mask_KZ[member].bool()
        return self.rows.noise_LKZ[:, member][:, mask_Z]


def draw_noise(population: Population, draws: int) -> Tensor:
    """Each member's noise for the draws of the reconstruction probability, (L, K, Z)."""
    return population.model.noise(draws, 1, population.generators("probability"))[:, :, 0]


def _joined(chunks: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


@torch.inference_mode()
def parts_of(model: Family, x_BD: Tensor, noise_LKZ: Tensor, names: Collection[str]) -> list[Parts]:
    """What each of K models says of some rows in one pass, as far as the scores of these names need it."""
    x_KBD = x_BD.expand(len(model.models), -1, -1)
    # Families only ask whether there is a condition: the label is the one that explains the row best.
    blank = x_KBD[..., :1] if model.is_conditional else None
    likely = likely_parts(model, x_KBD, blank)
    reconstruction_KB, kl_KB, error_KB = (
        _host(part_KBD.sum(dim=2))
        for part_KBD in (likely.negative_log_KBD, likely.rate_KBR, likely.residual_KBD.square())
    )
    probability_KB = None
    if "reconstruction_probability" in names:
        probability_KB = _host(_probability(model, x_KBD, likely.condition_KBC, noise_LKZ))
    residual_KBD = _host(likely.residual_KBD[..., : None if not OF_RESIDUAL.isdisjoint(names) else 0])
    # No codes at all are quicker to take than none of their dimensions.
    latent = 0 if OF_CODE.isdisjoint(names) else model.code_mask_KZ.shape[1]
    code_KBZ, mask_KZ = likely.code_KBZ[..., :latent], model.code_mask_KZ[:, :latent].bool()
    return [
        Parts(
            reconstruction_N=reconstruction_KB[k],
            kl_N=kl_KB[k],
            reconstruction_probability_N=None if probability_KB is None else probability_KB[k],
            squared_error_N=error_KB[k],
            residual_ND=residual_KBD[k],
            mean_NZ=_host(code_KBZ[k][:, mask_KZ[k]]),
        )
        for k in range(len(model.models))
    ]


def _host(values: Tensor) -> Floats:
    return np.asarray(values.double().cpu().numpy())


def _probability(model: Family, x_KBD: Tensor, condition_KBC: Tensor | None, noise_LKZ: Tensor) -> Tensor:
    """Mean of -log p(x|z) over the draws, nats, (K, B)."""
    total_KB = torch.zeros_like(x_KBD[..., 0])
    draw = model.encode(x_KBD, condition_KBC)
    for noise_KZ in noise_LKZ:
        noise_KBZ = noise_KZ[:, None].expand(-1, x_KBD.shape[1], -1)
        decoded_KBE = model.decode(draw(noise_KBZ).z_KBZ, condition_KBC)
        total_KB += model.likelihood.negative_log(decoded_KBE, x_KBD).sum(dim=2)
    return total_KB / len(noise_LKZ)


def _trained_parts(model: Family, x_RD: Tensor) -> list[Parts]:
    """What each of K models says of the reference rows, as far as its scorer is fitted to it."""
    rows = rows_per_pass(model)
    chunks = [x_RD[start : start + rows] for start in range(0, len(x_RD), rows)]
    none_0KZ = model.code_mask_KZ.new_zeros(0, *model.code_mask_KZ.shape)
    passes = [parts_of(model, whole_blocks(x_BD), none_0KZ, OF_RESIDUAL | OF_CODE) for x_BD in chunks]
    sizes = [len(x_BD) for x_BD in chunks]
    return [_side_by_side(parts, sizes) for parts in zip(*passes, strict=True)]


def _side_by_side(parts: Sequence[Parts], sizes: Sequence[int]) -> Parts:
    """The parts of several passes as those of one, without what was padded."""

    def joined(name: str) -> Floats:
        return np.concatenate([getattr(one, name)[:size] for one, size in zip(parts, sizes, strict=True)])

    names = ("reconstruction_N", "kl_N", "squared_error_N", "residual_ND", "mean_NZ")
    return Parts(reconstruction_probability_N=None, **{name: joined(name) for name in names})
