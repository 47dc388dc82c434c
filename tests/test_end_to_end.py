"""One study by the README's commands, as a user types them: from its file to a report and to scores of new rows."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from vae_study.api import load_study
from vae_study.cli import main
from vae_study.config.data import DataConfig
from vae_study.data import read_table

BREAST_CANCER = Path(__file__).parents[1] / "search_spaces" / "breast_cancer.yaml"
SETTINGS = ["search.training.epochs=null", "training.epochs=3", "trials=4", "confirm=null", "ensemble.members=2"]


def invoke(*words):
    done = CliRunner().invoke(main, [*map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.end_to_end
def test_a_study_goes_from_its_file_to_a_report_and_to_scores_of_new_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "vae_study", "run", str(BREAST_CANCER)]
    command += [word for setting in SETTINGS for word in ("--set", setting)]
    # As a notebook's shell command has it, where the notebook's own packages are not installed.
    notebook = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=notebook)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trials     4 finished" in done.stdout
    assert "Trial worker-" not in done.stdout + done.stderr
    assert "report     reports/breast_cancer/report.html" in done.stdout
    page = tmp_path / "reports" / "breast_cancer" / "report.html"
    assert "data:image/png" in page.read_text()

    assert "4 finished" in invoke("status", "breast_cancer")
    assert len(load_study("breast_cancer").trials) == 4
    written = page.stat().st_mtime_ns
    assert "--force" in invoke("report", "breast_cancer")
    assert page.stat().st_mtime_ns == written

    table = read_table(DataConfig(source="breast_cancer"))
    pd.DataFrame(table.x_ND, columns=table.feature_names).to_parquet("new.parquet")
    for model in ("champion", "ensemble"):
        invoke("score", "breast_cancer", "new.parquet", "--model", model, "--output", f"{model}.parquet")
        scores = pd.read_parquet(f"{model}.parquet")
        assert len(scores) == len(table.x_ND)
        assert scores["score"].notna().all()
