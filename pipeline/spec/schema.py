"""The whole of a study file."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.errors import UserError
from pipeline.spec.base import Count, Cpus, Fraction, FromList, Gpus, NotNegative, Seed, SpecPart
from pipeline.spec.constraints import Constraint
from pipeline.spec.data import DataSpec
from pipeline.spec.metrics import Direction, Metric
from pipeline.spec.searching import PARAMETER_PATHS, Configuration, Parameter, reachable, with_values
from pipeline.spec.stopping import EarlyStoppingSpec
from pipeline.spec.trial import ModelSpec, ObjectiveSpec, TrainingSpec, TrialSpec

# What the tracking store keeps beside the studies' folders.
RESERVED_NAMES = ("artifacts", "mlflow.db")
STUDY_NAME = r"[^\W_][\w.-]*"
StudyName = Annotated[str, Field(pattern=f"^{STUDY_NAME}$", max_length=100)]


class ObjectiveMetric(SpecPart):
    """One axis of the trade-off.

    Attributes:
        reference: This axis of the hypervolume's reference point; by default derived from the data.
    """

    metric: Metric
    direction: Direction
    reference: float | None = None


class SamplerSpec(SpecPart):
    """Optuna's sampler; its seed is by default the study's. Of a long history it looks at the newest and the best."""

    kind: Literal["tpe", "nsga2", "nsga3", "gp", "random"] = "tpe"
    seed: Seed | None = None


#: A study's own spec, whole, in its folder.
SPEC_FILE = "spec.json"
# Where the device itself says how many trials it trains at once.
MOST_PER_DEVICE = 64


class ResourcesSpec(SpecPart):
    """What a worker occupies, in CPU cores and GPUs, and how many trials it trains at once there.

    Attributes:
        gpu: 0, a part of one such as 0.25, which also caps the GPU memory of the worker, or a whole number.
        trials_per_device: Trials of one shape are trained as one tensor program, which takes small networks a fraction
            of the time; the numbers of each are as if it were alone. With "auto" each worker tries what pays.
    """

    cpu: Cpus = 1
    gpu: Gpus = 0
    trials_per_device: Count | Literal["auto"] = 1

    @property
    def most_per_device(self) -> int:
        """The most trials at once on a device, as far as is known before it has been tried."""
        return MOST_PER_DEVICE if self.trials_per_device == "auto" else self.trials_per_device


class CheckpointsSpec(SpecPart):
    """How much work a fault may cost.

    Attributes:
        every_seconds: Training time between two checkpoints of a trial; 0 for one after every epoch.
    """

    every_seconds: NotNegative = 10


AnomalyScore = Literal[
    "elbo",
    "reconstruction",
    "kl",
    "reconstruction_probability",
    "squared_error",
    "residual_mahalanobis",
    "latent_mahalanobis",
    "latent_knn",
]


class AnomalySpec(SpecPart):
    """How examples are scored; higher is more anomalous. Every score is kept for every trial, whichever is named here.

    Attributes:
        score: The score of `val/auroc` and `test/auroc`, which the chosen model is then used with; by default `elbo`
            in those metrics, and the rule of choice picks the score of the chosen model.
    """

    score: AnomalyScore | None = None

    @property
    def followed(self) -> AnomalyScore:
        """The score of `val/auroc` and `test/auroc`."""
        return self.score or "elbo"


class ChampionSpec(SpecPart):
    """The rule that chooses one finished trial, and its score.

    Attributes:
        by: `val/auroc`, the best pair of trial and score on labelled validation rows; `val/elbo`; `val/reconstruction`;
            or `pseudo`, which tells normal rows best from spoiled ones. By default `val/auroc` where there are labels,
            else `val/elbo`, or `val/reconstruction` where a point code has no ELBO.
    """

    by: Literal["val/auroc", "val/elbo", "val/reconstruction", "pseudo"] | None = None


class EnsembleSpec(SpecPart):
    """Several of the best trials as one detector.

    Attributes:
        members: How many of the best trials; beside it stands one of the whole frontier.
    """

    members: Count = 5


class DiagnosticsSpec(SpecPart):
    """What is looked at beside the metrics.

    Attributes:
        latent_map: How the codes of the test examples are laid flat: `pca` or `tsne`.
        probe_labels: Share of the training labels that the linear classifier of `test/probe_accuracy` is shown.
        iwae_draws: Draws of the importance-weighted bound `test/iwae`; 0 to leave it out.
        system_metrics: Whether each epoch also tells how busy the trial's machine is.
    """

    latent_map: Literal["pca", "tsne"] = "pca"
    probe_labels: Fraction = 0.1
    iwae_draws: Annotated[int, Field(ge=0)] = 64
    system_metrics: bool = False


class ConfirmSpec(SpecPart):
    """Training the best trials again, since one seed is noise.

    Attributes:
        top: How many trials, the best by the champion's rule; 0 for none.
        seeds: How many further seeds each.
    """

    top: Annotated[int, Field(ge=0)] = 0
    seeds: Count = 3


TRADE_OFF = (
    ObjectiveMetric(metric="val/reconstruction", direction="minimize"),
    ObjectiveMetric(metric="val/kl", direction="minimize"),
)


# What may be changed between two runs of one study.
MAY_CHANGE = ("trials", "confirm", "champion", "ensemble", "enqueue", "warm_start", "checkpoints")


class StudySpec(SpecPart):
    """A study file, complete with defaults. Build it with `load_spec`, which also checks the parts together.

    Attributes:
        constraints: What a trial has to keep to be chosen, or to be on the frontier.
        enqueue: Configurations that are tried first, by canonical names; the sampler completes them.
        warm_start: An earlier study on the same data, whose finished trials the sampler learns from.
    """

    study: StudyName
    data: DataSpec
    model: ModelSpec = ModelSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    training: TrainingSpec = TrainingSpec()
    search: Mapping[str, Parameter] = Field(default_factory=dict)
    objectives: Annotated[tuple[ObjectiveMetric, ...], FromList, Field(min_length=1)] = TRADE_OFF
    constraints: Annotated[tuple[Constraint, ...], FromList] = ()
    sampler: SamplerSpec = SamplerSpec()
    early_stopping: EarlyStoppingSpec = EarlyStoppingSpec()
    enqueue: Annotated[tuple[Configuration, ...], FromList] = ()
    warm_start: StudyName | None = None
    trials: Count = 64
    seed: Seed = 0
    resources: ResourcesSpec = ResourcesSpec()
    checkpoints: CheckpointsSpec = CheckpointsSpec()
    anomaly: AnomalySpec = AnomalySpec()
    champion: ChampionSpec = ChampionSpec()
    ensemble: EnsembleSpec = EnsembleSpec()
    diagnostics: DiagnosticsSpec = DiagnosticsSpec()
    confirm: ConfirmSpec = ConfirmSpec()

    def fixed(self) -> dict[str, Any]:
        """What is not searched, as the plain dictionary of a TrialSpec."""
        return {"model": dict(self.model), "objective": dict(self.objective), "training": dict(self.training)}

    def trial(self, parameters: Mapping[str, Any]) -> TrialSpec:
        """The complete configuration of one trial from its searched parameters, by canonical names.

        Raises:
            pydantic.ValidationError: A value is not valid for its parameter.
        """
        return TrialSpec.model_validate(with_values(self.fixed(), parameters))

    def always_has_rate(self) -> bool:
        """Whether every configuration that the search can reach has a KL and an ELBO."""
        return all(self.trial(values).model.has_rate for values in reachable(self.search, ("family", "code")))

    def is_feasible(self, metrics: Mapping[str, float]) -> bool:
        """Whether a trial with these metrics keeps every constraint."""
        return all(constraint.violation(metrics) <= 0 for constraint in self.constraints)

    def plain(self) -> dict[str, Any]:
        """The resolved spec as dictionaries, lists and scalars; what is searched is not fixed as well."""
        plain: dict[str, Any] = self.model_dump(mode="json")
        for name in self.search:
            *parents, leaf = PARAMETER_PATHS[name]
            part = plain
            for key in parents:
                part = part[key]
            del part[leaf]
        return plain

    def sha256(self) -> str:
        """The identity of what every trial is made from; budgets, choices and hints may change."""
        plain = {key: value for key, value in self.plain().items() if key not in MAY_CHANGE}
        # Studies of before these keys keep their identity.
        if self.early_stopping.kind == "none":
            del plain["early_stopping"]
        if not self.constraints:
            del plain["constraints"]
        # To watch the machine changes no number.
        del plain["diagnostics"]["system_metrics"]
        # Nor does the company of a trial.
        del plain["resources"]["trials_per_device"]
        # Where the data lie may change; what they hold has a fingerprint of its own.
        plain["data"].pop("path")
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def require_study_name(name: str) -> str:
    """The name itself, where it can name a folder, a run and a database key.

    Raises:
        UserError: It cannot; the message says what a name is made of.
    """
    if name in RESERVED_NAMES:
        raise UserError(f"--name: came {name!r}, which HOME needs for itself; expected another name")
    if not re.fullmatch(STUDY_NAME, name) or len(name) > 100:
        raise UserError(
            f"--name: came {name!r}, expected letters, digits, '.', '_' or '-', with a letter or digit first"
        )
    return name
