"""The report: a study's record in, numbers, pictures and one page out. Imports no ray, torch or mlflow.

record -> tables (numbers) -> sections (figures and tables) and overview (sentences) -> page -> build (files)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae_study.report.build import write_report
    from vae_study.report.comparison_page import write_comparison
    from vae_study.report.tables import StudySummary, summary

__all__ = ["StudySummary", "summary", "write_comparison", "write_report"]

# What draws takes seconds to import, and a report that is there already needs none of it.
_PLACES = {
    "StudySummary": "tables",
    "summary": "tables",
    "write_comparison": "comparison_page",
    "write_report": "build",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
