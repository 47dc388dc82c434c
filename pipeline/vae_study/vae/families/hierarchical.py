"""Families with two levels of latent variables: two vectors, or two maps."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from vae_study.config.model import ModelConfig
from vae_study.vae.families.base import Code, Draw, Family, gaussian_kl, size_mask
from vae_study.vae.networks import DataShape, make_decoder, make_encoder, map_sizes
from vae_study.vae.networks.layers import Generators, PlaceRows, StackedLinear, StackedMLP, activation_of
from vae_study.vae.networks.residual import COPIES, InParts, ResidualDecoder, ResidualEncoder, in_parts, patches_of


class Normal(NamedTuple):
    """A diagonal normal distribution of K models, 0 in dimensions that a model does not have."""

    mean_KBZ: Tensor
    log_variance_KBZ: Tensor

    def at(self, noise_KBZ: Tensor) -> Tensor:
        """Mean + sigma * noise."""
        return self.mean_KBZ + (0.5 * self.log_variance_KBZ).exp() * noise_KBZ

    def log_density(self, z_KBZ: Tensor) -> Tensor:
        """The log density without its constant, nats, summed over dimensions: (K, B)."""
        scaled = (z_KBZ - self.mean_KBZ).square() * (-self.log_variance_KBZ).exp()
        return -0.5 * (scaled + self.log_variance_KBZ).sum(dim=2)

    def kl(self, prior: "Normal") -> Tensor:
        """KL to another, nats, (K, B, Z)."""
        return gaussian_kl(*self, *prior)


class NormalHead(torch.nn.Module):
    """Two linear layers that give a Normal; of a map, one at each place, ordered by dimension and then by place."""

    mask_K1Z: Tensor

    def __init__(
        self, inputs_K: Sequence[int], latent_K: Sequence[int], generators_K: Generators, places: int | None = None
    ):
        """Args: places: of a map; None for a vector."""
        super().__init__()
        self.mean = StackedLinear(inputs_K, latent_K, generators_K)
        self.log_variance = StackedLinear(inputs_K, latent_K, generators_K)
        self.places, mask_KZ = places, size_mask([size * (places or 1) for size in latent_K])
        self.register_buffer("mask_K1Z", mask_KZ[:, None], persistent=False)

    def forward(self, x_KBI: Tensor) -> Normal:
        """The distribution whose parameters are computed from (K, B, I), or of a map from (K, B P, I)."""
        return Normal(*(self._ordered(layer(x_KBI)) * self.mask_K1Z for layer in (self.mean, self.log_variance)))

    def _ordered(self, value: Tensor) -> Tensor:
        return value if self.places is None else torch.unflatten(value, 1, (-1, self.places)).mT.flatten(2)


class _TwoLevels(Family):
    """z1 with a standard normal prior, and z2 with p(z2|z1). The rates of both add up.

    z1 has half of the latent size, rounded up; z2 has the rest, at least 1.

    Attributes:
        first_sizes_K, second_sizes_K: The sizes of both levels; of maps, those of one place.
        first: How many dimensions of the code are of z1.
    """

    def __init__(
        self,
        configs: Sequence[ModelConfig],
        shape: DataShape,
        generators_K: Generators,
        places: tuple[int, int] = (1, 1),
    ):
        """Args: places: of both levels."""
        first_K = [(config.latent_dim + 1) // 2 for config in configs]
        second_K = [max(1, config.latent_dim // 2) for config in configs]
        masks = [size_mask([n * own for n in sizes]) for sizes, own in zip((first_K, second_K), places, strict=True)]
        super().__init__(configs, shape, generators_K, torch.cat(masks, dim=1))
        self.first_sizes_K, self.second_sizes_K, self.first = first_K, second_K, max(first_K) * places[0]

    def first_level(self, x_KBD: Tensor) -> tuple[Tensor, Normal]:
        """What the second level needs of x, and q(z1|x)."""
        raise NotImplementedError

    def second_level(self, seen_KBI: Tensor, z1_KBZ: Tensor) -> tuple[Normal, Normal]:
        """q(z2|z1, x) and p(z2|z1), from what the first level has given."""
        raise NotImplementedError

    def prior_of_second(self, z1_KBZ: Tensor) -> Normal:
        """p(z2|z1)."""
        raise NotImplementedError

    def encode(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> Draw:
        """Draws of both levels; the mode is the mean of z1, and the mean of z2 given that z1."""
        seen_KBI, first = self.first_level(x_KBD)
        return lambda noise_KBZ: self._draw(seen_KBI, first, noise_KBZ)

    def _draw(self, seen_KBI: Tensor, first: Normal, noise_KBZ: Tensor | None) -> Code:
        if noise_KBZ is None:
            noise_KBZ = first.mean_KBZ.new_zeros(*seen_KBI.shape[:2], self.code_mask_KZ.shape[1])
        z1_KBZ = first.at(noise_KBZ[..., : self.first])
        second, prior = self.second_level(seen_KBI, z1_KBZ)
        z2_KBZ = second.at(noise_KBZ[..., self.first :])
        rate_KBZ = torch.cat([gaussian_kl(*first), second.kl(prior)], dim=2)
        posterior_KB = first.log_density(z1_KBZ) + second.log_density(z2_KBZ)
        prior_KB = -0.5 * z1_KBZ.square().sum(dim=2) + prior.log_density(z2_KBZ)
        return Code(torch.cat([z1_KBZ, z2_KBZ], dim=2), rate_KBZ, prior_KB - posterior_KB)

    def prior(self, noise_KBZ: Tensor) -> Tensor:
        """z1 from the standard normal distribution, z2 from p(z2|z1)."""
        z1_KBZ = noise_KBZ[..., : self.first]
        return torch.cat([z1_KBZ, self.prior_of_second(z1_KBZ).at(noise_KBZ[..., self.first :])], dim=2)


class Hierarchical(_TwoLevels):
    """Both levels are vectors (after Sønderby et al. 2016)."""

    order_K1Z: Tensor

    def __init__(self, configs: Sequence[ModelConfig], shape: DataShape, generators_K: Generators):
        super().__init__(configs, shape, generators_K)
        first_K, second_K, models = self.first_sizes_K, self.second_sizes_K, len(configs)
        self.encoder, width = make_encoder(shape, 0, self.network, generators_K)
        self.first_posterior = NormalHead([width] * models, first_K, generators_K)
        joined_K = [width + size for size in first_K]
        self.second_hidden = StackedMLP([joined_K, [width] * models], self.network, generators_K, activate_last=True)
        self.second_posterior = NormalHead([width] * models, second_K, generators_K)
        self.prior_hidden = StackedMLP([first_K, [width] * models], self.network, generators_K, activate_last=True)
        self.second_prior = NormalHead([width] * models, second_K, generators_K)
        order_KZ = torch.argsort(self.code_mask_KZ, dim=1, descending=True, stable=True)
        self.register_buffer("order_K1Z", order_KZ[:, None], persistent=False)
        self._add_decoder(generators_K)

    def first_level(self, x_KBD: Tensor) -> tuple[Tensor, Normal]:
        """The encoder's last hidden layer, and q(z1|x)."""
        hidden = self.encoder(x_KBD)
        return hidden, self.first_posterior(hidden)

    def second_level(self, seen_KBI: Tensor, z1_KBZ: Tensor) -> tuple[Normal, Normal]:
        """q(z2|z1, x) and p(z2|z1), from the encoder's last hidden layer."""
        posterior = self.second_posterior(self.second_hidden(torch.cat([seen_KBI, z1_KBZ], dim=2)))
        return posterior, self.prior_of_second(z1_KBZ)

    def prior_of_second(self, z1_KBZ: Tensor) -> Normal:
        """p(z2|z1)."""
        prior: Normal = self.second_prior(self.prior_hidden(z1_KBZ))
        return prior

    def decode(self, z_KBZ: Tensor, condition_KBC: Tensor | None = None) -> Tensor:
        """The parameters of p(x|z1, z2) as the likelihood takes them, (K, B, E)."""
        # A model's own two codes go to the front, as its decoder expects them; the padding goes to the end.
        decoded: Tensor = self.decoder(torch.gather(z_KBZ, 2, self.order_K1Z.expand_as(z_KBZ)))
        return decoded


