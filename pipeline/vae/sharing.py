"""Which trials may be trained in one pack. Needs no torch, so that whoever hands out trials can ask."""

from pipeline.spec.trial import ModelSpec, TrialSpec

# What members of one pack may differ in; all else of a model, and the batch size, shapes the program.
_OWN = ModelSpec()


def shape_key(spec: TrialSpec) -> str:
    """The same for two trials of one study exactly where one pack can train both.

    They agree in family, network, likelihood, kinds of code and of corruption, codebook and batch size. Latent size,
    starting or fixed sigma, level of corruption, objective, optimizer settings, budget and seed are each member's own.
    What a study has in common, its data, score and precision, is not in the key.
    """
    corruption = spec.model.corruption.model_copy(update={"level": _OWN.corruption.level})
    own = {"latent_dim": _OWN.latent_dim, "sigma": _OWN.sigma, "corruption": corruption}
    return f"{spec.training.batch_size} {spec.model.model_copy(update=own).model_dump_json()}"
