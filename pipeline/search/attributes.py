"""The names under which the study store keeps what Optuna has no place for. Older studies lack some of them."""

# Of a study.
SPEC_SHA256 = "spec_sha256"
DATA_SHA256 = "data_sha256"
# The objectives' metrics, in the order of Optuna's directions.
OBJECTIVES = "objectives"
# The earlier studies whose trials it has taken in.
LEARNED_FROM = "learned_from"
DRIVER = "driver"

# Of a trial.
FAILURE = "failure"
REASON = "reason"
PREEMPTIONS = "preemptions"
# "random" where the spec's sampler was too slow.
SAMPLER = "sampler"
# What the sampler drew at one go, before it was given out parameter by parameter.
DRAWN_TOGETHER = "drawn_together"
# The validation metrics at a trial's end; a later study may set constraints on any of them.
METRICS = "metrics"
# The earlier study that a trial was taken from, and its number there.
WARM_START = "warm_start"
WARM_START_NUMBER = "warm_start_number"


def rung_key(rung: int) -> str:
    """Where a trial keeps how it was judged after so many epochs."""
    return f"rung:{rung}"
