import json
import math
import re
import uuid
from html.parser import HTMLParser
from urllib.parse import parse_qs, unquote

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.choosing import Pick, choose
from pipeline.spec.reading import load_spec
from pipeline.tracking import layout
from pipeline.tracking.description import filled, plan_note, result_note
from pipeline.tracking.description.layouts import LONGEST_NOTE
from pipeline.tracking.description.links import longest
from pipeline.tracking.description.markdown import escaped, table
from pipeline.tracking.store import open_experiment
from pipeline.tracking.views import shared_view

ODD = ["<script>alert(1)</script>", "a|b", "_u_ __v__", "[x](http://e.com)", "{parent}{run:trial-0000}", "`c`", "~~s~~"]
ODD += ["@me :smile:", "www.e.com", "&amp;", "\\|", "\ud800", "\u202e", "# h", "- l", "1. n", "ü🙂", "", "x" * 500]
TEXTS = st.sampled_from(ODD) | st.text(max_size=300)
SPLITS = {name: {"rows": 1200, "anomalies": 30} for name in ("test", "train", "validation")}
DATA = {"source": "digits", "sha256": "f" * 64, "features": 2, "feature_names": ["a", "b"], "splits": SPLITS}
PARENT, EXPERIMENT = "f" * 32, "12"


def spec(**changes):
    search = {
        "free_bits.nats": {"low": 0.01, "high": 1, "log": True, "when": {"free_bits.kind": ["total"]}},
        "free_bits.kind": {"choices": ["none", "total"]},
        "latent_dim": {"low": 2, "high": 32, "type": "int", "log": True},
        "beta": {"low": 0.05, "high": 20, "log": True},
    }
    return load_spec({"study": "s", "data": {"source": "digits"}, "search": search, **changes}).plain()


def trials(count: int, **columns) -> pd.DataFrame:
    """On the frontier, all of them; the last is the best by AUROC."""
    place = np.arange(count)
    known = {
        "trial": place,
        "state": ["finished"] * count,
        "beta": 0.1 * place,
        "latent_dim": 2 + place,
        "free_bits.kind": ["none"] * count,
        "val/reconstruction": 10.0 + place,
        "val/kl": 10.0 + count - place,
        "val_auroc/elbo": 0.5 + 0.4 * place / max(count - 1, 1),
    }
    return pd.DataFrame(known | columns)


def choices(auroc: float = 0.9) -> pd.DataFrame:
    common = {"auroc_low": auroc - 0.1, "auroc_high": auroc + 0.05}
    rows = [
        {"rule": "val/auroc", "needs_labels": True, "trial": 2.0, "score": "elbo", "auroc": auroc, **common},
        {"rule": "ensemble_best", "needs_labels": False, "trial": math.nan, "score": None, "auroc": auroc, **common},
        {"rule": "input_knn", "needs_labels": False, "trial": math.nan, "score": None, "auroc": auroc - 0.2, **common},
    ]
    return pd.DataFrame(rows)


def note(count: int = 3, data=DATA, about=None, rule: str = "val/auroc", **changes) -> str:
    frame = changes.pop("frame", trials(count))
    table_ = changes.pop("choices", choices())
    picked = choose(frame, rule)
    return result_note(about or spec(), "s-1", data, frame, table_, rule, picked, picture="frontier.png", **changes)


def whole(text: str, count: int = 400) -> str:
    runs = {layout.trial_name(number): f"{number:032x}" for number in range(count)}
    return filled(text, runs, EXPERIMENT, PARENT)


class Reader(HTMLParser):
    """What a browser would make of it: texts, links, pictures and every element."""

    def __init__(self, page: str):
        super().__init__()
        self.texts, self.links, self.pictures, self.elements = [], [], [], set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.links += [value for name, value in attrs if name == "href"]
        self.pictures += [value for name, value in attrs if name == "src"]

    def handle_data(self, data):
        self.texts.append(data)


def read(text: str) -> Reader:
    return Reader(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))


