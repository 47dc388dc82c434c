"""What a study must not depend on to run on other machines."""

from pipeline.data.places import resolved
from pipeline.errors import UserError
from pipeline.folders import SCHEME
from pipeline.secrets import holds_secret
from pipeline.spec import StudySpec


def require_portable(spec: StudySpec, home: str | None) -> None:
    """Refuse what only the machine that submits a study could find.

    Raises:
        UserError: The data or HOME are given by a place of this machine, or HOME with a password, which everybody on
            the cluster could read.
    """
    moved = resolved(spec.data)
    for key in ("path", "label"):
        given = getattr(spec.data, key)
        # What depends on the current folder becomes something else in another one.
        if given != getattr(moved, key):
            raise UserError(
                f"data.{key}: came {given!r}, which is on this machine only; expected an address such as "
                "s3://bucket/key, or the absolute path of a folder that all nodes share"
            )
    if home is not None and holds_secret(home):
        raise UserError(
            "--home: came an address with a password in it; expected it without: nodes have keys of their own"
        )
    if home is not None and not SCHEME.match(home) and not home.startswith("/"):
        raise UserError(
            f"--home: came {home!r}, which is on this machine only; expected an address such as s3://bucket/studies, "
            "or the absolute path of a folder that all nodes share"
        )
