"""Distributed hyperparameter studies of variational autoencoders.

    import vae_study

    study = vae_study.run_study("search_spaces/digits.yaml", ["trials=16"])
    study.trials.sort_values("val/elbo").tail()

`__all__` is the public API. A name is imported when it is first used: Ray, torch and MLflow take seconds to import.
"""

from importlib import import_module
from typing import Any

__all__ = [
    "StudyConfig",
    "StudyError",
    "UserError",
    "VAEDetector",
    "ask_labels",
    "build_report",
    "check_study",
    "compare",
    "compare_studies",
    "delete_study",
    "draft_study",
    "export_study",
    "forget_labels",
    "import_study",
    "learn_labels",
    "list_studies",
    "load_config",
    "load_study",
    "promote_model",
    "resume_study",
    "run_study",
    "score_rows",
    "serve_model",
    "study_cost",
    "study_manifest",
    "submit_study",
    "summarize",
    "sync_study",
]
_MODULES = {
    "StudyConfig": "config.study",
    "VAEDetector": "estimator",
    "ask_labels": "labels",
    "delete_study": "archive",
    "draft_study": "draft",
    "export_study": "archive",
    "import_study": "archive",
    "forget_labels": "labels",
    "learn_labels": "labels",
    "compare": "notebook",
    "load_config": "config.loading",
    "study_manifest": "submission",
    "submit_study": "submission",
    "StudyError": "errors",
    "UserError": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vae_study' has no attribute {name!r}")
    return getattr(import_module(f"vae_study.{_MODULES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return __all__
