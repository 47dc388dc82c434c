"""The whole of a study file: every section, with its defaults."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from vae_study.config.base import (
    ConfigPart,
    Count,
    Cpus,
    Draws,
    Fraction,
    FromList,
    Gpus,
    MetricName,
    NotNegative,
    Repeats,
    RuleName,
    ScoreName,
    Seed,
)
from vae_study.config.data import DataConfig
from vae_study.config.model import ModelConfig, ObjectiveConfig, TrainingConfig, TrialConfig
from vae_study.config.search_space import PARAMETER_PATHS, Configuration, Parameter, reachable, with_values
from vae_study.errors import UserError
from vae_study.metrics import ALARMS_PER_1000, DEFAULT_SCORE, Direction

# Names in HOME that are not studies.
RESERVED_NAMES = ("artifacts", "mlflow.db")
STUDY_NAME = r"[^\W_][\w.-]*"
StudyName = Annotated[str, Field(pattern=f"^{STUDY_NAME}$", max_length=100)]


class ObjectiveMetric(ConfigPart):
    """An objective. `reference`: its coordinate of the hypervolume's reference point, by default from the data."""

    metric: MetricName
    direction: Direction
    reference: float | None = None


# The violation of a missing metric, and the largest of any value: samplers take finite numbers only.
LARGEST_VIOLATION = 1e6


class Constraint(ConfigPart):
    """One bound of one metric, in the metric's unit. The bound itself is allowed."""

    metric: MetricName
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _has_one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("exactly one of at_least and at_most")
        return self

    @property
    def bound(self) -> float:
        """The one that is given of at_least and at_most."""
        return next(value for value in (self.at_least, self.at_most) if value is not None)

    @property
    def name(self) -> str:
        """The metric and the side of its bound, such as "val/kl at_most"."""
        return f"{self.metric} {'at_least' if self.at_most is None else 'at_most'}"

    def violation(self, metrics: Mapping[str, float]) -> float:
        """How far a trial is beyond the bound, in the metric's unit; 0 or less if it keeps it. Always finite."""
        value = metrics.get(self.metric, math.nan)
        if not math.isfinite(value):
            return LARGEST_VIOLATION
        beyond = self.bound - value if self.at_most is None else value - self.bound
        return max(-LARGEST_VIOLATION, min(beyond, LARGEST_VIOLATION))


class EarlyStoppingConfig(ConfigPart):
    """The rule that stops trials early: at some epochs (rungs), a trial is compared with earlier ones at that rung.

    No trial is stopped in an epoch whose KL weight is below 1.

    Attributes:
        kind: `pareto` continues the best trials by non-dominated sorting of the objectives, `asha` the best by `metric`
            (Li et al. 2020), `median` those that are not worse than the median of `metric` (Golovin et al. 2017);
            `none` stops no trial.
        metric: The metric of `asha` and `median`.
        reduction_factor: `pareto` and `asha` continue one trial in this many at each rung, and each rung has this many
            times the epochs of the last.
        min_epochs: The first rung. By default, the one after which three more make the whole budget; for `median`, a
            tenth of the budget.
    """

    kind: Literal["none", "pareto", "asha", "median"] = "none"
    metric: MetricName = "val/elbo"
    reduction_factor: Annotated[Count, Field(ge=2)] = 3
    min_epochs: Count | None = None

    @property
    def compares_one_metric(self) -> bool:
        """Whether `metric` is compared, and not the study's objectives."""
        return self.kind in ("asha", "median")


def _count_of(value: Any) -> Any:
    """The number in a text such as "20 trials"; anything else as it is."""
    found = re.fullmatch(r"(\d+) trials?", value) if isinstance(value, str) else None
    return int(found[1]) if found else value


class StopWhenConfig(ConfigPart):
    """When a search has enough trials, fewer than `trials`.

    Attributes:
        flat_for: So many trials, written `20` or `20 trials`, during which the hypervolume grew by less than
            `min_gain`. Of a single objective, its hypervolume is the distance of the best value from the reference.
            Failed trials do not count. A study that is resumed after such a stop gets as many trials again.
        min_gain: A fraction of the hypervolume.
    """

    flat_for: Annotated[Count, BeforeValidator(_count_of)] | None = None
    min_gain: Fraction = 0.001

    @property
    def words(self) -> str:
        """What the rule has found when it stops a search."""
        return f"the hypervolume grew by less than {100 * self.min_gain:g} % in {self.flat_for:,} trials"


