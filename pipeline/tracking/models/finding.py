"""The models that a study has kept, by name, and their files back on this disk."""

import difflib
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel, Run
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.secrets import redacted
from pipeline.tracking import layout
from pipeline.tracking.models.logged import current_models
from pipeline.tracking.models.names import CHAMPION, DETECTOR, ENSEMBLE, ENSEMBLES, NAME
from pipeline.tracking.store import require_parent


def known_models(client: MlflowClient, study: str) -> list[str]:
    """What a study's models may be asked for by, `champion` first.

    Raises:
        UserError: There is no such study.
    """
    named = _names(client, require_parent(client, study))
    short = [ENSEMBLE] if set(named) & set(ENSEMBLES) else []
    return [*([CHAMPION] if _champion(client, study) else []), *short, *named]


def fetch_model(client: MlflowClient, study: str, name: str, into: Path) -> Path:
    """Bring the files of a packed detector to this disk. The source code that goes with the model stays where it is.

    Args:
        client: Of the tracking store.
        study: The study's name.
        name: "champion", "ensemble", one of the ensembles, or "trial-0007".
        into: A folder.

    Returns:
        The packed detector's folder, within `into`.

    Raises:
        UserError: There is no such study, it has kept no such model, or the champion is none of vae-study's models.
    """
    place = f"{model_place(client, study, name)}/{DETECTOR}"
    try:
        return Path(download_artifacts(artifact_uri=place, dst_path=str(into), tracking_uri=client.tracking_uri))
    except (MlflowException, OSError) as error:
        reason = redacted(str(error))
        raise UserError(f"the model {name!r} of the study {study!r}: {place} cannot be read: {reason}") from None


def model_place(client: MlflowClient, study: str, name: str) -> str:
    """Where the folder of a model lies; takes what `fetch_model` takes.

    Raises:
        UserError: There is no such study, or it has kept no such model.
    """
    champion = _champion(client, study) if name == CHAMPION else None
    if champion is None:
        return str(find_model(client, require_parent(client, study), name).artifact_location)
    return str(client.get_model_version_download_uri(study, champion))


def find_model(client: MlflowClient, parent: Run, name: str) -> LoggedModel:
    """A model of a study by name; `ensemble` is the best of its ensembles.

    Raises:
        UserError: There is none; the message names those that there are.
    """
    models = {str(one.tags[NAME]): one for one in current_models(client, parent)}
    wanted = ENSEMBLES if name == ENSEMBLE else (name,)
    found = next((models[one] for one in wanted if one in models), None)
    if found is None:
        raise UserError(_missing(client, parent.data.tags[layout.STUDY], name))
    return found


def _missing(client: MlflowClient, study: str, name: str) -> str:
    known = known_models(client, study)
    if not known:
        return f"no model {name!r} in the study {study!r}: it has kept none yet; expected a study that has finished"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    kept = "only the frontier's trials, the chosen one and the ensembles are kept"
    return f"no model {name!r} in the study {study!r}; {guess}{kept}: {', '.join(known)}"


def _names(client: MlflowClient, parent: Run) -> list[str]:
    return [str(one.tags[NAME]) for one in current_models(client, parent)]


def _champion(client: MlflowClient, study: str) -> str | None:
    """The version that the alias is at; None where there is none."""
    try:
        return str(client.get_model_version_by_alias(study, CHAMPION).version)
    except MlflowException as error:
        # The second is what MLflow says of a model without such an alias.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
