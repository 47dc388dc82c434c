"""The errors whose kind decides what happens next."""

from pipeline.secrets import redacted


class _Told(Exception):
    """An error whose message a person reads, so that no secret is in it."""

    def __init__(self, message: str):
        super().__init__(redacted(message))


class UserError(_Told):
    """What the user asked for cannot be done; the message says where, what came and what was expected (exit code 2)."""


class StudyError(_Told):
    """The study itself failed (exit code 1)."""


class Diverged(Exception):
    """A loss that is not finite ended a trial; its last finite metrics are kept."""