class SamplerConfig(ConfigPart):
    """Optuna's sampler. Its seed is by default the study's. Of a long history it uses the newest and best trials."""

    kind: Literal["tpe", "nsga2", "nsga3", "gp", "random"] = "tpe"
    seed: Seed | None = None


#: The file in a study's folder with its resolved config.
CONFIG_FILE = "config.json"
# The largest number of trials that `auto` may find.
MOST_PER_DEVICE = 64


class ResourcesConfig(ConfigPart):
    """What a worker occupies, in CPU cores and GPUs, and how many trials it trains at once.

    Attributes:
        gpu: 0, a part of one such as 0.25, which also caps the GPU memory of the worker, or 1.
        trials_per_device: Trials of one shape are trained as one tensor program; small networks take a fraction of the
            time. The numbers of each trial are the same as when it is trained alone. "auto": each worker measures which
            number is fastest.
    """

    cpu: Cpus = 1
    gpu: Gpus = 0
    trials_per_device: Count | Literal["auto"] = 1

    @property
    def most_per_device(self) -> int:
        """The most trials at once on a device, as far as is known before it was measured."""
        return MOST_PER_DEVICE if self.trials_per_device == "auto" else self.trials_per_device


class CheckpointsConfig(ConfigPart):
    """How often a trial is saved: `every_seconds` of its training; 0 for after every epoch."""

    every_seconds: NotNegative = 10


class AlarmRate(ConfigPart):
    """An alarm budget as a share: `per_1000` rows."""

    per_1000: Annotated[float, Field(gt=0, le=1000)] = ALARMS_PER_1000


class AnomalyConfig(ConfigPart):
    """The anomaly score; higher is more anomalous. All scores are kept for every trial, whichever is named here.

    Attributes:
        score: The score of `val/auroc`, `test/auroc` and the chosen model. By default those metrics use `elbo`, and the
            champion rule picks the score of the chosen model; with data.layout mvtec, whose images differ in few of
            their pixels, it is `map_maximum`.
        fdr: The false discovery rate at which `vae-study score` flags rows.
        alarms: How many alarms can be looked at: a number of test rows, or `per_1000` rows. By default 10 of 1,000, the
            share that the highest threshold flags.
        prevalence: The fraction of anomalies where the model will be used, if it is not that of the test split.
    """

    score: ScoreName | None = None
    fdr: Fraction = 0.1
    alarms: AlarmRate | Count = AlarmRate()
    prevalence: Fraction | None = None


class ChampionConfig(ConfigPart):
    """The rule that chooses one finished trial, and its score.

    Attributes:
        by: `val/auroc` or `val/auprc`, the best pair of trial and score by AUROC or average precision on labelled
            validation rows; `val/elbo`; `val/reconstruction`; or `pseudo`, the best AUROC on synthetic anomalies made
            from normal rows. By default `val/auprc` where anomalies are rare in validation but enough to choose by,
            `val/auroc` with other labels, else `val/elbo`, or `val/reconstruction` where a code has no ELBO.
    """

    by: RuleName | None = None


class EnsembleConfig(ConfigPart):
    """An ensemble of the best trials, `members` of them. A second ensemble has the whole frontier."""

    members: Count = 5


class DiagnosticsConfig(ConfigPart):
    """What is measured beside the metrics.

    Attributes:
        latent_map: The projection of the test codes to two dimensions: `pca` or `tsne`.
        probe_labels: Fraction of the training labels that the linear probe of `test/probe_accuracy` is fitted on.
        iwae_draws: Draws of the importance-weighted bound `test/iwae`; 0 leaves it out.
        system_metrics: Whether each epoch also reports the use of CPU, memory and GPU.
    """

    latent_map: Literal["pca", "tsne"] = "pca"
    probe_labels: Fraction = 0.1
    iwae_draws: Draws = 64
    system_metrics: bool = False


class ConfirmConfig(ConfigPart):
    """Training the `top` trials, the best by the champion rule, again with `seeds` other seeds each."""

    top: Repeats = 0
    seeds: Annotated[Repeats, Field(ge=1)] = 3


TRADE_OFF = (
    ObjectiveMetric(metric="val/reconstruction", direction="minimize"),
    ObjectiveMetric(metric="val/kl", direction="minimize"),
)


# Keys that may change between two runs of one study.
MAY_CHANGE = ("trials", "stop_when", "confirm", "champion", "ensemble", "enqueue", "warm_start", "checkpoints")


