"""Codes that are maps: against torch's own layers at each place, and in parts."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional
from vae_study.config.model import ModelConfig, NetworkConfig
from vae_study.errors import UserError
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


@pytest.mark.parametrize("kind", ["mlp", "recurrent", "temporal_conv"])
def test_a_network_without_maps_has_no_code_of_each_place(kind):
    model = ModelConfig(network=NetworkConfig(kind=kind), latent="map")
    with pytest.raises(UserError, match=f"latent: got 'map', expected 'window' for network.kind {kind}, which has no"):
        model.require_data(has_pixels=True, has_sequences=True)


@pytest.mark.parametrize(
    ("family", "kind"), itertools.product(("hierarchical", "vector_quantized", "semi_supervised"), ("conv", "residual"))
)
def test_a_family_whose_code_has_several_parts_has_none_at_each_place(family, kind):
    model = ModelConfig(network=NetworkConfig(kind=kind), latent="map", family=family)
    with pytest.raises(UserError, match=f"latent: got 'map', expected 'window' for family {family}, whose code has"):
        model.require_data(has_pixels=True, has_sequences=False)
