"""Optuna: which configuration next. `pareto` knows arrays only, so that the report may use it too."""
