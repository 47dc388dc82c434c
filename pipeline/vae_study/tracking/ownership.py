"""Whose a registered model is: on a shared server, others have models of the same name, and theirs stay as they are."""

from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from vae_study.errors import UserError
from vae_study.tracking import schema


def registered_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """A registered model; None if there is none."""
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def require_own(client: MlflowClient, model: RegisteredModel, study_id: str | None) -> None:
    """Raise UserError if a registered model is not that of the study with this ID."""
    if model.tags.get(schema.STUDY_ID) != study_id:
        raise taken(client, f"a registered model {model.name!r}", model.tags)


def taken(client: MlflowClient, what: str, tags: Mapping[str, str]) -> UserError:
    """The error for something that is there and is somebody else's.

    Args:
        client: Of the tracking store.
        what: It, with its name.
        tags: Its tags.
    """
    made_by = tags.get(schema.MADE_BY, "another program")
    return UserError(
        f"--tracking-uri {client.tracking_uri}: has {what} already, which this HOME did not begin (made by {made_by}); "
        "expected another --name"
    )


def champion_version(client: MlflowClient, tags: Mapping[str, str]) -> ModelVersion | None:
    """The version of a study's registered model that has the alias `champion`; None if there is none.

    Args:
        client: Of the tracking store.
        tags: Of the study's run. A registered model of the same name that is somebody else's has none of the study's.
    """
    study = tags[schema.STUDY]
    model = registered_model(client, study)
    if model is None or model.tags.get(schema.STUDY_ID) != tags.get(schema.STUDY_ID):
        return None
    if schema.CHAMPION_ALIAS not in model.aliases:
        return None
    return client.get_model_version(study, str(model.aliases[schema.CHAMPION_ALIAS]))


def promoted_model(client: MlflowClient, tags: Mapping[str, str]) -> str | None:
    """The registry's champion now, such as "trial-0007", by the tags of the study's run; None if there is none."""
    version = champion_version(client, tags)
    return None if version is None else str(version.tags.get(schema.MODEL_NAME, f"version {version.version}"))
