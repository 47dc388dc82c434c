"""The codes of the MLP families between encoder and decoder, forward and backward."""

import torch
from torch import Tensor

from pipeline.vae.families.gaussian import VAE, PointCode
from pipeline.vae.manual.layers import Head
from pipeline.vae.manual.part import Part


class Gaussian:
    """q(z|x) of G members: a normal distribution, drawn from by the reparameterization trick."""

    def __init__(self, model: VAE, part: Part):
        self.of_mean, self.of_log_variance = (Head(head, part) for head in (model.mean, model.log_variance))
        mask_GZ1 = model.code_mask_KZ[part.members, :, None]
        # Where all members have all dimensions there is nothing to mask.
        self.mask_GZ1 = None if bool(mask_GZ1.all()) else mask_GZ1
        latent = mask_GZ1.shape[1]
        self.noise, self.sigma, self.growth, self.kl = (part.take_code(latent) for _ in range(4))

    def forward(self, hidden_GBI: Tensor, noise_GBZ: Tensor, z_GZB: Tensor) -> Tensor:
        """Write a draw to `z_GZB`; gives the KL of each dimension averaged over the batch, nats, (G, Z)."""
        self.hidden = hidden_GBI
        self.mean = self._masked(self.of_mean.forward(hidden_GBI))
        log_variance = self._masked(self.of_log_variance.forward(hidden_GBI))
        torch.mul(log_variance, 0.5, out=self.sigma).exp_()
        self.noise.copy_(noise_GBZ.mT)
        torch.addcmul(self.mean, self.sigma, self.noise, out=z_GZB)
        # As gaussian_kl: expm1, since exp(x) - x - 1 is rounding where x is small.
        torch.expm1(log_variance, out=self.growth)
        torch.sub(self.growth, log_variance, out=self.kl).addcmul_(self.mean, self.mean)
        return self.kl.mean(dim=2).mul_(0.5)

    def backward(self, gradient_GZB: Tensor, slope_GZ: Tensor, out_GBI: Tensor | None) -> None:
        """Write the parameters' gradients, and that of the hidden layer to `out_GBI`.

        Args:
            gradient_GZB: Of the draw.
            slope_GZ: Of the KL of each dimension averaged over the batch.
            out_GBI: None if it is not wanted.
        """
        slope_GZ1 = (slope_GZ / gradient_GZB.shape[2])[:, :, None]
        spread = self.sigma.mul_(self.noise).mul_(gradient_GZB)
        log_variance_gradient = self._masked(self.growth.mul_(slope_GZ1).add_(spread).mul_(0.5))
        mean_gradient = self._masked(self.mean.mul_(slope_GZ1).add_(gradient_GZB))
        self.of_mean.backward(self.hidden, mean_gradient)
        self.of_log_variance.backward(self.hidden, log_variance_gradient)
        if out_GBI is not None:
            self.of_mean.input_gradient(mean_gradient, out_GBI)
            self.of_log_variance.add_input_gradient(log_variance_gradient, out_GBI)

    def _masked(self, value_GZB: Tensor) -> Tensor:
        return value_GZB if self.mask_GZ1 is None else value_GZB.mul_(self.mask_GZ1)


class Point:
    """A deterministic code without a rate."""

    def __init__(self, model: PointCode, part: Part):
        self.head, self.mask_GZ1 = Head(model.mean, part), model.code_mask_KZ[part.members, :, None]

    def forward(self, hidden_GBI: Tensor, noise_GBZ: Tensor, z_GZB: Tensor) -> Tensor:
        """Write the code to `z_GZB`, whatever the noise; gives its rate, zeros, (G, Z)."""
        self.hidden = hidden_GBI
        torch.mul(self.head.forward(hidden_GBI), self.mask_GZ1, out=z_GZB)
        return torch.zeros_like(self.mask_GZ1[..., 0])

    def backward(self, gradient_GZB: Tensor, slope_GZ: Tensor, out_GBI: Tensor | None) -> None:
        """As Gaussian.backward; a rate that is always 0 moves nothing."""
        masked_GZB = gradient_GZB * self.mask_GZ1
        self.head.backward(self.hidden, masked_GZB)
        if out_GBI is not None:
            self.head.input_gradient(masked_GZB, out_GBI)
