"""What an earlier study found out becomes knowledge of this one's sampler."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.errors import UserError
from pipeline.search import attributes
from pipeline.search.sampler import first_generation
from pipeline.search.space import decoded, distribution, fits, stored
from pipeline.spec import StudySpec


def is_own(trial: FrozenTrial) -> bool:
    """Whether a trial was asked for by the study itself."""
    return attributes.WARM_START not in trial.user_attrs


def learn_from(study: optuna.Study, spec: StudySpec, url: str, name: str) -> int:
    """Add the finished trials of an earlier study that this one could have come to itself; once.

    Args:
        study: Where they are added. They are no part of its budget, see `is_own`.
        spec: Its spec.
        url: The earlier study's database.
        name: The earlier study.

    Returns:
        How many trials of the earlier study are known, from now or from before.

    Raises:
        UserError: There is no such study, or it has other objectives or other data.
    """
    learned: list[str] = study.user_attrs.get(attributes.LEARNED_FROM, [])
    if name not in learned:
        earlier = _opened(url, name)
        _refuse_other_objectives(study, earlier, spec)
        _refuse_other_data(study, earlier)
        _add(study, earlier, spec)
        study.set_user_attr(attributes.LEARNED_FROM, [*learned, name])
    return len(_known(study, name))


def _opened(url: str, name: str) -> optuna.Study:
    # The url may hold a password, and stays out of every message.
    missing = UserError(f"warm_start: came {name!r}, expected a study that is there; its study store was not found")
    scheme, _, place = url.partition(":///")
    # SQLite would make an empty database.
    if scheme.startswith("sqlite") and not Path(place.partition("?")[0]).is_file():
        raise missing
    try:
        return optuna.load_study(study_name=name, storage=url)
    except KeyError:
        raise missing from None


def _refuse_other_objectives(study: optuna.Study, earlier: optuna.Study, spec: StudySpec) -> None:
    theirs = _objectives(earlier)
    if theirs is None:
        raise UserError(_unsaid(earlier, "what its objectives are"))
    ours = {objective.metric: objective.direction for objective in spec.objectives}
    if theirs != ours:
        raise UserError(f"warm_start: {earlier.study_name!r} has {_listed(theirs)}, expected {_listed(ours)}")


def _objectives(study: optuna.Study) -> dict[str, str] | None:
    metrics: Sequence[str] | None = study.user_attrs.get(attributes.OBJECTIVES)
    directions = [direction.name.lower() for direction in study.directions]
    return None if metrics is None else dict(zip(metrics, directions, strict=True))


def _listed(objectives: Mapping[Any, str]) -> str:
    return ", ".join(f"{metric} ({direction})" for metric, direction in objectives.items())


def _refuse_other_data(study: optuna.Study, earlier: optuna.Study) -> None:
    theirs = earlier.user_attrs.get(attributes.DATA_SHA256)
    if theirs is None:
        raise UserError(_unsaid(earlier, "which data it is about"))
    if theirs != study.user_attrs.get(attributes.DATA_SHA256):
        raise UserError(f"warm_start: {earlier.study_name!r} is about other data, expected a study of the same")


def _unsaid(earlier: optuna.Study, what: str) -> str:
    name = earlier.study_name
    return f"warm_start: {name!r} does not say {what}, as an older version made it; vae-study resume {name} adds that"


def _add(study: optuna.Study, earlier: optuna.Study, spec: StudySpec) -> None:
    # A driver that died in between has added some.
    done = _known(study, earlier.study_name)
    for trial in earlier.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        taken = None if trial.number in done else _taken(trial, earlier, spec)
        if taken is not None:
            study.add_trial(taken)


def _known(study: optuna.Study, name: str) -> set[int]:
    taken = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    return {attrs[attributes.WARM_START_NUMBER] for attrs in taken if attrs.get(attributes.WARM_START) == name}


def _taken(trial: FrozenTrial, earlier: optuna.Study, spec: StudySpec) -> FrozenTrial | None:
    """A trial as one of this study's; None where it does not fit its search, or cannot say if it kept a constraint."""
    parameters = {name: decoded(value) for name, value in trial.params.items()}
    values = dict(zip(earlier.user_attrs[attributes.OBJECTIVES], trial.values, strict=True))
    metrics = {**trial.user_attrs.get(attributes.METRICS, {}), **values}
    if not fits(spec.search, parameters) or any(one.metric not in metrics for one in spec.constraints):
        return None
    return optuna.trial.create_trial(
        params=stored(spec.search, parameters),
        distributions={name: distribution(spec.search[name]) for name in parameters},
        values=[values[objective.metric] for objective in spec.objectives],
        constraints={one.name: one.violation(metrics) for one in spec.constraints},
        user_attrs={
            attributes.WARM_START: earlier.study_name,
            attributes.WARM_START_NUMBER: trial.number,
            attributes.METRICS: metrics,
        },
        system_attrs=first_generation(spec.sampler.kind),
    )
