"""Networks of residual blocks: against torch's own layers, in parts, by the memory that they take, and refused."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional
from vae_study.config.data import DataConfig
from vae_study.config.model import ModelConfig, NetworkConfig
from vae_study.data import Table, build_dataset
from vae_study.errors import UserError
from vae_study.vae.families import FAMILIES, make_family
from vae_study.vae.inference import ROWS_PER_BLOCK, inference_model, rows_per_minibatch
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.networks import DataShape, residual
from vae_study.vae.networks.residual import ResidualDecoder, ResidualEncoder, groups_of, patches_of, sizes_of

from tests.vae.builders import model_setup, same

MODELS, ROWS = 3, 5
IMAGES = [(1, 28, 28), (3, 45, 70), (1, 8, 8), (3, 7, 9), (2, 64, 64), (1, 1, 1), (1, 3, 40)]
CHANNELS = (8, 16, 12)
CODES = {"vector": {}, "map": {"latent": "map"}, "maps": {"latent": "map", "family": "hierarchical"}}
RESIDUAL = {"network__kind": "residual", "network__channels": (8, 16), "network__hidden": (16,)}


def generators(seed=0, models=MODELS):
    return [torch.Generator().manual_seed(seed + k) for k in range(models)]


def encoder_and_decoder(image, channels=CHANNELS, outputs=2, models=MODELS):
    made = generators(models=models)
    return (
        ResidualEncoder(image, channels, functional.silu, made).double(),
        ResidualDecoder(image, outputs, channels, functional.silu, made).double(),
    )


class Plain:
    """One model's layers as torch.nn.functional has them, with the same weights, on images (B, C, H, W)."""

    def __init__(self, network, k):
        self.network, self.k = network, k

    def norm(self, stacked, x):
        scale, shift = stacked.scale_KO[self.k], stacked.shift_KO[self.k]
        return functional.silu(functional.group_norm(x, groups_of(len(scale)), scale, shift))

    def block(self, stacked, x):
        inner = x
        for norm, layer in zip(stacked.norms, (stacked.first, stacked.second), strict=True):
            inner = functional.conv2d(
                self.norm(norm, inner), layer.weight_KOI33[self.k], layer.bias_KO[self.k], padding=1
            )
        return x + inner

    def encode(self, x):
        network, x = self.network, x.unflatten(1, self.network.image)
        for index, (down, block, patch) in enumerate(zip(network.downs, network.blocks, network.patches, strict=True)):
            weight_OP, inputs = down.weight_KIO[self.k].T, x.shape[1]
            by_patch = weight_OP.unflatten(1, (patch, patch, inputs)).permute(0, 3, 1, 2)
            by_patch = by_patch if index else weight_OP.unflatten(1, (inputs, patch, patch))
            x = functional.pad(x, (0, -x.shape[3] % patch, 0, -x.shape[2] % patch))
            x = self.block(block, functional.conv2d(x, by_patch, down.bias_K1O[self.k, 0], stride=patch))
        return self.norm(network.norm, x).permute(0, 2, 3, 1).flatten(1)

    def decode(self, z):
        network = self.network
        x = z.unflatten(1, network.start).permute(0, 3, 1, 2)
        for index, (block, up, patch) in enumerate(zip(network.blocks, network.ups, network.patches, strict=True)):
            x, is_last = self.block(block, x), index == len(network.blocks) - 1
            x = self.norm(network.norm, x) if is_last else x
            by_patch, bias = up.weight_KIO[self.k], up.bias_K1O[self.k]
            if is_last:
                by_patch, bias = (one.unflatten(1, (-1, patch, patch)) for one in (by_patch, bias))
            else:
                by_patch, bias = (one.unflatten(1, (patch, patch, -1)).permute(0, 3, 1, 2) for one in (by_patch, bias))
            large = functional.conv_transpose2d(x, by_patch, stride=patch) + bias.repeat(1, 1, *x.shape[2:])
            height, width = network.sizes[index + 1]
            x = large[..., :height, :width]
        return x.flatten(1)


@pytest.mark.parametrize("image", IMAGES, ids=str)
def test_a_residual_pair_is_torchs_own_layers_model_by_model_and_so_are_its_gradients(image):
    encoder, decoder = encoder_and_decoder(image)
    x = torch.rand(MODELS, ROWS, math.prod(image), dtype=torch.float64)
    z = torch.randn(MODELS, ROWS, decoder.inputs, dtype=torch.float64).requires_grad_()
    code, decoded = encoder(x), decoder(z)
    assert code.shape == (MODELS, ROWS, encoder.outputs)
    assert decoded.shape == (MODELS, ROWS, 2 * math.prod(image))
    parameters = [*encoder.parameters(), *decoder.parameters(), z]
    slopes = torch.autograd.grad(code.sin().sum() + decoded.sin().sum(), parameters)
    plain = [
        torch.stack([take(Plain(network, k))(own[k]) for k in range(MODELS)])
        for network, own, take in ((encoder, x, lambda p: p.encode), (decoder, z, lambda p: p.decode))
    ]
    for found, expected in zip((code, decoded), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    expected = torch.autograd.grad(sum(one.sin().sum() for one in plain), parameters)
    for slope, own in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope, own, rtol=1e-8, atol=1e-9)


