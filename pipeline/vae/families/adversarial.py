"""The adversarial autoencoder (Makhzani et al. 2015): a discriminator pulls the aggregate posterior to the prior."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.spec.trial import ModelSpec
from pipeline.vae.families.base import Code, Draw
from pipeline.vae.families.gaussian import VAE
from pipeline.vae.networks import Generators, StackedMLP
from pipeline.vae.shape import DataShape


class Adversarial(VAE):
    """q(z|x) as the VAE's; in the loss the discriminator's game stands in the place of the KL, which is still measured.

    One step trains both sides: the discriminator to tell codes from draws of the prior, the encoder, with beta as the
    weight, to have its codes taken for such draws (the game that does not saturate; Goodfellow et al. 2014).
    """

    def __init__(self, models: Sequence[ModelSpec], shape: DataShape, generators_K: Generators):
        super().__init__(models, shape, generators_K)
        latent_K, width_K = [model.latent_dim for model in models], [128] * len(models)
        network = self.network.model_copy(update={"batch_norm": False})
        # One column would do; but a product with fewer than four rounds in its own way where a member is alone.
        widths = [latent_K, width_K, width_K, [4] * len(models)]
        self.discriminator = StackedMLP(widths, network, generators_K)

    def encode(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> Draw:
        """The VAE's codes, in training with the game's two sides as penalty and auxiliary term."""
        draw = super().encode(x_KBD, condition_KBC)
        return lambda noise_KBZ: self._with_game(draw(noise_KBZ), noise_KBZ)

    def _with_game(self, code: Code, noise_KBZ: Tensor | None) -> Code:
        if noise_KBZ is None or not self.training:
            return code
        # The batch's own noise in another order is as good a draw from the prior as fresh noise.
        prior_KBZ = noise_KBZ.roll(1, dims=1)
        real_KB = functional.softplus(-self.discriminator(prior_KBZ)[..., 0])
        fake_KB = functional.softplus(self.discriminator(code.z_KBZ.detach())[..., 0])
        # The encoder's side moves the encoder only: the discriminator is held still for it.
        frozen = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        seen: Tensor = torch.func.functional_call(self.discriminator, frozen, (code.z_KBZ,))
        penalty_K = functional.softplus(-seen[..., 0]).mean(dim=1)
        return code._replace(penalty_K=penalty_K, auxiliary_K=(real_KB + fake_KB).mean(dim=1))
