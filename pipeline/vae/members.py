"""What makes a member of a population: its configuration, its random streams, and how far it is."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.spec.trial import TrialSpec
from pipeline.vae.schedules import Schedule

STREAMS = ("weights", "batches", "evaluation", "samples", "corruption", "probability")
# Those whose generators live as long as the training; of measurements they begin anew each time.
LASTING_STREAMS = ("batches", "corruption")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One configuration and the seed of everything random in it."""

    spec: TrialSpec
    seed: int

    def generator(self, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator of its own for each use, so that one use more never shifts the others."""
        words = np.random.SeedSequence([self.seed, STREAMS.index(stream)]).generate_state(2, np.uint32)
        return torch.Generator(device).manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


@dataclass
class Progress:
    """How far one member is: what of its training is neither a parameter nor a statistic.

    Attributes:
        schedule: KL weights and learning rates of its whole budget.
        generators: The random streams that live as long as its training, by name.
        epoch: Epochs done.
    """

    schedule: Schedule
    generators: dict[str, torch.Generator]
    epoch: int = 0