def printable(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


@given(TEXTS, TEXTS)
def test_a_users_text_is_read_as_it_was_written_and_does_nothing(first, second):
    page = read(table([escaped(first, 1000), "h"], [[escaped(second, 1000), "end"]]))
    assert "".join(page.texts).split() == f"{printable(first)} h {printable(second)} end".split()
    assert page.elements <= {"table", "thead", "tbody", "tr", "th", "td"}


@given(TEXTS)
def test_what_the_ui_would_make_a_link_or_a_name_by_itself_is_broken_up(text):
    written = escaped(text, 1000)
    assert not re.search(r"www\.|://|@|:\w+:|[{}<>`*~\[\]|\\]", written, re.IGNORECASE)


@settings(max_examples=40)
@given(source=TEXTS, value=TEXTS, count=st.sampled_from([0, 1, 5, 50, 300]))
def test_no_note_is_longer_than_mlflow_takes_and_its_head_is_always_whole(source, value, count):
    about = spec()
    about["search"] = {f"p{place}": {"choices": [value] * 40, "when": {"p_0": [value]}} for place in range(40)}
    data = {**DATA, "source": source}
    frame = trials(count, **{f"p{place}": [value.replace("\ud800", "")] * count for place in range(3)})
    for text in (plan_note(about, "n" * 100, data), note(frame=frame, about=about, data=data)):
        assert len(whole(text)) <= longest(text) <= LONGEST_NOTE
        whole(text).encode()
        assert "trials of vae on" in text[:500]


def test_the_first_lines_say_which_model_how_good_and_what_to_do_with_it():
    lines = whole(note()).splitlines()
    assert lines[0].startswith(f"The model to take: **[trial-0002](#/experiments/12/runs/{2:032x}")
    assert "`elbo`" in lines[0]
    assert "0.900 [0.800, 0.950]" in lines[0]
    assert "3 finished; 3 on the frontier" in lines[1]
    assert "vae-study score s-1 DATA" in lines[3]


def test_every_link_leads_into_the_ui_and_the_picture_is_the_parents():
    page = read(whole(note()))
    assert page.links
    assert all(link.startswith(("#/experiments/12/", "#/compare-runs?")) for link in page.links)
    assert all("workflowType=machine_learning" in link for link in page.links)
    assert page.pictures == [f"get-artifact?path=frontier.png&run_uuid={PARENT}"]
    assert not any("{" in link or "%7B" in link for link in page.links)


def test_the_finalists_are_compared_by_their_runs_ids():
    link = next(link for link in read(whole(note(3))).links if "compare-runs" in link)
    query = parse_qs(link.partition("?")[2])
    assert json.loads(query["runs"][0]) == [f"{number:032x}" for number in range(3)]
    assert json.loads(query["experiments"][0]) == [EXPERIMENT]


def test_of_a_long_frontier_both_ends_and_the_champion_show_and_the_rest_is_counted():
    frame = trials(300)
    frame.loc[77, "val_auroc/elbo"] = 1.0
    text = note(frame=frame)
    shown = re.findall(r"^\| (\**)\[trial-(\d+)\]", text, re.MULTILINE)
    numbers = [int(number) for _, number in shown]
    assert {0, 77, 299} <= set(numbers)
    assert numbers == sorted(numbers)
    assert [int(number) for bold, number in shown if bold] == [77]
    assert f"and {300 - len(numbers)} more" in text
    assert len(text) > LONGEST_NOTE / 2


def test_a_run_that_is_unknown_is_named_without_a_link():
    text = filled(note(3), {"trial-0001": "1" * 32}, EXPERIMENT, PARENT)
    page = read(text)
    assert "trial-0000" in "".join(page.texts)
    assert sum("runs/1111" in link for link in page.links) == 1
    assert "{run:" not in text


def test_without_labels_nothing_is_said_of_auroc():
    frame = trials(3).drop(columns="val_auroc/elbo").assign(**{"val/elbo": [-3.0, -2.0, -1.0]})
    text = note(frame=frame, rule="val/elbo", choices=choices(math.nan))
    assert "AUROC" not in text
    assert "best by `val/elbo` (-1)" in text


@pytest.mark.parametrize("count", [0, 4])
def test_a_study_without_a_model_offers_none(count):
    text = note(frame=trials(count, state=["failed"] * count), choices=pd.DataFrame(columns=["rule"]))
    assert text.startswith("**No trial was chosen**")
    assert "vae-study score" not in text
    assert ("what failed" in text) == bool(count)


def test_an_interrupted_study_says_so_first_and_offers_no_model_yet():
    text = note(is_complete=False)
    assert text.startswith("**Interrupted**; `vae-study resume s-1`")
    assert "vae-study score" not in text


def test_a_value_that_a_trial_lacks_is_a_dash_and_a_searched_family_is_not_named():
    about = spec(search={"family": {"choices": ["vae", "conditional"]}})
    frame = trials(2, family=["vae", None], **{"val/kl": [1.0, 2.0], "val_auroc/elbo": [0.5, math.nan]})
    frame["val/reconstruction"] = [2.0, 1.0]
    text = note(frame=frame, about=about)
    assert "several model families" in text
    assert "| &ensp;– |" in text


def test_the_plan_says_what_is_searched_on_what():
    lines = plan_note(spec(trials=7), "s-1", DATA).splitlines()
    assert lines[0].startswith("**Running**: 7 trials of vae on digits, proposed by tpe")
    assert "1,200 rows (30 anomalies) to judge" in lines[2]
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert rows == ["searched", "beta", "latent_dim", "free_bits.kind", "free_bits.nats"]


def test_mlflow_finds_the_trials_that_the_links_and_the_view_ask_for(store):
    experiment = open_experiment(store, uuid.uuid4().hex)
    parent = store.create_run(experiment).info.run_id
    tags = {layout.PARENT: parent, layout.KIND: "trial"}
    running, failed = (
        store.create_run(experiment, tags={**tags, layout.STATE: state}).info.run_id for state in ("running", "failed")
    )
    store.create_run(experiment, tags={**tags, layout.PARENT: "another", layout.STATE: "failed"})
    text = plan_note(spec(), "s-1", DATA) + note(frame=trials(2, state=["finished", "failed"]))
    asked = re.findall(r"searchFilter=([^&)]*)", filled(text, {}, experiment, parent))
    found = [{run.info.run_id for run in store.search_runs([experiment], unquote(query))} for query in asked]
    assert found == [{running}, {failed}]
    name, value = shared_view(spec(), "val/auroc", parent)
    store.set_experiment_tag(experiment, name, value)
    view = json.loads(store.get_experiment(experiment).tags[name])
    runs = store.search_runs([experiment], view["searchFilter"], order_by=[view["orderByKey"]])
    assert {run.info.run_id for run in runs} == {running, failed}
    assert f"viewStateShareKey={parent}" in filled(text, {}, experiment, parent)


@pytest.mark.parametrize(
    ("rule", "score", "metric", "ascending"),
    [
        ("val/auroc", None, "val_auroc/elbo", False),
        ("val/auroc", "latent_knn", "val_auroc/latent_knn", False),
        ("val/elbo", None, "val/elbo", False),
        ("val/reconstruction", "kl", "val/reconstruction", True),
        ("pseudo", None, "pseudo_auroc/residual_mahalanobis", False),
    ],
)
def test_the_view_puts_the_best_by_the_rule_first_and_shows_the_objectives(rule, score, metric, ascending):
    view = json.loads(shared_view(spec(), rule, PARENT, score)[1])
    assert (view["orderByKey"], view["orderByAsc"]) == (f"metrics.`{metric}`", ascending)
    assert {"metrics.`val/kl`", "params.`beta`", f"metrics.`{metric}`"} <= set(view["selectedColumns"])


def test_a_view_of_the_widest_search_fits_a_tag_and_draws_only_what_every_trial_has():
    about = spec()
    about["search"] |= {f"a.parameter.of.a.long.name_{place}": {"choices": [1]} for place in range(80)}
    view = shared_view(about, "val/auroc", PARENT)[1]
    assert len(view) <= 5000
    parallel = next(chart for chart in json.loads(view)["compareRunCharts"] if chart["type"] == "PARALLEL")
    assert {"log10/beta", "log10/latent_dim"} <= set(parallel["selectedMetrics"])
    assert "log10/free_bits.nats" not in parallel["selectedMetrics"]


def test_a_champion_off_the_frontier_is_named_all_the_same():
    frame = trials(3)
    frame.loc[1, ["val/kl", "val_auroc/elbo"]] = [99.0, 1.0]
    assert choose(frame, "val/auroc") == Pick(1, "elbo", 1.0)
    text = note(frame=frame)
    assert text.startswith("The model to take: **[trial-0001]")
    assert "2 on the frontier" in text
