"""Links within MLflow's UI, with placeholders for ids that are not known before a run is there.

All are relative to the page, so that they hold on any server, behind any prefix. The UI opens for another kind of user
unless the part after its # says otherwise.
"""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from pipeline.tracking import layout
from pipeline.tracking.layout import trial_name
from pipeline.tracking.views import trials_query

VIEW = "workflowType=machine_learning"
_PLACE = re.compile(r"\{(?:run:([\w.-]+)|(experiment)|(parent))\}")
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s]*)\)")
# Of MLflow's runs and experiments; what a text is measured with before they are known.
LONGEST_ID = 36


def filled(text: str, run_ids: Mapping[str, str], experiment_id: str, parent_id: str) -> str:
    """A text with its placeholders replaced: `{run:KEY}`, `{experiment}` and `{parent}`.

    A link to an unknown run becomes plain text.

    Args:
        text: As `description` makes it.
        run_ids: Of the runs beneath the parent, by the keys that they were started with, such as `trial-0007`.
        experiment_id: The parent's.
        parent_id: The parent run's.
    """

    def kept(link: re.Match[str]) -> str:
        keys = [place[1] for place in _PLACE.finditer(link[2]) if place[1]]
        return link[0] if all(key in run_ids for key in keys) else link[1]

    def put(place: re.Match[str]) -> str:
        return run_ids.get(place[1], "") if place[1] else experiment_id if place[2] else parent_id

    return _PLACE.sub(put, _LINK.sub(kept, text))


def longest(text: str) -> int:
    """How many characters a text has at most once it is filled."""
    return len(_PLACE.sub("x" * LONGEST_ID, text))


def to_trial(number: int) -> str:
    """A link to a trial's run, by its name."""
    name = trial_name(number)
    return f"[{name}](#/experiments/{{experiment}}/runs/{{run:{name}}}?{VIEW})"


def to_study(label: str, tab: str) -> str:
    """A link to one page of the parent run: `model-metrics`, `system-metrics` or `artifacts`."""
    return f"[{label}](#/experiments/{{experiment}}/runs/{{parent}}/{tab}?{VIEW})"


def to_view(label: str, mode: str = "TABLE") -> str:
    """A link to the study's trials as `views.shared_view` shows them: TABLE or CHART."""
    shared = f"viewStateShareKey={{parent}}&compareRunsMode={mode}"
    return f"[{label}](#/experiments/{{experiment}}/runs?{VIEW}&{shared})"


def to_trials(label: str, state: str) -> str:
    """A link to the study's trials in one state, the latest first."""
    query = f"{trials_query('{parent}')} and tags.`{layout.STATE}` = '{state}'"
    return f"[{label}](#/experiments/{{experiment}}/runs?{VIEW}&searchFilter={quote(query, safe='{}')})"


def to_comparison(label: str, numbers: Sequence[int]) -> str:
    """A link to MLflow's own comparison of some trials."""
    runs = ",".join(f"%22{{run:{trial_name(number)}}}%22" for number in numbers)
    return f"[{label}](#/compare-runs?runs=%5B{runs}%5D&experiments=%5B%22{{experiment}}%22%5D&{VIEW})"


def to_picture(alt: str, path: str) -> str:
    """A picture that is an artifact of the parent run; the UI shows it as large as it is."""
    return f"![{alt}](get-artifact?path={quote(path)}&run_uuid={{parent}})"
