"""What `import vae_study` gives, and that a user's own packages are left alone."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import vae_study

TABLES = """
import numpy as np
import pandas as pd

def load():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(300, 4)), columns=["a", "b", "c", "d"])
    return table.assign(label=(rng.random(300) < 0.1).astype(int))
"""
STUDY = """
study: own
data: {source: "python:pipeline.tables:load", label: label, scale: standard}
"""


@pytest.mark.parametrize("name", vae_study.__all__)
def test_every_public_name_is_there_and_documented(name):
    found = getattr(vae_study, name)
    assert inspect.getdoc(found)
    assert found.__module__.startswith("vae_study.")


def test_an_unknown_name_is_an_attribute_error_as_in_any_module():
    with pytest.raises(AttributeError, match="'vae_study' has no attribute 'runn_study'"):
        vae_study.runn_study  # noqa: B018


def test_importing_the_package_imports_no_heavy_library():
    code = "import sys, vae_study; print(sorted({'ray', 'torch', 'mlflow', 'optuna', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_users_own_package_called_pipeline_is_a_data_source(tmp_path):
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text("")
    (tmp_path / "pipeline" / "tables.py").write_text(TABLES)
    (tmp_path / "study.yaml").write_text(STUDY)
    source = str(Path(vae_study.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "vae_study", "check", "study.yaml"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "4 features" in done.stdout