class HierarchicalMaps(_TwoLevels):
    """z1 is a map of the size of the encoder's smallest maps, z2 one of the size of those of the stage before.

    A stage of the decoder takes z1 to maps of the size of z2, so that what comes down to a place is of its neighbours,
    too. From it comes p(z2|z1); with the encoder's maps of that stage it gives q(z2|z1, x); and with z2 it goes on up
    to the image (Sønderby et al. 2016; of maps Razavi et al. 2019, and Vahdat and Kautz 2020).
    """

    def __init__(self, configs: Sequence[ModelConfig], shape: DataShape, generators_K: Generators):
        assert shape.image is not None
        network, image, models = configs[0].network, shape.image, len(configs)
        *_, wide, small = map_sizes(image, network)
        super().__init__(configs, shape, generators_K, (prod(small), prod(wide)))
        first_K, second_K = self.first_sizes_K, self.second_sizes_K
        # To what is above them, the maps of the stage before are an image.
        (*below, top), width, self.wide_places = network.channels, network.channels[-2], prod(wide)
        between = DataShape(features=width * prod(wide), image=(width, *wide))
        above = network.model_copy(update={"channels": (top,)})
        of_below = below, activation_of(network), generators_K, patches_of(image[1:], len(network.channels))[:-1]
        self.lower_encoder = ResidualEncoder(image, *of_below)
        self.encoder, hidden = make_encoder(between, 0, above, generators_K, is_by_place=True)
        self.first_posterior = NormalHead([hidden] * models, first_K, generators_K, prod(small))
        self.down = down = make_decoder(first_K, between, 1, above, generators_K, shared=0)
        self.rows, width_K = PlaceRows(0, prod(wide)), [width] * models
        self.second_hidden = StackedMLP([[2 * width] * models, width_K], network, generators_K, activate_last=True)
        self.second_posterior = NormalHead(width_K, second_K, generators_K, prod(wide))
        self.prior_hidden = StackedMLP([width_K, width_K], network, generators_K, activate_last=True)
        self.second_prior = NormalHead(width_K, second_K, generators_K, prod(wide))
        self.join = StackedLinear([width + size for size in second_K], width_K, generators_K)
        self.decoder = decoder = ResidualDecoder(image, self.likelihood.outputs, *of_below)
        assert isinstance(down, InParts)
        numbers, largest = down.numbers + COPIES * between.features, max(down.largest, between.features)
        # What `in_parts` takes of each row.
        self.of_second, self.of_decoder = (numbers, largest), (numbers + decoder.numbers, max(largest, decoder.largest))

    def first_level(self, x_KBD: Tensor) -> tuple[Tensor, Normal]:
        """The encoder's maps of the stage before the last, place by place, and q(z1|x)."""
        x_KBD = torch.where(x_KBD.isnan(), 0.0, x_KBD) if self.shape.may_miss else x_KBD
        seen_KBI = self.lower_encoder(x_KBD)
        by_channel_KBI = torch.unflatten(seen_KBI, 2, (self.wide_places, -1)).mT.flatten(2)
        return seen_KBI, self.first_posterior(self.encoder(by_channel_KBI))

    def second_level(self, seen_KBI: Tensor, z1_KBZ: Tensor) -> tuple[Normal, Normal]:
        """q(z2|z1, x) and p(z2|z1), from the encoder's maps."""
        joined_KBI = torch.cat([seen_KBI, z1_KBZ], dim=2)
        parts = in_parts(self._second, joined_KBI, *self.of_second).chunk(4, dim=2)
        return Normal(*parts[:2]), Normal(*parts[2:])

    def _second(self, joined_KBI: Tensor) -> Tensor:
        seen_KBI, z1_KBZ = joined_KBI[..., : -self.first], joined_KBI[..., -self.first :]
        down_KNO = self._from_above(z1_KBZ)
        seen_KNO = torch.unflatten(seen_KBI, 2, (self.wide_places, -1)).flatten(1, 2)
        posterior = self.second_posterior(self.second_hidden(torch.cat([seen_KNO, down_KNO], dim=2)))
        return torch.cat([*posterior, *self.second_prior(self.prior_hidden(down_KNO))], dim=2)

    def _from_above(self, z1_KBZ: Tensor) -> Tensor:
        """What comes down from z1 to each place of z2, as rows, (K, B P, O)."""
        rows: Tensor = self.rows(self.down(z1_KBZ))
        return rows

    def prior_of_second(self, z1_KBZ: Tensor) -> Normal:
        """p(z2|z1)."""
        prior: Normal = self.second_prior(self.prior_hidden(self._from_above(z1_KBZ)))
        return prior

    def decode(self, z_KBZ: Tensor, condition_KBC: Tensor | None = None) -> Tensor:
        """The parameters of p(x|z1, z2) as the likelihood takes them, (K, B, E)."""
        return in_parts(self._decode, z_KBZ, *self.of_decoder)

    def _decode(self, z_KBZ: Tensor) -> Tensor:
        z1_KBZ, z2_KBZ = z_KBZ[..., : self.first], z_KBZ[..., self.first :]
        maps_KNO = self.join(torch.cat([self._from_above(z1_KBZ), self.rows(z2_KBZ)], dim=2))
        decoded: Tensor = self.decoder(torch.unflatten(maps_KNO, 1, (-1, self.wide_places)).flatten(2))
        return decoded
