"""Several studies of one data set beside each other: numbers, pictures, and a page like a report's.

records -> tables (numbers) -> figures -> prose and grids -> a page and files
"""

from pipeline.report.comparison.build import write_comparison
from pipeline.report.comparison.tables import Comparison, compare

__all__ = ["Comparison", "compare", "write_comparison"]
