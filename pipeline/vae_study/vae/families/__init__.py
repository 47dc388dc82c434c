"""The kinds of autoencoder, by the names that a config uses.

A new one is a subclass of `base.Family`, and a row in FAMILIES.
"""

from collections.abc import Callable, Mapping, Sequence

from vae_study.config.model import ModelConfig
from vae_study.vae.families import gaussian, hierarchical
from vae_study.vae.families.base import Family
from vae_study.vae.families.semi_supervised import SemiSupervised
from vae_study.vae.families.vae_gan import VaeGan
from vae_study.vae.families.vector_quantized import VectorQuantized
from vae_study.vae.networks import DataShape
from vae_study.vae.networks.layers import Generators

FAMILIES: Mapping[str, Callable[[Sequence[ModelConfig], DataShape, Generators], Family]] = {
    "vae": gaussian.VAE,
    "autoencoder": gaussian.Autoencoder,
    "denoising": lambda configs, *others: (
        gaussian.DenoisingVAE if configs[0].code == "gaussian" else gaussian.DenoisingAutoencoder
    )(configs, *others),
    "conditional": gaussian.Conditional,
    "adversarial": gaussian.Adversarial,
    "hierarchical": lambda configs, *others: (
        hierarchical.HierarchicalMaps if configs[0].latent == "map" else hierarchical.Hierarchical
    )(configs, *others),
    "vector_quantized": VectorQuantized,
    "semi_supervised": SemiSupervised,
    "vae_gan": VaeGan,
}


def make_family(configs: Sequence[ModelConfig], shape: DataShape, generators_K: Generators) -> Family:
    """K models that differ in latent size and in the values of their options only.

    Args:
        configs: Of the models; the first one's family, network and likelihood are those of all.
        shape: Sizes of the data.
        generators_K: Each model's source of initial weights.

    Raises:
        UserError: As ModelConfig.require_data.
    """
    configs[0].require_data(has_pixels=shape.image is not None, has_sequences=shape.sequence is not None)
    return FAMILIES[configs[0].family](configs, shape, generators_K)
