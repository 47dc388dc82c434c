"""Optuna: which configuration next. `pareto` and `early_stopping` know arrays only, so that others may use them too."""