def test_the_code_of_a_single_model_need_have_no_gradient():
    _, decoder = encoder_and_decoder((1, 28, 28), models=1)
    z = torch.randn(1, ROWS, decoder.inputs, dtype=torch.float64)
    found = torch.autograd.grad(decoder(z).sin().sum(), [*decoder.parameters()])
    z.requires_grad_()
    expected = torch.autograd.grad(decoder(z).sin().sum(), [*decoder.parameters(), z])
    for own, other in zip(found, expected[:-1], strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("image", "stages", "patches", "last"),
    [
        ((256, 256), 2, [16, 2], (8, 8)), ((256, 256), 4, [4, 2, 2, 2], (8, 8)), ((224, 224), 3, [8, 2, 2], (7, 7)),
        ((45, 70), 3, [2, 2, 2], (6, 9)), ((28, 28), 2, [2, 2], (7, 7)), ((8, 8), 2, [2, 2], (2, 2)),
        ((8, 1024), 2, [8, 2], (1, 64)), ((1, 1), 2, [2, 2], (1, 1)),
    ],
)  # fmt: skip
def test_the_larger_the_image_and_the_fewer_the_stages_the_larger_the_first_patches(image, stages, patches, last):
    assert patches_of(image, stages) == patches
    assert sizes_of(image, patches)[-1] == last


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (7, 1), (8, 1), (16, 2), (24, 3), (20, 2), (17, 1), (64, 8)])
def test_at_least_eight_channels_are_normalized_together(channels, groups):
    assert groups_of(channels) == groups


def both(image=(3, 20, 30)):
    """Encoder and decoder, their inputs, and what they give with the gradients."""
    encoder, decoder = encoder_and_decoder(image)
    x = torch.rand(MODELS, 40, math.prod(image), dtype=torch.float64)
    z = torch.randn(MODELS, 40, decoder.inputs, dtype=torch.float64).requires_grad_()

    def found():
        outputs = [encoder(x), decoder(z)]
        parameters = [*encoder.parameters(), *decoder.parameters(), z]
        return [*outputs, *torch.autograd.grad(sum(one.sin().sum() for one in outputs), parameters)]

    return found


@pytest.mark.parametrize("rows", [1, 4, 9, 39])
def test_a_step_in_parts_has_the_gradients_of_the_whole(rows, monkeypatch):
    found = both()
    whole = found()
    numbers = encoder_and_decoder((3, 20, 30))[1].numbers
    monkeypatch.setattr(residual, "KEPT_NUMBERS", rows * MODELS * numbers)
    for own, expected in zip(found(), whole, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-10)


