"""Codes that are maps: against torch's own layers at each place, and in parts."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional
from vae_study.anomaly.scores import FULL_COVARIANCE
from vae_study.config.model import ModelConfig, NetworkConfig
from vae_study.errors import UserError
from vae_study.vae.diagnostics import flat_map
from vae_study.vae.families import make_family
from vae_study.vae.networks import DataShape, map_sizes, residual

from tests.vae.test_residual import Plain

# Neither square nor divided by 4 in whole places.
IMAGE, SIZES, ROWS = (3, 22, 13), (3, 6, 2), 4
NETWORKS = {
    "conv": {"kind": "conv", "channels": (5, 8), "hidden": (10, 7), "activation": "silu"},
    "conv-linear": {"kind": "conv", "channels": (5, 8), "hidden": (), "activation": "silu"},
    "residual": {"kind": "residual", "channels": (8, 16), "hidden": (10, 7), "activation": "silu"},
    "residual-linear": {"kind": "residual", "channels": (8, 16), "hidden": (), "activation": "silu"},
}


def generators(models=3):
    return [torch.Generator().manual_seed(seed) for seed in range(models)]


def models(network, sizes=SIZES, image=IMAGE, classes=0, **values):
    network = NetworkConfig(**network)
    configs = [ModelConfig(network=network, latent="map", latent_dim=size, **values) for size in sizes]
    shape = DataShape(features=math.prod(image), image=image, classes=classes)
    made = make_family(configs, shape, generators(len(sizes))).double()
    for name, parameter in made.named_parameters():
        if name.endswith("bias_KPO"):
            parameter.data.normal_(generator=torch.Generator().manual_seed(9))
    return made


def at_each_place(layer, k, x, inputs=None, outputs=None):
    """A layer's product at each place of maps (B, C, H, W) is a convolution of 1x1."""
    weight_OI = layer.weight_KIO[k, :inputs, :outputs].T
    return functional.conv2d(x, weight_OI[..., None, None], layer.bias_K1O[k, 0, :outputs])


class PlainMaps:
    """One model's layers as torch.nn.functional has them, on images (B, C, H, W)."""

    def __init__(self, model, k):
        self.model, self.k, self.latent = model, k, model.configs[k].latent_dim
        self.sizes = map_sizes(model.shape.image, model.network)
        self.is_conv = model.network.kind == "conv"

    def with_label(self, x, label_BC):
        """A label joins at each place, in front."""
        if label_BC is None:
            return x
        return torch.cat([label_BC[..., None, None].expand(-1, -1, *x.shape[2:]), x], dim=1)

    def encode(self, x, label_BC):
        """Mean and log variance, (B, Z, h, w)."""
        model, k = self.model, self.k
        if self.is_conv:
            hidden = model.encoder.hidden
            for layer in model.encoder.convolutions:
                convolved = functional.conv2d(x, layer.weight_KOI33[k], layer.bias_KO[k], stride=2, padding=1)
                x = functional.silu(convolved)
        else:
            maps, hidden = model.encoder
            rows = Plain(maps, k).encode(x.flatten(1))
            x = rows.unflatten(1, (*self.sizes[-1], -1)).permute(0, 3, 1, 2)
        x = self.with_label(x, label_BC)
        for layer in hidden.layers:
            x = functional.silu(at_each_place(layer, k, x))
        return [at_each_place(layer, k, x, None, self.latent) for layer in (model.mean, model.log_variance)]

    def decode(self, z, label_BC):
        """The decoded image, from (B, Z, h, w)."""
        model, k = self.model, self.k
        _, first, *others = model.decoder
        hidden, own = (first.hidden, first.own) if self.is_conv else (first, others[0])
        for index, layer in enumerate(hidden.layers):
            z = self.with_label(z, label_BC) if index == 0 else z
            z = at_each_place(layer, k, z, z.shape[1])
            z = functional.silu(z) if index < hidden.activated else z
        z = z + own.bias_KPO[k].T.unflatten(1, self.sizes[-1])
        if not self.is_conv:
            return Plain(others[-1], k).decode(z.permute(0, 2, 3, 1).flatten(1))
        for index, layer in enumerate(first.convolutions):
            larger = functional.interpolate(z, size=first.sizes[index + 1], mode="nearest")
            z = functional.conv2d(larger, layer.weight_KOI33[k], layer.bias_KO[k], padding=1)
            z = functional.silu(z) if index < len(first.convolutions) - 1 else z
        return z.flatten(1)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_code_of_each_place_is_that_of_torchs_own_layers_and_so_are_kl_and_gradients(network, classes):
    random = torch.Generator().manual_seed(0)
    model = models(network, classes=classes, family="conditional" if classes else "vae")
    label_BC = torch.eye(classes, dtype=torch.float64)[[2, 0, 1, 2]] if classes else None
    label_KBC = label_BC.expand(len(SIZES), -1, -1) if classes else None
    places = math.prod(map_sizes(IMAGE, model.network)[-1])
    assert (model.places, model.code_mask_KZ.shape) == (places, (len(SIZES), max(SIZES) * places))
    assert places > 6
    x_KBD = torch.rand(len(SIZES), ROWS, math.prod(IMAGE), dtype=torch.float64, generator=random)
    noise_KBZ = model.noise(1, ROWS, generators())[0]
    code = model.code(x_KBD, label_KBC, noise_KBZ)
    decoded_KBE = model.decode(code.z_KBZ, label_KBC)
    loss = decoded_KBE.sin().sum() + code.rate_KBR.sum()
    slopes = torch.autograd.grad(loss, [*model.parameters()])
    expected_loss = torch.zeros((), dtype=torch.float64)
    for k, size in enumerate(SIZES):
        plain = PlainMaps(model, k)
        mean, log_variance = plain.encode(x_KBD[k].unflatten(1, IMAGE), label_BC)
        # By dimension, then by place.
        own = slice(0, size * places)
        noise = noise_KBZ[k, :, own].view_as(mean)
        z = mean + (0.5 * log_variance).exp() * noise
        torch.testing.assert_close(code.z_KBZ[k, :, own], z.flatten(1), rtol=1e-9, atol=1e-10)
        of_prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
        rate = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), of_prior)
        torch.testing.assert_close(code.rate_KBR[k, :, own], rate.flatten(1), rtol=1e-8, atol=1e-10)
        for padding in (code.z_KBZ, code.rate_KBR, noise_KBZ):
            assert (padding[k, :, size * places :] == 0).all()
        decoded = plain.decode(z, label_BC)
        torch.testing.assert_close(decoded_KBE[k], decoded, rtol=1e-9, atol=1e-10)
        expected_loss = expected_loss + decoded.sin().sum() + rate.sum()
    expected = torch.autograd.grad(expected_loss, [*model.parameters()])
    for (name, _), slope, own in zip(model.named_parameters(), slopes, expected, strict=True):
        torch.testing.assert_close(slope, own, rtol=1e-7, atol=1e-8, msg=name)
        assert slope.abs().max() > 0, name


