"""The hand-written step against autograd of the families themselves."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from vae_study.config.model import FreeBits, ModelConfig, NetworkConfig, ObjectiveConfig
from vae_study.vae.families import make_family
from vae_study.vae.fast_step.step import covers, fast_step
from vae_study.vae.networks import DataShape
from vae_study.vae.objective import Objective, StepInputs
from vae_study.vae.terms import TERMS

CLASSES = 3
LIKELIHOODS = [("bernoulli", "shared"), ("gaussian", "shared")]
LIKELIHOODS += [("gaussian_learned", kind) for kind in ("shared", "per_feature", "per_example")]
ACTIVATIONS = ["relu", "elu", "gelu", "silu", "tanh"]
FAMILIES = [("vae", "gaussian"), ("conditional", "gaussian"), ("denoising", "gaussian")]
FAMILIES += [("denoising", "deterministic"), ("autoencoder", "deterministic")]
KINDS = ["beta", "sweep", "constrained", "capacity"]
NUMBERS = {"beta": 0.7, "delta_nats": 0.3, "capacity_nats": 0.4, "tc_weight": 3.0, "dip_weight": 1.5}


def of_kinds(kinds):
    kinds = itertools.product(kinds, ["none", "total", "per_dimension"])
    return [ObjectiveConfig(kind=kind, free_bits=FreeBits(kind=free, nats=0.02), **NUMBERS) for kind, free in kinds]


OBJECTIVES = of_kinds(KINDS)
# For families whose code is a normal distribution.
WITH_TERMS = of_kinds(TERMS)


def model_configs(likelihood="bernoulli", family="vae", activation="relu", hidden=(6, 4), latents=(2,), channels=()):
    return [
        ModelConfig(
            family=family if isinstance(family, str) else family[0],
            code="gaussian" if isinstance(family, str) else family[1],
            latent_dim=latent,
            likelihood=likelihood if isinstance(likelihood, str) else likelihood[0],
            learned_sigma="shared" if isinstance(likelihood, str) else likelihood[1],
            sigma=0.3 + 0.1 * latent,
            network=NetworkConfig(
                hidden=hidden, activation=activation, **({"kind": "conv", "channels": channels} if channels else {})
            ),
        )
        for latent in latents
    ]


class Case:
    """A model, a batch, and what a step takes; model k is made from seed k alone."""

    def __init__(self, models, objectives, rows=7, features=5, dtype=torch.float64, seeds=None, image=None):
        seeds = range(len(models)) if seeds is None else seeds
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        features = math.prod(image) if image else features
        shape = DataShape(features=features, image=image, classes=CLASSES)
        self.model = make_family(models, shape, generators).to(dtype)
        assert covers(self.model)
        draws = [torch.rand(2, rows, features, generator=generator, dtype=dtype) for generator in generators]
        self.x, other = torch.stack(draws, dim=1)
        self.seen = other if self.model.corrupts else self.x
        labels = torch.stack([torch.randint(CLASSES, (rows,), generator=generator) for generator in generators])
        self.condition = functional.one_hot(labels, CLASSES).to(dtype) if self.model.is_conditional else None
        self.noise = self.model.noise(1, rows, generators)[0]
        self.weight = torch.cat([torch.rand(1, generator=generator, dtype=dtype) for generator in generators])
        self.objective = Objective(objectives, self.x)
        self.objective.multiplier_K.fill_(0.3)
        # As the optimizer's buffer: a row a model, in it the parameters with gaps between them.
        self.gradients = [self._gradient(parameter) for parameter in self.model.parameters()]
        self.step = fast_step(self.model, self.objective, self.gradients, rows)

    def _gradient(self, parameter):
        numbers = parameter[0].numel()
        flat = torch.full((len(parameter), -(-(numbers + 1) // 32) * 32), float("nan"), dtype=parameter.dtype)
        return flat[:, :numbers].unflatten(1, parameter.shape[1:])

    def by_hand(self):
        losses = self.step(StepInputs(self.seen, self.x, self.condition, self.noise, self.weight))
        return [value.clone() for value in (*losses, *self.gradients) if value is not None]

    def by_autograd(self):
        code = self.model.code(self.seen, self.condition, self.noise)
        decoded = self.model.decode(code.z_KBZ, self.condition)
        reconstruction = self.model.likelihood.negative_log(decoded, self.x).sum(dim=2).mean(dim=1)
        kl = code.rate_KBR.mean(dim=1)
        penalized = self.objective.penalized_kl(kl, self.model.rate_mask_KR)
        loss = reconstruction + self.objective.penalty(penalized, self.weight)
        term = self.objective.term(code.posteriors, self.model.code_mask_KZ)
        loss = loss + self.objective.weighted(term, self.weight)
        gradients = torch.autograd.grad(loss.sum(), list(self.model.parameters()), materialize_grads=True)
        return [value.detach() for value in (loss, reconstruction, kl.sum(dim=1), term, *gradients)]


def assert_same(found, expected, tolerance=1e-10):
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance * (1 + float(theirs.abs().max())))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_likelihood_activation_and_objective_has_the_gradients_of_autograd(likelihood, activation, family):
    kinds = [*OBJECTIVES, *WITH_TERMS] if family[1] == "gaussian" else OBJECTIVES
    latents = (3, 1, 2, 3, 3, 1, 2, 3, 2, 1, 3, 2, 3, 1, 2, 2, 3, 1)[: len(kinds)]
    case = Case(model_configs(likelihood, family, activation, latents=latents), kinds)
    assert_same(case.by_hand(), case.by_autograd())


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_batch_of_any_shape_in_any_blocks_has_the_gradients_of_autograd(data):
    models, family = data.draw(st.integers(1, 5)), data.draw(st.sampled_from(FAMILIES))
    models = model_configs(
        data.draw(st.sampled_from(LIKELIHOODS)),
        family,
        data.draw(st.sampled_from(ACTIVATIONS)),
        data.draw(st.sampled_from([(), (1,), (6,), (4, 9), (5, 3, 4)])),
        data.draw(st.lists(st.integers(1, 6), min_size=models, max_size=models)),
    )
    kinds = [*OBJECTIVES, *WITH_TERMS] if family[1] == "gaussian" else OBJECTIVES
    objectives = [data.draw(st.sampled_from(kinds)) for _ in models]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vae_study.vae.fast_step.step.BLOCK_NUMBERS", data.draw(st.sampled_from([1, 150, 2**17])))
        case = Case(models, objectives, data.draw(st.integers(1, 9)), data.draw(st.integers(1, 7)))
    case.by_hand()
    # The second time: what the first has left in the memory does not matter.
    assert_same(case.by_hand(), case.by_autograd())


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_convolutions_of_every_family_and_likelihood_have_the_gradients_of_autograd(likelihood, activation, family):
    models = model_configs(likelihood, family, activation, latents=(3, 1, 2), channels=(2, 3))
    case = Case(models, OBJECTIVES[:3], image=(2, 8, 4))
    case.by_hand()
    assert_same(case.by_hand(), case.by_autograd())


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_images_of_any_size_through_any_convolutions_in_any_blocks_have_the_gradients_of_autograd(data):
    channels = data.draw(st.sampled_from([(1,), (3,), (2, 5), (4, 1, 3)]))
    height, width = (2 ** len(channels) * data.draw(st.integers(1, 3)) for _ in range(2))
    models = data.draw(st.integers(1, 5))
    models = model_configs(
        data.draw(st.sampled_from(LIKELIHOODS)),
        data.draw(st.sampled_from(FAMILIES)),
        data.draw(st.sampled_from(ACTIVATIONS)),
        data.draw(st.sampled_from([(), (1,), (6,), (4, 9)])),
        data.draw(st.lists(st.integers(1, 6), min_size=models, max_size=models)),
        channels,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vae_study.vae.fast_step.step.BLOCK_NUMBERS", data.draw(st.sampled_from([1, 400, 2**17])))
        image = (data.draw(st.integers(1, 3)), height, width)
        case = Case(models, [OBJECTIVES[0]] * len(models), data.draw(st.integers(1, 9)), image=image)
    case.by_hand()
    assert_same(case.by_hand(), case.by_autograd())


def test_wide_layers_between_convolutions_have_the_gradients_of_autograd():
    models = model_configs(hidden=(256, 64), latents=(8, 3), channels=(8, 16))
    case = Case(models, OBJECTIVES[:2], rows=128, image=(1, 16, 16), dtype=torch.float32)
    assert any(type(layer).__name__ == "WideLinear" for layer in case.step.parts[0][1].encoder.layers)
    assert_same(case.by_hand(), case.by_autograd(), 1e-4)


@pytest.mark.parametrize(("image", "values"), [((1, 6, 8), {}), ((1, 8, 8), {"batch_norm": True})])
def test_sizes_that_cannot_be_halved_and_batch_normalization_are_left_to_autograd(image, values):
    network = NetworkConfig(kind="conv", channels=(2, 3), hidden=(6,), **values)
    shape = DataShape(features=math.prod(image), image=image)
    assert not covers(make_family([ModelConfig(network=network)], shape, [torch.Generator()]))


@pytest.mark.parametrize("hidden", [(256, 128), (400,), (64, 512)])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_wide_layers_whose_products_are_onednns_have_the_gradients_of_autograd(hidden, activation):
    models = model_configs(activation=activation, hidden=hidden, latents=(40, 33))
    single = Case(models, OBJECTIVES[:2], rows=128, features=300, dtype=torch.float32)
    assert any(type(layer).__name__ == "WideLinear" for layer in single.step.parts[0][1].decoder.layers)
    assert_same(single.by_hand(), single.by_autograd(), 1e-4)


SHAPES = [
    {"hidden": (64, 32), "features": 30, "rows": 128},
    {"hidden": (256, 128), "features": 256, "rows": 128},
    {"hidden": (16,), "features": 64, "rows": 32},
]


KIND_OF_EACH = [(family, OBJECTIVES[0]) for family in FAMILIES] + [(FAMILIES[0], one) for one in WITH_TERMS[::3]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("family", "own"), KIND_OF_EACH)
def test_a_models_bits_depend_neither_on_the_batchs_size_nor_on_its_place(shape, family, own):
    sizes = {"rows": shape["rows"], "features": shape["features"], "dtype": torch.float32}
    others = WITH_TERMS if own in WITH_TERMS else OBJECTIVES[:1]

    def batch(seeds):
        models = model_configs(family=family, hidden=shape["hidden"], latents=[8] * len(seeds))
        kinds = [own if seed == 7 else others[seed % len(others)] for seed in seeds]
        return Case(models, kinds, **sizes, seeds=seeds).by_hand()

    (alone,) = [[value[0] for value in batch([7])]]
    for seeds in ([7, 1], [1, 2, 7], [*range(20), 7, 30]):
        for ours, expected in zip(batch(seeds), alone, strict=True):
            assert torch.equal(ours[seeds.index(7)], expected)


def test_dimensions_that_a_model_does_not_have_never_move():
    case = Case(model_configs(latents=(1, 4)), OBJECTIVES[:2])
    case.by_hand()
    gradients = dict(zip([name for name, _ in case.model.named_parameters()], case.gradients, strict=True))
    for name in ("mean.weight_KIO", "log_variance.bias_K1O"):
        assert (gradients[name][0, :, 1:] == 0).all()
        assert (gradients[name][1] != 0).any(dim=0).all()
    assert (gradients["decoder.layers.0.weight_KIO"][0, 1:] == 0).all()


def test_a_model_that_diverged_changes_nobody_elses_gradients():
    sane, broken = (Case(model_configs(latents=(2, 2, 2)), OBJECTIVES[:3]) for _ in range(2))
    with torch.no_grad():
        broken.model.encoder.layers[0].weight_KIO[1].fill_(float("nan"))
    for expected, ours in zip(sane.by_hand(), broken.by_hand(), strict=True):
        assert torch.equal(ours[[0, 2]], expected[[0, 2]])
    assert broken.by_hand()[0][1].isnan()


@pytest.mark.parametrize(
    "values",
    [
        {"family": "hierarchical"},
        {"family": "vector_quantized"},
        {"family": "adversarial"},
        {"network": NetworkConfig(batch_norm=True)},
    ],
)
def test_other_models_are_left_to_autograd(values):
    shape = DataShape(features=16, image=(1, 4, 4))
    assert not covers(make_family([ModelConfig(**values)], shape, [torch.Generator()]))


def test_an_activation_whose_derivative_is_not_known_is_left_to_autograd():
    network = NetworkConfig().model_copy(update={"activation": "mish"})
    model = make_family([ModelConfig(network=network)], DataShape(features=5), [torch.Generator()])
    assert not covers(model)
    assert model.decode(model.code(torch.rand(1, 3, 5), None, None).z_KBZ).shape == (1, 3, 5)