class StudyConfig(ConfigPart):
    """A study file, complete with defaults. Build it with `load_config`, which also checks the parts together.

    Attributes:
        study: The name of the study, and of its experiment in MLflow.
        search: The searched parameters by their dotted names, each with `low` and `high`, and if wanted `log: true` and
            `type: int`, or with `choices`; `when` makes one depend on the choice of another.
        objectives: What is minimized or maximized; several make a frontier.
        constraints: Bounds that a trial must keep to be chosen or to be on the frontier.
        enqueue: Configurations to try first, by short names; the sampler draws what they leave out.
        warm_start: An earlier study on the same data, whose finished trials the sampler learns from.
        trials: The number of trials, failed ones included.
        seed: Of the sampler and of all trials.
    """

    study: StudyName
    data: DataConfig
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()
    search: Mapping[str, Parameter] = Field(default_factory=dict)
    objectives: Annotated[tuple[ObjectiveMetric, ...], FromList, Field(min_length=1)] = TRADE_OFF
    constraints: Annotated[tuple[Constraint, ...], FromList] = ()
    sampler: SamplerConfig = SamplerConfig()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    enqueue: Annotated[tuple[Configuration, ...], FromList] = ()
    warm_start: StudyName | None = None
    trials: Count = 64
    stop_when: StopWhenConfig = StopWhenConfig()
    seed: Seed = 0
    resources: ResourcesConfig = ResourcesConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    anomaly: AnomalyConfig = AnomalyConfig()
    champion: ChampionConfig = ChampionConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()
    confirm: ConfirmConfig = ConfirmConfig()

    def fixed(self) -> dict[str, Any]:
        """The keys that are not searched, as the plain dictionary of a TrialConfig."""
        return {"model": dict(self.model), "objective": dict(self.objective), "training": dict(self.training)}

    def trial(self, parameters: Mapping[str, Any]) -> TrialConfig:
        """The complete configuration of one trial from its searched parameters, by short names.

        Raises:
            pydantic.ValidationError: A value is not valid for its parameter.
        """
        return TrialConfig.model_validate(with_values(self.fixed(), parameters))

    @property
    def score(self) -> str | None:
        """The anomaly score that is prescribed; None where rules choose it."""
        return self.anomaly.score or ("map_maximum" if self.data.layout == "mvtec" else None)

    @property
    def followed_score(self) -> str:
        """The score of `val/auroc` and `test/auroc`."""
        return self.score or DEFAULT_SCORE

    def always_has_rate(self) -> bool:
        """Whether every configuration that the search can draw has a KL and an ELBO."""
        return all(self.trial(values).model.has_rate for values in reachable(self.search, ("family", "code")))

    def precisions(self) -> set[str]:
        """Every precision that a trial may be trained in."""
        return {self.trial(values).training.precision for values in reachable(self.search, ("training.precision",))}

    def is_feasible(self, metrics: Mapping[str, float]) -> bool:
        """Whether a trial with these metrics keeps every constraint."""
        return all(constraint.violation(metrics) <= 0 for constraint in self.constraints)

    def plain(self) -> dict[str, Any]:
        """The resolved config as dictionaries, lists and scalars, without fixed values for what is searched."""
        plain: dict[str, Any] = self.model_dump(mode="json")
        for name in self.search:
            *parents, leaf = PARAMETER_PATHS[name]
            part = plain
            for key in parents:
                part = part[key]
            del part[leaf]
        return plain

    def sha256(self) -> str:
        """Identity of everything that a trial's numbers depend on; the data have a fingerprint of their own."""
        plain = {key: value for key, value in self.plain().items() if key not in MAY_CHANGE}
        # These change no number of a trial.
        del plain["diagnostics"]["system_metrics"], plain["resources"]["trials_per_device"]
        del plain["data"]["path"], plain["anomaly"]["fdr"], plain["anomaly"]["alarms"], plain["anomaly"]["prevalence"]
        plain["objective"].get("sweep", {}).pop("retrain", None)
        # These came later: at their defaults they change nothing, and studies from before go on.
        defaults = TrialConfig().model_dump()
        for section, key in (("training", "precision"), ("objective", "tc_weight"), ("objective", "dip_weight")):
            if plain[section].get(key) == defaults[section][key]:
                del plain[section][key]
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def require_study_name(name: str) -> str:
    """Return the name if it is valid for a folder, a run and a database key.

    Raises:
        UserError: It is not; the message says which names are valid.
    """
    if name in RESERVED_NAMES:
        raise UserError(f"--name: got {name!r}, which HOME needs for itself; expected another name")
    if not re.fullmatch(STUDY_NAME, name) or len(name) > 100:
        raise UserError(
            f"--name: got {name!r}, expected letters, digits, '.', '_' or '-', with a letter or digit first"
        )
    return name
