"""Trained models as scoring uses them: minibatches of rows, inference models, posterior modes, anomaly scores."""

import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vae_study.anomaly.scores import ADDITIVE, FITTED, Parts, Scorer, finite, per_value
from vae_study.data.pixels import PixelBytes, part_of
from vae_study.data.windows import Windows
from vae_study.metrics import SCORES, need, scores_of
from vae_study.vae.device import on_host
from vae_study.vae.families.base import Draw, Family
from vae_study.vae.gpu.device_scorer import DeviceScorer, bounded, fitted_scores
from vae_study.vae.kernels import ROWS_PER_BLOCK, has_onednn, wide_linear
from vae_study.vae.networks.layers import StackedLinear, StackedMLP

Floats = NDArray[np.float64]
#: The files of a trial's weights, and of what its scores take beside them.
WEIGHTS_FILE, SCORER_FILE = "model.safetensors", "scorer.safetensors"
# In the second file: of training rows the mean cost and the mean of each feature (D,), the noise of the draws (L, Z).
USUAL_COST, USUAL_INPUT, NOISE = "usual_cost", "usual_input", "probability_noise"
# With more rows, the activations of several convolutional models do not fit into the cache of a CPU.
ROWS_PER_MINIBATCH = 256
# MLPs, and models on a GPU, take this many times more rows at once, which saves calls; fewer where all models' widest
# activations would exceed NUMBERS_PER_MINIBATCH, so that memory does not grow with the features.
MLP_FACTOR, GPU_FACTOR, NUMBERS_PER_MINIBATCH = 16, 32, 2**22


class Examples(NamedTuple):
    """Rows on the device: features, of windows and of images maybe views, and labels for a conditional family."""

    x_ND: Tensor | Windows | PixelBytes
    condition_NC: Tensor | None

    def at(self, rows_KB: Tensor) -> tuple[Tensor, Tensor | None]:
        """Each model's own rows: (K, B, D) and (K, B, C)."""
        condition_KBC = None if self.condition_NC is None else _rows_of(self.condition_NC, rows_KB)
        return _rows_of(self.x_ND, rows_KB), condition_KBC

    def rows(self, rows_N: Tensor) -> "Examples":
        """Some of the rows."""
        return Examples(part_of(self.x_ND, rows_N), None if self.condition_NC is None else self.condition_NC[rows_N])

    def minibatches(self, models: int, rows: int = ROWS_PER_MINIBATCH) -> Iterator[tuple[Tensor, Tensor | None]]:
        """All rows in order, this many at a time and the same for each of K models, without a copy."""
        for start in range(0, len(self.x_ND), rows):
            cut = slice(start, start + rows)
            condition = None if self.condition_NC is None else self.condition_NC[cut].expand(models, -1, -1)
            yield self.x_ND[cut].expand(models, -1, -1), condition


def _rows_of(value_ND: Tensor | Windows | PixelBytes, rows_KB: Tensor) -> Tensor:
    if isinstance(value_ND, Windows | PixelBytes):
        picked_XD: Tensor = value_ND[rows_KB.flatten()]
        return picked_XD.view(*rows_KB.shape, -1)
    # Several times as fast as indexing by rows_KB itself, which copies number by number.
    return value_ND.index_select(0, rows_KB.flatten()).view(*rows_KB.shape, -1)


