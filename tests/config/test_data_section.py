import pytest
from vae_study.config.data import DataConfig
from vae_study.config.loading import load_config
from vae_study.errors import UserError

from .files import DIGITS

GAUSSIAN = "model.likelihood=gaussian"
FREE = ["champion=null", "data.anomaly_labels=null"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["data.source=digts"], "data.source: got 'digts'; expected one of digits, .*did you mean 'digits'"),
        (["data.source=python:module"], "data.source: got 'python:module'; expected one of .*package.module:function"),
        (["data.source=3"], "data.source: got 3, expected a valid string"),
        (["data.missing=mean"], "data.missing: got 'mean'; expected one of refuse, median"),
        (
            ["data.anomaly_labels=[[8]]"],
            r"data.anomaly_labels\[0\]: got \[8\], expected a finite number, a word, true",
        ),
        (["data.split.by=group"], "data.split.column: is missing; split.by group needs the column with the groups"),
        (["data.split.by=time"], "data.split.column: is missing; split.by time needs the column with the times"),
        (["data.split.column=when"], "data.split.column: got 'when', which only split.by group and time use"),
        (["data.split={by: stratified, column: when}"], "data.split.column: got 'when'"),
        (["data.scale=robust"], "data.scale: got 'robust', expected 'unit' or 'quantile', as likelihood bernoulli"),
        (["data.clip=3"], "data.clip: got 3, which lets negative values through, .*likelihood bernoulli"),
        ([GAUSSIAN, "data.scale=quantile", "data.clip=3"], "data.clip: got 3, .*quantile stays in"),
        (["data.clip=0"], "data.clip: got 0"),
        (["data.categories.rare=1"], "data.categories.rare: got 1"),
        (["data.categories.encode=onehot"], "data.categories.encode: .*did you mean 'one_hot'"),
        (["data.anomaly_labels=[]"], "champion.by: got 'val/auroc', expected a rule that needs no labels"),
        (["data.anomaly_labels=null"], "champion.by: got 'val/auroc', expected a rule that needs no labels"),
    ],
)
def test_a_wrong_setting_is_named(settings, says):
    with pytest.raises(UserError, match=says):
        load_config(DIGITS, settings)


@pytest.mark.parametrize(
    "settings",
    [
        ["data.source=python:package.module:function"],
        ["data.scale=quantile"],
        [GAUSSIAN, "data.scale=robust", "data.clip=5"],
        [GAUSSIAN, "data.clip=2"],
        ["data={source: parquet, path: a.parquet, split: {by: group, column: account}}", "data.anomaly_labels=[1]"],
        ["data={source: csv, path: a.csv, split: {by: time, column: when}}", *FREE],
        # Whether a file has labels 0 and 1 is known when it is read.
        ["data={source: csv, path: a.csv, label: fraud}", "champion={by: val/auroc}"],
    ],
)
def test_a_right_setting_is_taken(settings):
    load_config(DIGITS, settings)


def test_labels_keep_their_kind():
    labels = (True, 1, 1.5, "1")
    again = DataConfig.model_validate_json(DataConfig(source="digits", anomaly_labels=labels).model_dump_json())
    assert [(type(label), label) for label in again.anomaly_labels] == [(type(label), label) for label in labels]
