"""Tasks of one shape and the population that trains them."""

import torch
from torch import Tensor

from pipeline.data import Dataset
from pipeline.spec import StudySpec
from pipeline.spec.schema import ResourcesSpec
from pipeline.study.trial import Course
from pipeline.vae.crowding import most_profitable
from pipeline.vae.outcome import Outcome, outcome_of, outcomes_of
from pipeline.vae.population import Population
from pipeline.vae.sharing import shape_key
from pipeline.vae.snapshot import member_state


class Group:
    """Courses in the order of the population's members; one at least.

    Attributes:
        is_open: Whether others may join.
    """

    def __init__(self, spec: StudySpec, data: Dataset, first: Course, is_open: bool = True):
        self.diagnostics, self.is_open = spec.diagnostics, is_open
        self.key = shape_key(first.member.spec)
        device = device_of(spec.resources)
        # Padded to the same size in any company: a trial's bits are its own.
        capacity = largest_latent_dim(spec)
        self.population = Population([first.member], data, spec.anomaly.followed, device, latent_capacity=capacity)
        # It joins as all others do, from its checkpoint.
        self.population.leave(0)
        self.courses: list[Course] = []
        self.join(first)

    def admits(self, course: Course) -> bool:
        """Whether a task can be trained with the others."""
        return self.is_open and shape_key(course.member.spec) == self.key

    def join(self, course: Course) -> None:
        """Take a task in, at its last good checkpoint."""
        try:
            self.population.join(course.member, course.begin())
        except ValueError as why:
            course.begin_anew(why)
            self.population.join(course.member)
        self.courses.append(course)

    def leave(self, course: Course) -> None:
        """Let a task go."""
        place = self.courses.index(course)
        self.population.leave(place)
        del self.courses[place]

    def most_profitable(self, course: Course) -> int:
        """How many tasks like this one the device trains at once with most profit."""
        of = self.population
        return most_profitable(course.member, of.data, of.score, of.device, of.latent_capacity)

    def state(self, course: Course) -> dict[str, Tensor]:
        """All that the rest of a task's training depends on."""
        return member_state(self.population, self.courses.index(course))

    def outcomes(self, trained: list[Course]) -> list[Outcome]:
        """What trained tasks leave behind."""
        if len(trained) == len(self.courses):
            return outcomes_of(self.population, self.diagnostics)
        return [outcome_of(self.population, self.courses.index(course), self.diagnostics) for course in trained]


def device_of(resources: ResourcesSpec) -> str:
    """Where a worker trains: on a GPU where it asks for one and there is one."""
    return "cuda" if resources.gpu and torch.cuda.is_available() else "cpu"


def largest_latent_dim(spec: StudySpec) -> int:
    """The largest latent size that the search can reach."""
    searched = spec.search.get("latent_dim")
    return max(int(size) for size in searched.ends()) if searched else spec.model.latent_dim
