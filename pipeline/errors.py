"""The errors whose kind decides what happens next."""


class UserError(Exception):
    """What the user asked for cannot be done; the message says where, what came and what was expected (exit code 2)."""


class StudyError(Exception):
    """The study itself failed (exit code 1)."""


class Diverged(Exception):
    """A loss that is not finite ended a trial; its last finite metrics are kept."""
