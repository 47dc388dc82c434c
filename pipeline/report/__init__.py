"""The report: a study's record in, numbers, pictures and one page out. Imports no ray, torch or mlflow.

record -> tables (numbers) -> figures (pictures of numbers) -> render (a page) -> build (files)
"""

from pipeline.report.build import write_report
from pipeline.report.tables import StudySummary, summary

__all__ = ["StudySummary", "summary", "write_report"]