def rows_per_minibatch(model: Family) -> int:
    """The number of rows that go through a model at once, whole blocks of rows."""
    device = model.code_mask_KZ.device.type
    if device == "cpu" and model.network.kind != "mlp":
        return fewer_if_wide(model)
    most = MLP_FACTOR if device == "cpu" else GPU_FACTOR
    widest = len(model.configs) * max((model.shape.features, *model.network.hidden))
    factor = min(most, NUMBERS_PER_MINIBATCH // (ROWS_PER_MINIBATCH * widest))
    return factor * ROWS_PER_MINIBATCH if factor else fewer_if_wide(model)


def fewer_if_wide(model: Family) -> int:
    """ROWS_PER_MINIBATCH, or of large images fewer whole blocks of rows, whatever the number of models."""
    blocks = NUMBERS_PER_MINIBATCH // (ROWS_PER_BLOCK * model.shape.features)
    return min(ROWS_PER_MINIBATCH, max(blocks, 1) * ROWS_PER_BLOCK)


def whole_blocks(values: Tensor) -> Tensor:
    """Values (..., N, D) with zero rows appended, so that N is a multiple of ROWS_PER_BLOCK and not 0."""
    rows = values.shape[-2]
    missing = -rows % ROWS_PER_BLOCK if rows else ROWS_PER_BLOCK
    return functional.pad(values, (0, 0, 0, missing)) if missing else values


class FastLinear(nn.Module):
    """A StackedLinear by oneDNN: twice as fast as torch.baddbmm for thousands of rows, with the activation in it."""

    weight_KIO: Tensor
    bias_K1O: Tensor | None

    def __init__(self, layer: StackedLinear):
        super().__init__()
        # oneDNN takes the transpose, which has to be contiguous.
        self.register_buffer("weight_KIO", layer.weight_KIO.detach().mT.contiguous().mT)
        self.register_buffer("bias_K1O", None if layer.bias_K1O is None else layer.bias_K1O.detach())
        self.activation = "none"

    def forward(self, x_KBI: Tensor) -> Tensor:
        """Map (K, B, I) to (K, B, O)."""
        return wide_linear(x_KBI, self.weight_KIO, self.bias_K1O, self.activation)


def inference_model(model: Family) -> Family:
    """A copy of a trained model that gives each row the same numbers whatever it is scored with; it cannot be trained.

    They are the same bits in whole blocks of rows (`whole_blocks`) on a CPU where torch comes with oneDNN; elsewhere
    only rounding differs.
    """
    model = copy.deepcopy(model).eval()
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if isinstance(child, StackedLinear) and has_onednn(child.weight_KIO):
                setattr(module, name, FastLinear(child))
    for mlp in model.modules():
        if isinstance(mlp, StackedMLP):
            _fuse(mlp)
    return model


def _fuse(mlp: StackedMLP) -> None:
    """Fuse the activation into the layers where oneDNN can: ReLU without batch normalization."""
    activated = [layer for layer in mlp.layers[: mlp.activated] if isinstance(layer, FastLinear)]
    if mlp.norms or mlp.activation is not functional.relu or len(activated) < mlp.activated:
        return
    for layer in activated:
        layer.activation = "relu"
    mlp.activated = 0


class PosteriorMode(NamedTuple):
    """Reconstruction, rate, residual and code of B examples at the mode of q(z|x), by K models.

    Attributes:
        negative_log_KBD: -log p(x_d|z), nats.
        rate_KBR: KL of each latent dimension or code, nats.
        residual_KBD: x - E[x|z].
        code_KBZ: The code.
        condition_KBC: The label's indicator that was used, for a conditional family.
    """

    negative_log_KBD: Tensor
    rate_KBR: Tensor
    residual_KBD: Tensor
    code_KBZ: Tensor
    condition_KBC: Tensor | None = None


def posterior_mode(model: Family, x_KBD: Tensor, condition_KBC: Tensor | None) -> PosteriorMode:
    """Reconstruction, rate, residual and code of each example at its posterior mode.

    A conditional family takes the label with the lowest cost. Scores must not see an example's own label: where labels
    say what is anomalous, it would give the anomalies away.
    """
    if condition_KBC is None:
        return mode_of(model, x_KBD, None, model.encode(x_KBD, None))
    labels_CC = torch.eye(model.shape.classes, dtype=x_KBD.dtype, device=x_KBD.device)
    labels = [label_C.expand(*x_KBD.shape[:2], -1) for label_C in labels_CC]
    every = [mode_of(model, x_KBD, label_KBC, model.encode(x_KBD, label_KBC)) for label_KBC in labels]
    cost_CKB = torch.stack([one.negative_log_KBD.sum(dim=2) + one.rate_KBR.sum(dim=2) for one in every])
    best_KB = cost_CKB.argmin(dim=0)
    parts = zip(*(one[:4] for one in every), strict=True)
    return PosteriorMode._make([*(_picked(torch.stack(part), best_KB) for part in parts), labels_CC[best_KB]])


def mode_of(model: Family, x_KBD: Tensor, condition_KBC: Tensor | None, draw: Draw) -> PosteriorMode:
    """The same of examples that are encoded already."""
    code = draw(None)
    decoded_KBE = model.decode(code.z_KBZ, condition_KBC)
    negative_log_KBD = model.likelihood.negative_log(decoded_KBE, x_KBD)
    return PosteriorMode(negative_log_KBD, code.rate_KBR, model.likelihood.residual(decoded_KBE, x_KBD), code.z_KBZ)


def _picked(parts_CKB: Tensor, best_KB: Tensor) -> Tensor:
    """From C versions of (K, B, ...), the one that each example has in best_KB."""
    index = best_KB.view(1, *best_KB.shape, *[1] * (parts_CKB.dim() - 3))
    return torch.gather(parts_CKB, 0, index.expand(1, *parts_CKB.shape[1:]))[0]


@torch.no_grad()
def feature_costs(model: Family, examples: Examples, models: int) -> Iterator[tuple[Tensor, Tensor]]:
    """-log p(x_d|z) of each feature at the posterior mode, nats, and x - E[x|z]: (K, B, D) for each minibatch."""
    model.eval()
    for x_KBD, condition_KBC in examples.minibatches(models, rows_per_minibatch(model)):
        mode = posterior_mode(model, x_KBD, condition_KBC)
        yield mode.negative_log_KBD, mode.residual_KBD


@dataclass(frozen=True, kw_only=True)
class RowScorer:
    """Scores rows by K trained models.

    Attributes:
        model: K models, each an `inference_model`.
        scorers_K: What each has learned of its training rows.
        noise_LKZ: Standard normal noise of the reconstruction probability's draws: the same for every row, so that a
            row's score does not depend on which rows are scored with it.
        device_scorers_K: The same scorers on the model's device, if fitted scores are to be computed there.
    """

    model: Family
    scorers_K: Sequence[Scorer]
    noise_LKZ: Tensor
    device_scorers_K: Sequence[DeviceScorer] = ()

    def scores(self, x_ND: Tensor | Windows | PixelBytes, names: Collection[str] = SCORES) -> list[dict[str, Floats]]:
        """The scores of these names for each model, each (N,). Memory grows with the scores, not with their parts."""
        rows = rows_per_minibatch(self.model)
        names = [name for name in scores_of(self.model.shape.image is not None) if name in names]
        minibatches = [self._scores(x_ND[start : start + rows], names) for start in range(0, len(x_ND), rows)]
        return [
            {name: np.concatenate([every_K[k][name] for every_K in minibatches]) for name in minibatches[0][k]}
            for k in range(len(self.scorers_K))
        ]

    @torch.inference_mode()
    def contributions(self, x_BD: Tensor, score: str) -> Floats:
        """What each feature adds to one of the scores in ADDITIVE, by the first model, (B, D).

        Args:
            x_BD: A minibatch, whole blocks of rows.
            score: Its name.
        """
        x_KBD = x_BD.expand(len(self.scorers_K), -1, -1)
        mode = posterior_mode(self.model, x_KBD, x_KBD[..., :1] if self.model.is_conditional else None)
        cost_KBD = mode.negative_log_KBD
        if need([score], "draws"):
            cost_KBD = torch.zeros_like(cost_KBD)
            for drawn_KBD in _drawn_costs(self.model, x_KBD, mode.condition_KBC, self.noise_LKZ):
                cost_KBD += drawn_KBD / len(self.noise_LKZ)
        parts_BD = ADDITIVE[score](self.scorers_K[0], _host(cost_KBD[0]), _host(mode.residual_KBD[0]))
        return parts_BD if (values_B := self.values(x_BD)) is None else parts_BD / values_B[:, None]

    def maps(self, x_BD: Tensor) -> list[Floats]:
        """The anomaly maps of a minibatch of images by each model, (B, H, W)."""
        outputs = score_outputs(self.model, whole_blocks(x_BD), self.noise_LKZ, ["map_maximum"])
        if self.device_scorers_K:
            every = zip(self.device_scorers_K, outputs[3], strict=True)
            found = on_host([scorer.maps(bounded(residual_BD)) for scorer, residual_BD in every])
            return [map_BHW[: len(x_BD)].numpy() for map_BHW in found]
        every_K = zip(self.scorers_K, parts_of(self.model, on_host(outputs)), strict=True)
        return [scorer.maps(parts.residual_ND[: len(x_BD)]) for scorer, parts in every_K]

    @torch.inference_mode()
    def labels(self, x_BD: Tensor, classes: Sequence[str]) -> NDArray[np.object_] | None:
        """The likeliest of the labels of each row, by the first model's code; None if it says nothing of labels."""
        if not self.model.label_parts:
            return None
        code_1BZ = self.model.code(x_BD[None], None, None).z_KBZ
        place_B = code_1BZ[0, :, : self.model.label_parts].argmax(dim=1).cpu().numpy()
        return np.asarray(np.array(classes, object)[place_B])

    def _scores(self, x_BD: Tensor, names: Collection[str]) -> list[dict[str, Floats]]:
        # In whole blocks up to the scores: their products, too, are rounded in another way for a few rows.
        outputs = score_outputs(self.model, whole_blocks(x_BD), self.noise_LKZ, names)
        if self.device_scorers_K and any(name in FITTED for name in names):
            every_K = self._scores_on_device(outputs, names)
        else:
            parts_K = parts_of(self.model, on_host(outputs))
            every_K = [scorer.scores(parts, names) for scorer, parts in zip(self.scorers_K, parts_K, strict=True)]
        values_B = self.values(x_BD)
        return [per_value({name: one[: len(x_BD)] for name, one in every.items()}, values_B) for every in every_K]

    def values(self, x_BD: Tensor) -> Floats | None:
        """How many values of each row are there, if its scores are means over them; else None."""
        return _host((~x_BD.isnan()).sum(dim=1).clamp(min=1)) if self.model.shape.has_ends else None

    @torch.inference_mode()
    def _scores_on_device(self, outputs: Sequence[Tensor], names: Collection[str]) -> list[dict[str, Floats]]:
        """As `Scorer.scores` of each model, but the host gets neither residuals nor codes."""
        reconstruction_KB, kl_KB, error_KB, residual_KBD, code_KBZ, *drawn = outputs
        fitted = [
            fitted_scores(scorer, residual_KBD[k], own_code(self.model, code_KBZ, k), names)
            for k, scorer in enumerate(self.device_scorers_K)
        ]
        nothing_KB0 = residual_KBD[..., :0]
        small = [reconstruction_KB, kl_KB, error_KB, nothing_KB0, nothing_KB0, *drawn, torch.stack(fitted)]
        *there, fitted_KFB = on_host(small)
        of_fit, others = [name for name in FITTED if name in names], [name for name in names if name not in FITTED]
        scored = zip(self.scorers_K, parts_of(self.model, there), finite(fitted_KFB.double().numpy()), strict=True)
        found_K = [scorer.scores(parts, others) | dict(zip(of_fit, own, strict=True)) for scorer, parts, own in scored]
        return [{name: found[name] for name in SCORES if name in found} for found in found_K]


@torch.inference_mode()
def score_outputs(model: Family, x_BD: Tensor, noise_LKZ: Tensor, names: Collection[str]) -> list[Tensor]:
    """What K models say of a minibatch that the scores of these names need, for `parts_of`, on the models' device."""
    x_KBD = x_BD.expand(len(model.configs), -1, -1)
    # `posterior_mode` only asks whether there is a condition: it tries all labels.
    blank = x_KBD[..., :1] if model.is_conditional else None
    mode = posterior_mode(model, x_KBD, blank)
    sums = [part_KBD.sum(dim=2) for part_KBD in (mode.negative_log_KBD, mode.rate_KBR, mode.residual_KBD.square())]
    probability = [_probability(model, x_KBD, mode.condition_KBC, noise_LKZ)] if need(names, "draws") else []
    residual = mode.residual_KBD[..., : None if need(names, "residual") else 0]
    latent = model.code_mask_KZ.shape[1] if need(names, "code") else 0
    return [*sums, residual, mode.code_KBZ[..., :latent], *probability]


def parts_of(model: Family, outputs: Sequence[Tensor]) -> list[Parts]:
    """What `score_outputs` gave, brought to the host, as parts for the scorer of each model."""
    reconstruction_KB, kl_KB, error_KB, residual_KBD, code_KBZ, *drawn = (part.double().numpy() for part in outputs)
    return [
        Parts(
            reconstruction_N=reconstruction_KB[k],
            kl_N=kl_KB[k],
            reconstruction_probability_N=drawn[0][k] if drawn else None,
            squared_error_N=error_KB[k],
            residual_ND=residual_KBD[k],
            mean_NZ=own_columns(code_KBZ[k], model.code_parts_K[k] if code_KBZ.shape[2] else ()),
        )
        for k in range(len(model.configs))
    ]


def own_columns(code_NZ: Floats, parts: Sequence[slice]) -> Floats:
    """The dimensions of a code that a model has."""
    columns = [code_NZ[:, part] for part in parts] or [code_NZ[:, :0]]
    return np.ascontiguousarray(columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1))


