"""The networks that engines are compared on, as a tutorial writes them."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS, BATCH, EPOCHS = 4096, 128, 100_000
STEPS = ROWS // BATCH


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network of the benchmark: encoder and mirrored decoder. With steps, the features are those of all steps."""

    features: int
    hidden: tuple[int, ...]
    latent: int
    channels: tuple[int, ...] = ()
    steps: int = 0

    @property
    def side(self) -> int:
        """Height and width of the image, where there are convolutions."""
        return math.isqrt(self.features)

    def __str__(self) -> str:
        if self.steps:
            return f"{self.steps} steps of {self.features // self.steps} features, GRU {self.hidden}, {self.latent}"
        layers = "-".join(map(str, (self.features, *self.hidden, self.latent)))
        return f"{layers}, convolutions {'-'.join(map(str, self.channels))}" if self.channels else layers


NETS = {
    "T": Net(features=30, hidden=(64, 32), latent=8),
    "A": Net(features=784, hidden=(256, 128), latent=16),
    "B": Net(features=784, hidden=(400, 400), latent=20),
    "conv": Net(features=256, hidden=(64,), latent=8, channels=(8, 16)),
    "gru": Net(features=512, hidden=(64,), latent=8, steps=64),
    "gru 16": Net(features=512, hidden=(16,), latent=8, steps=64),
}


def rows_of(net: Net, count: int = ROWS) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows that hang together, in [0, 1]."""
    random = np.random.default_rng(0)
    hidden = random.normal(size=(count, 8)) @ random.normal(size=(8, net.features))
    return np.asarray(1 / (1 + np.exp(-hidden)), np.float32)


class BothEnds(nn.Module):
    """The last states of a GRU that reads forwards and backwards."""

    def __init__(self, net: Net):
        super().__init__()
        self.steps = net.steps
        self.gru = nn.GRU(net.features // net.steps, net.hidden[0], batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D) to (B, 2 H)."""
        _, last = self.gru(x.unflatten(1, (self.steps, -1)))
        return torch.cat([last[0], last[1]], dim=1)


class EachStep(nn.Module):
    """A GRU that gets the code at each step."""

    def __init__(self, net: Net):
        super().__init__()
        self.steps, width = net.steps, net.hidden[0]
        self.gru, self.output = nn.GRU(net.latent, width, batch_first=True), nn.Linear(width, net.features // net.steps)

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, Z) to (B, D)."""
        states, _ = self.gru(z[:, None].expand(-1, self.steps, -1))
        return self.output(states).flatten(1)


def encoder_of(net: Net) -> nn.Sequential:
    """Features to the last hidden layer."""
    if net.steps:
        return nn.Sequential(BothEnds(net))
    parts: list[nn.Module] = [nn.Unflatten(1, (1, net.side, net.side))] if net.channels else []
    for inputs, outputs in pairwise((1, *net.channels)):
        parts += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
    parts += [nn.Flatten()] if net.channels else []
    for inputs, outputs in pairwise((flat_of(net), *net.hidden)):
        parts += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*parts)


def decoder_of(net: Net) -> nn.Sequential:
    """Code to features."""
    if net.steps:
        return nn.Sequential(EachStep(net))
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise((net.latent, *net.hidden[::-1], flat_of(net))):
        parts += [nn.Linear(inputs, outputs), nn.ReLU()]
    if not net.channels:
        return nn.Sequential(*parts[:-1])
    side = net.side >> len(net.channels)
    parts.append(nn.Unflatten(1, (net.channels[-1], side, side)))
    for inputs, outputs in pairwise((*net.channels[::-1], 1)):
        parts += [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*parts[:-1], nn.Flatten())


def flat_of(net: Net) -> int:
    """Inputs of the first hidden layer."""
    return net.channels[-1] * (net.side >> len(net.channels)) ** 2 if net.channels else net.features


def coded_of(net: Net) -> int:
    """Outputs of the encoder."""
    return net.hidden[-1] * (2 if net.steps else 1)


class Tutorial(nn.Module):
    """A VAE as a tutorial has it."""

    def __init__(self, net: Net):
        super().__init__()
        self.encoder, self.decoder = encoder_of(net), decoder_of(net)
        self.mean, self.log_variance = (nn.Linear(coded_of(net), net.latent) for _ in range(2))

    def loss(self, x: Tensor) -> Tensor:
        """Half the squared error and the KL, of an example."""
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        error = 0.5 * functional.mse_loss(self.decoder(z), x, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_variance - mean.square() - log_variance.exp())
        return (error + kl) / len(x)


def pythae_vae(net: Net) -> Any:
    """The same networks as pythae's VAE."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = encoder_of(net)
            self.mean, self.log_variance = (nn.Linear(coded_of(net), net.latent) for _ in range(2))

        def forward(self, x: Tensor) -> Any:
            hidden = self.layers(x)
            return ModelOutput(embedding=self.mean(hidden), log_covariance=self.log_variance(hidden))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = decoder_of(net)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.layers(z))

    config = VAEConfig(input_dim=(net.features,), latent_dim=net.latent)
    return VAE(config, encoder=Encoder(), decoder=Decoder())
