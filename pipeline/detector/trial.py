"""One trial of a packed detector: its network, and all that its scores need."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.anomaly import Scorer
from pipeline.anomaly.scores import FULL_COVARIANCE
from pipeline.data import Dataset
from pipeline.data.dataset import Facts
from pipeline.detector.folder import Shape, read_tensors, require_shapes
from pipeline.spec.trial import TrialSpec
from pipeline.vae.explanation import costs
from pipeline.vae.families import Family, make_family
from pipeline.vae.frozen import for_scoring
from pipeline.vae.outcome import NOISE, SCORER_FILE, USUAL_COST, WEIGHTS_FILE
from pipeline.vae.passes import Examples
from pipeline.vae.scoring import RowScorer
from pipeline.vae.shape import shape_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TrialScorer:
    """What one trial says of rows.

    Attributes:
        rows: The network and its scorer.
        usual_D: What each feature costs in the reconstruction term of training rows, mean nats.
    """

    rows: RowScorer
    usual_D: Floats

    @classmethod
    def load(cls, folder: Path, spec: TrialSpec, facts: Facts, device: torch.device) -> Self:
        """Read one trial's two files.

        Raises:
            UserError: They are torn, or another model's.
        """
        model = _restored(folder / WEIGHTS_FILE, spec, facts).to(device)
        path, features = folder / SCORER_FILE, len(facts.feature_names)
        tensors = read_tensors(path)
        noise_LZ = tensors.pop(NOISE, torch.zeros(0, 0))
        latents = int(model.code_mask_KZ.sum())
        require_shapes(path, {NOISE: noise_LZ}, torch.float32, {NOISE: (None, latents)})
        require_shapes(path, tensors, torch.float64, _scorer_shapes(features, latents))
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        scorer = Scorer.from_arrays(arrays)
        return cls(
            rows=RowScorer(model=for_scoring(model), scorers_K=[scorer], noise_LKZ=noise_LZ[:, None].to(device)),
            usual_D=arrays[USUAL_COST],
        )

    def scores(self, x_BD: Tensor, names: Collection[str]) -> dict[str, Floats]:
        """Some of its scores of some rows."""
        return self.rows.scores(x_BD, names)[0]

    def excess(self, x_BD: Tensor) -> Floats:
        """What each feature costs in the reconstruction term above its mean in training rows, nats, (B, D)."""
        model = self.rows.model
        examples = Examples(x_BD, x_BD[:, :1] if model.is_conditional else None)
        passes = [cost_KBD[0].double().cpu().numpy() for cost_KBD, _ in costs(model, examples, 1)]
        return np.asarray(np.concatenate(passes) - self.usual_D)


def _restored(path: Path, spec: TrialSpec, facts: Facts) -> Family:
    shape = shape_of(Dataset(**vars(facts), splits={}))
    model = make_family([spec.model], shape, [torch.Generator()])
    tensors, state = read_tensors(path), model.state_dict()
    require_shapes(path, tensors, torch.float32, {name: tuple(value.shape[1:]) for name, value in state.items()})
    model.load_state_dict({name: value[None] for name, value in tensors.items()})
    return model


def _scorer_shapes(features: int, latents: int) -> Mapping[str, Shape]:
    def precision(size: int) -> Shape:
        return (size,) if size > FULL_COVARIANCE else (size, size)

    return {
        "residual_mean": (features,),
        "residual_precision": precision(features),
        "latent_mean": (latents,),
        "latent_precision": precision(latents),
        "latent_reference": (None, latents),
        USUAL_COST: (features,),
    }