def own_code(model: Family, code_KBZ: Tensor, k: int) -> Tensor:
    """The dimensions of a code that one of K models has, (B, Z), on its device."""
    parts = model.code_parts_K[k] if code_KBZ.shape[2] else ()
    return torch.cat([code_KBZ[k][:, part] for part in parts] or [code_KBZ[k]], dim=1)


def _host(values: Tensor) -> Floats:
    return np.asarray(values.double().cpu().numpy())


def _probability(model: Family, x_KBD: Tensor, condition_KBC: Tensor | None, noise_LKZ: Tensor) -> Tensor:
    """Mean of -log p(x|z) over the draws, nats, (K, B)."""
    total_KB = torch.zeros_like(x_KBD[..., 0])
    for cost_KBD in _drawn_costs(model, x_KBD, condition_KBC, noise_LKZ):
        total_KB += cost_KBD.sum(dim=2)
    return total_KB / len(noise_LKZ)


def _drawn_costs(model: Family, x_KBD: Tensor, condition_KBC: Tensor | None, noise_LKZ: Tensor) -> Iterator[Tensor]:
    """-log p(x_d|z) of each feature, nats, (K, B, D), for each draw."""
    draw = model.encode(x_KBD, condition_KBC)
    for noise_KZ in noise_LKZ:
        noise_KBZ = noise_KZ[:, None].expand(-1, x_KBD.shape[1], -1)
        decoded_KBE = model.decode(draw(noise_KBZ).z_KBZ, condition_KBC)
        yield model.likelihood.negative_log(decoded_KBE, x_KBD)
