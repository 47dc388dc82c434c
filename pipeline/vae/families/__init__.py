"""The kinds of autoencoder, each behind the same protocol (`base.Family`)."""

from collections.abc import Callable, Mapping, Sequence

from pipeline.spec.trial import ModelSpec
from pipeline.vae.families.adversarial import Adversarial
from pipeline.vae.families.base import Code, Draw, Family
from pipeline.vae.families.gaussian import VAE, Conditional, PointCode, make_denoising
from pipeline.vae.families.hierarchical import Hierarchical
from pipeline.vae.families.vector_quantized import VectorQuantized
from pipeline.vae.networks import Generators
from pipeline.vae.shape import DataShape

__all__ = ["FAMILIES", "Code", "Draw", "Family", "make_family"]

FAMILIES: Mapping[str, Callable[[Sequence[ModelSpec], DataShape, Generators], Family]] = {
    "vae": VAE,
    "autoencoder": PointCode,
    "denoising": make_denoising,
    "conditional": Conditional,
    "hierarchical": Hierarchical,
    "vector_quantized": VectorQuantized,
    "adversarial": Adversarial,
}


def make_family(models: Sequence[ModelSpec], shape: DataShape, generators_K: Generators) -> Family:
    """K models that differ in latent size and in the values of their options only.

    Args:
        models: The members; the first one's family, network and likelihood are all members'.
        shape: Sizes of the data.
        generators_K: Each member's source of initial weights.
    """
    return FAMILIES[models[0].family](models, shape, generators_K)
