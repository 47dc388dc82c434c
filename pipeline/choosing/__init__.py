"""Which model to take, and with which score: from validation alone."""

from pipeline.choosing.rules import RULES, Pick, choose, eligible, ranked

__all__ = ["RULES", "Pick", "choose", "eligible", "ranked"]
