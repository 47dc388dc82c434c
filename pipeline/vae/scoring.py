"""Every anomaly score of every member, example by example; what is fitted is fitted on training rows only."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.anomaly import Parts, Scorer, reference_rows
from pipeline.vae.evaluation import Examples, likely_parts
from pipeline.vae.families import Family
from pipeline.vae.population import Population

Floats = NDArray[np.float64]
# Draws of z for the reconstruction probability (An and Cho 2015 call it L).
DRAWS = 10
# Nearest neighbours are looked up for so many rows at once; memory does not grow with the split.
ROWS_PER_LOOKUP = 16 * 256


class PopulationScorer:
    """The scorers of K members, and how to put examples through them."""

    def __init__(self, population: Population):
        """Fit every member's scorer to the reference rows of train."""
        self.population = population
        train = population.examples["train"]
        trained = train.rows(population.index(reference_rows(len(train.x_ND))))
        self.scorers_K = [Scorer(parts) for parts in self._parts(trained, draws=0)]

    def scores(self, examples: Examples, draws: int = DRAWS) -> list[dict[str, Floats]]:
        """Every score of some examples, for each member; without draws, there is no reconstruction probability."""
        chunks = [
            [scorer.scores(parts) for scorer, parts in zip(self.scorers_K, self._parts(some, draws), strict=True)]
            for some in (
                examples.cut(start, ROWS_PER_LOOKUP) for start in range(0, len(examples.x_ND), ROWS_PER_LOOKUP)
            )
        ]
        return [_joined([chunk_K[k] for chunk_K in chunks]) for k in range(len(self.scorers_K))]

    def of_rows(self, x_ND: NDArray[np.float32]) -> list[dict[str, Floats]]:
        """The same, without draws, for rows that are in no split; a conditional family picks their labels itself."""
        condition = self.population.examples["train"].condition_NC
        blank = None if condition is None else condition.new_zeros(len(x_ND), condition.shape[1])
        return self.scores(Examples(self.population.tensor(x_ND), blank), draws=0)

    def _parts(self, examples: Examples, draws: int) -> list[Parts]:
        return parts_of(self.population.model, examples, self.population.generators("probability"), draws)


def _joined(chunks: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


@torch.no_grad()
def parts_of(model: Family, examples: Examples, generators_K: Sequence[torch.Generator], draws: int) -> list[Parts]:
    """Each member's parts of some examples, held for all of them at once."""
    model.eval()
    members = len(generators_K)
    passes = [_pass(model, x_KBD, c_KBC, generators_K, draws) for x_KBD, c_KBC in examples.passes(members)]
    joined = [torch.cat(part, dim=1).double().cpu().numpy() for part in zip(*passes, strict=True)]
    reconstruction, kl, probability, error, residual, mean = joined
    masks_KZ = model.code_mask_KZ.bool().cpu().numpy()
    return [
        Parts(
            reconstruction_N=reconstruction[k],
            kl_N=kl[k],
            reconstruction_probability_N=probability[k] if draws else None,
            squared_error_N=error[k],
            residual_ND=residual[k],
            mean_NZ=mean[k][:, masks_KZ[k]],
        )
        for k in range(members)
    ]


def _pass(
    model: Family, x_KBD: Tensor, condition_KBC: Tensor | None, generators_K: Sequence[torch.Generator], draws: int
) -> tuple[Tensor, ...]:
    likely = likely_parts(model, x_KBD, condition_KBC)
    return (
        likely.negative_log_KBD.sum(dim=2),
        likely.rate_KBR.sum(dim=2) if model.has_rate else torch.zeros_like(x_KBD[..., 0]),
        _probability(model, x_KBD, likely.condition_KBC, generators_K, draws),
        likely.residual_KBD.square().sum(dim=2),
        likely.residual_KBD,
        likely.code_KBZ,
    )


def _probability(
    model: Family, x_KBD: Tensor, condition_KBC: Tensor | None, generators_K: Sequence[torch.Generator], draws: int
) -> Tensor:
    total_KB = torch.zeros_like(x_KBD[..., 0])
    for noise_KBZ in model.noise(draws, x_KBD.shape[1], generators_K):
        decoded_KBE = model.decode(model.code(x_KBD, condition_KBC, noise_KBZ).z_KBZ, condition_KBC)
        total_KB += model.likelihood.negative_log(decoded_KBE, x_KBD).sum(dim=2)
    return total_KB / max(draws, 1)
