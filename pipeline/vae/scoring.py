"""Every anomaly score of every member, example by example; what is fitted is fitted on training rows only."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.anomaly import SCORES, Parts, Scorer, reference_rows
from pipeline.anomaly.scores import OF_CODE, OF_RESIDUAL
from pipeline.vae.evaluation import ROWS_PER_BLOCK, ROWS_PER_PASS, likely_parts
from pipeline.vae.families import Family
from pipeline.vae.networks import StackedLinear
from pipeline.vae.population import Population

Floats = NDArray[np.float64]
# Draws of z for the reconstruction probability (An and Cho 2015 call it L).
DRAWS = 10
# A CPU rounds products of a few rows in another way than those of many, the rows of a product with an odd number of
# columns in turns, and what is left over after its last two vectors of 16 numbers again in another way. In whole
# blocks, a row's numbers are the same in any company and at any place.
COLUMNS_PER_BLOCK = 4
# So many times as many rows go through multilayer perceptrons at once, and on a GPU, while all members' widest
# activations stay within NUMBERS_PER_PASS: each pass costs its calls, and memory must not grow with the features.
MLP_FACTOR, CUDA_FACTOR, NUMBERS_PER_PASS = 16, 32, 2**22


class WholeLinear(nn.Module):
    """A StackedLinear that computes whole blocks of columns."""

    weight_KIO: Tensor
    bias_K1O: Tensor

    def __init__(self, layer: StackedLinear):
        super().__init__()
        members, _, self.outputs = layer.weight_KIO.shape
        none_K1O = layer.weight_KIO.new_zeros(members, 1, self.outputs)
        bias_K1O = none_K1O if layer.bias_K1O is None else layer.bias_K1O.detach()
        missing = -self.outputs % COLUMNS_PER_BLOCK
        self.register_buffer("weight_KIO", functional.pad(layer.weight_KIO.detach(), (0, missing)))
        self.register_buffer("bias_K1O", functional.pad(bias_K1O, (0, missing)))

    def forward(self, x_KBI: Tensor) -> Tensor:
        """Map (K, B, I) to (K, B, O)."""
        # Side by side again: strided numbers go through other loops, whose last bits depend on the place, too.
        return torch.baddbmm(self.bias_K1O, x_KBI, self.weight_KIO)[..., : self.outputs].contiguous()


def for_scoring(model: Family) -> Family:
    """A copy of a trained model that gives each row the same numbers whatever it is scored with."""
    model = copy.deepcopy(model).eval()
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if isinstance(child, StackedLinear) and child.weight_KIO.shape[2] % COLUMNS_PER_BLOCK:
                setattr(module, name, WholeLinear(child))
    return model


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
        rows = rows_per_pass(self.model, x_ND.device)
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


def rows_per_pass(model: Family, device: torch.device) -> int:
    """How many rows go through a model at once: whole blocks."""
    if device.type == "cpu" and model.network.kind == "conv":
        return ROWS_PER_PASS
    most = CUDA_FACTOR if device.type == "cuda" else MLP_FACTOR
    widest = len(model.models) * max((model.shape.features, *model.network.hidden))
    return max(1, min(most, NUMBERS_PER_PASS // (ROWS_PER_PASS * widest))) * ROWS_PER_PASS


def whole_blocks(x_BD: Tensor) -> Tensor:
    """The rows, and behind them zeros up to a multiple of ROWS_PER_BLOCK, one block at least."""
    missing = -len(x_BD) % ROWS_PER_BLOCK if len(x_BD) else ROWS_PER_BLOCK
    return functional.pad(x_BD, (0, 0, 0, missing)) if missing else x_BD


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
    mask_KZ = model.code_mask_KZ.bool() & (not OF_CODE.isdisjoint(names))
    return [
        Parts(
            reconstruction_N=reconstruction_KB[k],
            kl_N=kl_KB[k],
            reconstruction_probability_N=None if probability_KB is None else probability_KB[k],
            squared_error_N=error_KB[k],
            residual_ND=residual_KBD[k],
            mean_NZ=_host(likely.code_KBZ[k][:, mask_KZ[k]]),
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
    rows = rows_per_pass(model, x_RD.device)
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
