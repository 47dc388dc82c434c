#!/usr/bin/env bash
# The newest Ray, Optuna and MLflow that pip finds, in a virtual environment of their own in build/canary, and the tests
# that touch them. Fails where a release breaks a study, and where a private part that is used is gone, which costs a
# study what vae_study/study/ray_compat.py and vae_study/search/optuna_compat.py say.
#
#     tests/canary.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/.."
home=build/canary
"${PYTHON:-python3}" -m venv --clear "$home"
pip=("$home/bin/python" -m pip --quiet --disable-pip-version-check install)
# First all that was tested together, with this torch; then these three and what they need, whatever else is pinned.
"${pip[@]}" --constraint constraints.txt torch
"${pip[@]}" --constraint constraints.txt --editable '.[dev]'
"${pip[@]}" --upgrade 'ray[default,tune]' optuna 'mlflow[auth]'
"$home/bin/python" -m pip list 2>/dev/null | grep -E '^(ray|optuna|mlflow|torch) '
exec "$home/bin/pytest" -p no:cacheprovider \
    tests/study/test_ray_compat.py tests/search/test_optuna_compat.py tests/search/test_optuna_storage.py \
    tests/study/test_workers.py tests/study/test_study.py tests/tracking/test_sync.py tests/tracking/test_registry.py "$@"