def test_what_a_step_keeps_for_its_way_back_does_not_grow_with_the_rows(monkeypatch):
    """Beside inputs and outputs: of four times the rows, no more; and what is kept is what the bound says."""
    encoder, decoder = encoder_and_decoder((1, 32, 32), outputs=1, models=1)
    monkeypatch.setattr(residual, "KEPT_NUMBERS", 16 * decoder.numbers)

    def kept(rows):
        x = torch.rand(1, rows, 1024, dtype=torch.float64)
        stored = {}

        def store(value):
            stored[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes() // 8
            return value

        with torch.autograd.graph.saved_tensors_hooks(store, lambda value: value):
            outputs = encoder(x), decoder(torch.rand(1, rows, decoder.inputs, dtype=torch.float64))
        weights = sum(one.numel() for one in [*encoder.parameters(), *decoder.parameters()])
        return sum(stored.values()) - weights - x.numel() - sum(one.numel() for one in outputs)

    few, many = kept(16), kept(64)
    assert many < few <= 2 * 16 * decoder.numbers


WITHOUT_MAPS = ("vector_quantized", "semi_supervised")


@pytest.mark.parametrize(
    ("family", "latent"),
    [
        (name, latent)
        for name in FAMILIES
        for latent in ("window", "map")
        if latent == "window" or name not in WITHOUT_MAPS
    ],
)
def test_every_family_learns_with_residual_networks_as_alone(few, family, latent):
    values = {
        **RESIDUAL,
        "family": family,
        "latent": latent,
        "training__batch_size": 8,
        "training__learning_rate": 3e-3,
    }
    setups = [model_setup(k, **values, latent_dim=size) for k, size in enumerate((3, 6))]
    together = ModelBatch(setups, few, dtype=torch.float64)
    histories = [together.train_epoch() for _ in range(2)]
    alone = ModelBatch(setups[:1], few, dtype=torch.float64)
    for together_2 in histories:
        (own,) = alone.train_epoch()
        assert {n: v for n, v in together_2[0].items() if n[:4] != "time"} == pytest.approx(
            {n: v for n, v in own.items() if n[:4] != "time"}, rel=1e-6
        )
    for first, second in zip(*histories, strict=True):
        assert second["train/reconstruction"] < first["train/reconstruction"]


def pictures(image, count=60):
    """Random textures: waves of some directions."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[: image[1], : image[2]]
    slope, phase = random.normal(size=(2, count, image[0], 2, 1, 1)) * 0.2, random.random((count, image[0], 1, 1))
    wave = np.sin(slope[0, :, :, 0] * x + slope[0, :, :, 1] * y + 6 * phase)
    names = tuple(f"pixel {number}" for number in range(math.prod(image)))
    x_ND = (0.5 + 0.5 * wave).reshape(count, -1).astype(np.float32)
    table = Table(x_ND=x_ND, feature_names=names, image_shape=image, where="the table")
    return build_dataset(table, DataConfig(source="parquet", path="table.parquet", scale="none"))


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
@pytest.mark.parametrize("image", [(3, 45, 70), (1, 64, 64)])
def test_a_model_of_large_images_has_the_same_bits_alone_beside_others_and_again_from_its_state(image, code):
    data = pictures(image)
    values = {**RESIDUAL, **code, "training__batch_size": 16, "training__epochs": 2}
    setups = [model_setup(k, **values) for k in range(3)]
    together, alone = (ModelBatch(some, data, latent_capacity=4) for some in (setups, setups[1:2]))
    history = [[one.train_epoch()[k] for one, k in ((together, 1), (alone, 0))]]
    state = alone.state(0)
    history += [[one.train_epoch()[k] for one, k in ((together, 1), (alone, 0))]]
    again = ModelBatch(setups[1:2], data, latent_capacity=4)
    again.restore(0, state)
    history += [[again.train_epoch()[0], history[-1][1]]]
    for own, other in history:
        assert {**own, "time/epoch_seconds": 0} == {**other, "time/epoch_seconds": 0}
    assert same(together.state(1), alone.state(0))
    assert same(again.state(0), alone.state(0))


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_a_row_of_an_image_has_the_same_bits_in_any_company(code):
    network = NetworkConfig(kind="residual", channels=(8, 16), hidden=(16,))
    configs = [ModelConfig(network=network, latent_dim=3, **code)]
    model = inference_model(make_family(configs, DataShape(features=3 * 45 * 70, image=(3, 45, 70)), generators()[:1]))
    x_KBD = torch.rand(1, 4 * ROWS_PER_BLOCK, 3 * 45 * 70)
    with torch.inference_mode():
        whole, part = (model.decode(model.code(x, None, None).z_KBZ) for x in (x_KBD, x_KBD[:, ROWS_PER_BLOCK:-32]))
    assert torch.equal(whole[:, ROWS_PER_BLOCK:-32], part)


def test_the_larger_the_images_the_fewer_rows_are_measured_at_once():
    network = NetworkConfig(kind="residual", channels=(8, 8), hidden=())
    shapes = [DataShape(features=side**2, image=(1, side, side)) for side in (28, 256, 1024)]
    models = [make_family([ModelConfig(network=network)], shape, generators()[:1]) for shape in shapes]
    assert [rows_per_minibatch(model) for model in models] == [256, 64, 32]


@pytest.mark.parametrize(
    ("network", "has_pixels", "message"),
    [
        ({}, False, "network.kind: got 'residual', expected 'mlp': the features of this data are no pixels"),
        ({"batch_norm": True}, True, "batch_norm: got true, expected false for network.kind residual"),
    ],
)
def test_a_residual_network_is_refused_where_it_cannot_be(network, has_pixels, message):
    model = ModelConfig(network=NetworkConfig(kind="residual", **network))
    with pytest.raises(UserError, match=message):
        model.require_data(has_pixels=has_pixels, has_sequences=False)


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
@pytest.mark.parametrize("channels", [(4, 4), (8, 16), (3, 5, 7)])
@pytest.mark.parametrize("hidden", [(), (10, 4)])
def test_a_residual_model_has_at_least_as_many_weights_as_are_told_beforehand(channels, hidden, code):
    network = NetworkConfig(kind="residual", channels=channels, hidden=hidden)
    shape, config = DataShape(features=256, image=(1, 16, 16)), ModelConfig(network=network, **code)
    model = make_family([config], shape, generators()[:1])
    assert 0 < config.least_weights(256) <= sum(one.numel() for one in model.parameters())