def layers_at_each_place(mlp, k, x):
    """An MLP at each place; inputs that the model does not have are behind its own."""
    for index, layer in enumerate(mlp.layers):
        x = at_each_place(layer, k, x, x.shape[1])
        x = functional.silu(x) if index < mlp.activated else x
    return x


class PlainLevels:
    """The layers of one model of two levels, on images and maps (B, C, H, W)."""

    def __init__(self, model, k):
        self.model, self.k, latent = model, k, model.configs[k].latent_dim
        self.sizes = ((latent + 1) // 2, max(1, latent // 2))
        *_, self.wide, self.small = map_sizes(model.shape.image, model.network)

    def normal(self, head, x, level):
        layers = (head.mean, head.log_variance)
        mean, log_variance = (at_each_place(layer, self.k, x, None, self.sizes[level]) for layer in layers)
        return Normal(mean, (0.5 * log_variance).exp())

    def maps(self, network, x, size):
        return Plain(network, self.k).encode(x.flatten(1)).unflatten(1, (*size, -1)).permute(0, 3, 1, 2)

    def first(self, x):
        """The maps that the second level sees, and q(z1|x)."""
        seen = self.maps(self.model.lower_encoder, x, self.wide)
        network, hidden = self.model.encoder
        above = layers_at_each_place(hidden, self.k, self.maps(network, seen, self.small))
        return seen, self.normal(self.model.first_posterior, above, 0)

    def from_above(self, z1):
        _, hidden, own, *_, network = self.model.down
        x = layers_at_each_place(hidden, self.k, z1) + own.bias_KPO[self.k].T.unflatten(1, self.small)
        flat = Plain(network, self.k).decode(x.permute(0, 2, 3, 1).flatten(1))
        return flat.unflatten(1, (-1, *self.wide))

    def prior(self, z1):
        hidden = layers_at_each_place(self.model.prior_hidden, self.k, self.from_above(z1))
        return self.normal(self.model.second_prior, hidden, 1)

    def posterior(self, seen, z1):
        both = torch.cat([seen, self.from_above(z1)], dim=1)
        hidden = layers_at_each_place(self.model.second_hidden, self.k, both)
        return self.normal(self.model.second_posterior, hidden, 1)

    def decode(self, z1, z2):
        both = torch.cat([self.from_above(z1), z2], dim=1)
        maps = at_each_place(self.model.join, self.k, both, both.shape[1])
        return Plain(self.model.decoder, self.k).decode(maps.permute(0, 2, 3, 1).flatten(1))


LEVELS = {"kind": "residual", "channels": (8, 16, 12), "hidden": (10, 7), "activation": "silu"}


@pytest.mark.parametrize("network", [LEVELS, {**LEVELS, "channels": (8, 16), "hidden": ()}], ids=["three", "two"])
def test_two_levels_of_maps_are_those_of_torchs_own_layers_and_so_are_prior_kl_ratio_and_gradients(network):
    model, random = models(network, family="hierarchical"), torch.Generator().manual_seed(0)
    x_KBD = torch.rand(len(SIZES), ROWS, math.prod(IMAGE), dtype=torch.float64, generator=random)
    noise_KBZ, prior_noise_KBZ = model.noise(1, ROWS, generators())[0], model.prior_noise(ROWS, generators())
    code, prior_KBZ = model.code(x_KBD, None, noise_KBZ), model.prior(prior_noise_KBZ)
    decoded_KBE = model.decode(code.z_KBZ)
    slopes = torch.autograd.grad(decoded_KBE.sin().sum() + code.rate_KBR.sum(), [*model.parameters()])
    expected_loss = torch.zeros((), dtype=torch.float64)
    for k in range(len(SIZES)):
        plain = PlainLevels(model, k)
        cut = model.first, (model.code_mask_KZ.shape[1] - model.first)
        levels = [(size, *places) for size, places in zip(plain.sizes, (plain.small, plain.wide), strict=True)]

        def of_levels(value, k=k, cut=cut, levels=levels):
            """Each level's part of a model's numbers: by dimension, then by place; 0 in what it does not have."""
            parts = [(part[:, : math.prod(own)], part[:, math.prod(own) :])
                     for part, own in zip(value[k].split(cut, dim=1), levels, strict=True)]  # fmt: skip
            assert all((padding == 0).all() for _, padding in parts)
            return [part.unflatten(1, own) for (part, _), own in zip(parts, levels, strict=True)]

        noise1, noise2 = of_levels(noise_KBZ)
        seen, first = plain.first(x_KBD[k].unflatten(1, IMAGE))
        z1 = first.loc + first.scale * noise1
        posterior, prior = plain.posterior(seen, z1), plain.prior(z1)
        z2 = posterior.loc + posterior.scale * noise2
        of_z1 = Normal(torch.zeros_like(z1), torch.ones_like(z1))
        rates = [kl_divergence(first, of_z1), kl_divergence(posterior, prior)]
        draws = [noise for noise in of_levels(prior_noise_KBZ)]
        from_prior = plain.prior(draws[0])
        expected = [z1, z2, *rates, draws[0], from_prior.loc + from_prior.scale * draws[1]]
        found = [*of_levels(code.z_KBZ), *of_levels(code.rate_KBR), *of_levels(prior_KBZ)]
        for own, other in zip(found, expected, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-10)
        ratio = sum((p.log_prob(z) - q.log_prob(z)).flatten(1).sum(dim=1)
                    for p, q, z in ((of_z1, first, z1), (prior, posterior, z2)))  # fmt: skip
        torch.testing.assert_close(code.log_ratio_KB[k], ratio, rtol=1e-8, atol=1e-8)
        decoded = plain.decode(z1, z2)
        torch.testing.assert_close(decoded_KBE[k], decoded, rtol=1e-9, atol=1e-10)
        expected_loss = expected_loss + decoded.sin().sum() + sum(rate.sum() for rate in rates)
    others = torch.autograd.grad(expected_loss, [*model.parameters()])
    for (name, _), slope, other in zip(model.named_parameters(), slopes, others, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-7, atol=1e-8, msg=name)
        assert slope.abs().max() > 0, name


def test_the_second_level_has_twice_the_places_each_way_and_its_prior_sees_the_neighbours_of_a_place():
    model = models({**LEVELS, "channels": (8, 8)}, sizes=(2,), image=(1, 32, 32), family="hierarchical")
    assert model.code_mask_KZ.shape == (1, 8 * 8 + 16 * 16)
    z1_KBZ = torch.zeros(1, 1, 64, dtype=torch.float64, requires_grad=True)
    mean = model.prior_of_second(z1_KBZ).mean_KBZ.view(16, 16)
    (slope,) = torch.autograd.grad(mean[6, 6], z1_KBZ)
    reach = slope.view(8, 8).abs() > 0
    assert reach[2:5, 2:5].all()
    assert model.noise_sizes_K == [64 + 256]


def test_two_levels_of_maps_are_trained_in_parts_with_the_gradients_of_the_whole(monkeypatch):
    model = models(LEVELS, sizes=(5,), family="hierarchical")
    x_KBD = torch.rand(1, 32, math.prod(IMAGE), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise_KBZ = model.noise(1, 32, generators(1))[0]

    def found():
        stored = {}

        def store(value):
            stored[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes() // 8
            return value

        with torch.autograd.graph.saved_tensors_hooks(store, lambda value: value):
            code = model.code(x_KBD, None, noise_KBZ)
            decoded = model.decode(code.z_KBZ)
        outputs = [code.z_KBZ, code.rate_KBR, decoded]
        slopes = torch.autograd.grad(sum(one.sin().sum() for one in outputs), [*model.parameters()])
        return sum(stored.values()), [*outputs, *slopes]

    whole, expected = found()
    monkeypatch.setattr(residual, "KEPT_NUMBERS", 2 * model.of_decoder[0])
    in_parts, parts = found()
    # What stays are inputs and outputs of each network.
    assert in_parts < 0.3 * whole
    for own, other in zip(parts, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-10)


def test_a_place_of_maps_is_coded_in_parts_with_the_gradients_of_the_whole(monkeypatch):
    """Hidden layers at each place are parts of what is kept: of four times the rows, no more."""
    model = models(NETWORKS["residual"], sizes=(3,))
    numbers = model.decoder.numbers
    assert numbers > 2 * model.places * sum(model.network.hidden)

    def found(rows):
        x_KBD = torch.rand(1, rows, math.prod(IMAGE), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        z_KBZ = torch.rand(1, rows, 3 * model.places, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        stored = {}

        def store(value):
            stored[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes() // 8
            return value

        with torch.autograd.graph.saved_tensors_hooks(store, lambda value: value):
            outputs = model.encoder(x_KBD), model.decoder(z_KBZ.requires_grad_())
        kept = sum(stored.values()) - sum(one.numel() for one in (*model.parameters(), x_KBD, z_KBZ, *outputs))
        parameters = [*model.encoder.parameters(), *model.decoder.parameters(), z_KBZ]
        return kept, [*outputs, *torch.autograd.grad(sum(one.sin().sum() for one in outputs), parameters)]

    whole = found(32)[1]
    monkeypatch.setattr(residual, "KEPT_NUMBERS", 8 * numbers)
    (few, _), (many, parts) = found(8), found(32)
    assert many < few <= 2 * 8 * numbers
    for own, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-10)


def test_many_rows_of_a_long_code_are_drawn_in_the_two_directions_that_they_vary_most_in():
    random = np.random.default_rng(0)
    mean_NZ = random.normal(size=(1100, FULL_COVARIANCE + 1)) @ np.diag(np.linspace(3, 0.1, FULL_COVARIANCE + 1))
    mean_NZ += random.normal(size=(1100, 2)) @ (random.normal(size=(2, FULL_COVARIANCE + 1)) * [[9.0], [5.0]])
    centred_NZ = mean_NZ - mean_NZ.mean(axis=0)
    left_NN, size_N, _ = np.linalg.svd(centred_NZ, full_matrices=False)
    found = flat_map(mean_NZ, "pca")
    assert np.abs(found) == pytest.approx(np.abs(left_NN[:, :2] * size_N[:2]), rel=1e-6, abs=1e-6)
    assert (found == flat_map(mean_NZ, "pca")).all()


@pytest.mark.parametrize("kind", ["mlp", "recurrent", "temporal_conv"])
def test_a_network_without_maps_has_no_code_of_each_place(kind):
    model = ModelConfig(network=NetworkConfig(kind=kind), latent="map")
    with pytest.raises(UserError, match=f"latent: got 'map', expected 'window' for network.kind {kind}, which has no"):
        model.require_data(has_pixels=True, has_sequences=True)


@pytest.mark.parametrize(
    ("network", "family", "says"),
    [
        ({"kind": "conv"}, "vector_quantized", "latent: got 'map', expected 'window' for family vector_quantized"),
        ({"kind": "residual"}, "semi_supervised", "latent: got 'map', expected 'window' for family semi_supervised"),
        ({"kind": "conv"}, "hierarchical", "kind: got 'conv', expected 'residual' for family hierarchical with latent"),
        ({"kind": "residual", "channels": (8,)}, "hierarchical", "channels: got 1, expected at least 2 for family"),
    ],
)
def test_a_family_that_has_no_code_of_each_place_is_refused(network, family, says):
    model = ModelConfig(network=NetworkConfig(**network), latent="map", family=family)
    with pytest.raises(UserError, match=says):
        model.require_data(has_pixels=True, has_sequences=False)
