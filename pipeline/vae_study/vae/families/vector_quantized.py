"""A family with discrete codes from a codebook."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vae_study.config.model import ModelConfig
from vae_study.vae.families.base import Code, Draw, Family, size_mask
from vae_study.vae.networks import DataShape, make_encoder
from vae_study.vae.networks.layers import Generators, StackedBatchNorm, StackedLinear


class VectorQuantized(Family):
    """An example has `latent_dim` codes, each one of C entries of `codebook.dim` dimensions; all share one codebook.

    The prior is uniform, so the rate is log C nats for each code, whatever x. The gradient passes straight through.
    """

    def __init__(self, configs: Sequence[ModelConfig], shape: DataShape, generators_K: Generators):
        codes_K = [config.latent_dim for config in configs]
        book = configs[0].codebook
        self.entries, self.dim = book.size, book.dim
        rate_mask_KR = size_mask(codes_K)
        super().__init__(configs, shape, generators_K, rate_mask_KR.repeat_interleave(book.dim, dim=1), rate_mask_KR)
        self.noise_sizes_K = [0] * len(configs)
        self.encoder, width = make_encoder(shape, 0, self.network, generators_K)
        self.to_code = StackedLinear(
            [width] * len(configs), [codes * book.dim for codes in codes_K], generators_K, bias=False
        )
        # Codes of the codebook's own scale keep its entries in use (Łańcucki et al. 2020).
        self.norm = StackedBatchNorm(len(configs), max(codes_K) * book.dim, affine=False)
        entries = [torch.randn(book.size, book.dim, generator=generator) for generator in generators_K]
        self.codebook_KCd = nn.Parameter(torch.stack(entries))
        self._add_decoder(generators_K)

    def nearest(self, continuous_KBZ: Tensor) -> Tensor:
        """The entry nearest to each code, (K, B, R)."""
        models, rows, _ = continuous_KBZ.shape
        codes_KNd = continuous_KBZ.reshape(models, -1, self.dim)
        distance_KNC = torch.cdist(codes_KNd, self.codebook_KCd, compute_mode="donot_use_mm_for_euclid_dist")
        return distance_KNC.argmin(dim=2).view(models, rows, -1)

    def encode(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> Draw:
        """The nearest entries, whatever the noise; in training also the codebook loss and the commitment loss."""
        # The nearest entry is told in full precision.
        own_KBZ = self.to_code(self.encoder(x_KBD)).to(x_KBD.dtype)
        continuous_KBZ = self.norm(own_KBZ.transpose(0, 1)).transpose(0, 1)
        index_KBR = self.nearest(continuous_KBZ.detach())
        model_K11 = torch.arange(len(index_KBR), device=index_KBR.device)[:, None, None]
        chosen_KBZ = self.codebook_KCd[model_K11, index_KBR].flatten(2)
        mask_K1Z, mask_K1R = self.code_mask_KZ[:, None], self.rate_mask_KR[:, None]
        commitment = self.configs[0].codebook.commitment
        book_KB = ((chosen_KBZ - continuous_KBZ.detach()).square() * mask_K1Z).sum(dim=2)
        commitment_KB = ((chosen_KBZ.detach() - continuous_KBZ).square() * mask_K1Z).sum(dim=2)
        straight_KBZ = continuous_KBZ + (chosen_KBZ - continuous_KBZ).detach()
        rate_KBR = (math.log(self.entries) * mask_K1R).expand(-1, x_KBD.shape[1], -1)
        code = Code(
            straight_KBZ * mask_K1Z,
            rate_KBR,
            -rate_KBR.sum(dim=2),
            auxiliary_K=(book_KB + commitment * commitment_KB).mean(dim=1),
        )
        return lambda noise_KBZ: code

    def prior(self, noise_KBZ: Tensor) -> Tensor:
        """Entries drawn uniformly: the rank of a normal number among all is uniform."""
        uniform_KBR = torch.special.ndtr(noise_KBZ[..., :: self.dim])
        index_KBR = (uniform_KBR * self.entries).long().clamp(max=self.entries - 1)
        model_K11 = torch.arange(len(index_KBR), device=index_KBR.device)[:, None, None]
        return self.codebook_KCd[model_K11, index_KBR].flatten(2) * self.code_mask_KZ[:, None]

    def parameters_to_measure(self) -> Tensor:
        """The codebooks."""
        return self.codebook_KCd.detach()

    def split_metrics(self, z_NZ: NDArray[np.float64], own: NDArray[np.float64]) -> dict[str, float]:
        """`perplexity`: exp of the entropy of the entries' usage, from 1 to the codebook's size."""
        codes_Nd, book_Cd = torch.as_tensor(z_NZ).reshape(-1, self.dim), torch.as_tensor(own)
        used_C = torch.bincount(torch.cdist(codes_Nd, book_Cd).argmin(dim=1), minlength=self.entries).double()
        share_C = used_C / used_C.sum()
        return {"perplexity": float(torch.exp(torch.special.entr(share_C).sum()))}
