import json
import math
import re
import uuid
from html.parser import HTMLParser
from urllib.parse import parse_qs

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from vae_study.config.loading import load_config
from vae_study.metrics import BASELINE
from vae_study.selection.ranking import Selection, choose
from vae_study.tracking import schema
from vae_study.tracking.note import (
    LONGEST_NOTE,
    escaped,
    filled,
    longest,
    plan_note,
    ranking,
    result_note,
    table,
    trials_view,
)
from vae_study.tracking.store import open_experiment

ODD = ["<script>alert(1)</script>", "a|b", "_u_ __v__", "[x](http://e.com)", "{parent}{run:trial-0000}", "`c`", "~~s~~"]
ODD += ["@me :smile:", "www.e.com", "&amp;", "\\|", "\ud800", "\u202e", "# h", "- l", "1. n", "ü🙂", "", "x" * 500]
TEXTS = st.sampled_from(ODD) | st.text(max_size=300)
SPLITS = {name: {"rows": 1200, "anomalies": 30} for name in ("test", "train", "validation")}
DATA = {"source": "digits", "sha256": "f" * 64, "features": 2, "feature_names": ["a", "b"], "splits": SPLITS}
PARENT, EXPERIMENT = "f" * 32, "12"


def config(**changes):
    search = {
        "free_bits.nats": {"low": 0.01, "high": 1, "log": True, "when": {"free_bits.kind": ["total"]}},
        "free_bits.kind": {"choices": ["none", "total"]},
        "latent_dim": {"low": 2, "high": 32, "type": "int", "log": True},
        "beta": {"low": 0.05, "high": 20, "log": True},
    }
    return load_config({"study": "s", "data": {"source": "digits"}, "search": search, **changes}).plain()


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
        {"rule": BASELINE, "needs_labels": False, "trial": math.nan, "score": None, "auroc": auroc - 0.2, **common},
    ]
    return pd.DataFrame(rows)


def note(count: int = 3, data=DATA, about=None, rule: str = "val/auroc", **changes) -> str:
    frame = changes.pop("frame", trials(count))
    table_ = changes.pop("choices", choices())
    picked = choose(frame, rule)
    return result_note(about or config(), "s-1", data, frame, table_, rule, picked, picture="frontier.png", **changes)


def whole(text: str, count: int = 400) -> str:
    runs = {schema.trial_name(number): f"{number:032x}" for number in range(count)}
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


def test_the_note_says_better_worse_or_tie_by_paired_intervals_only():
    ends = {"auroc_minus_chosen": (-0.03, 0.01), "average_precision_minus_chosen": (0.1, 0.27)}
    columns = {f"{name}_{end}": pair[place] for name, pair in ends.items() for place, end in enumerate(("low", "high"))}
    told = note(choices=choices().assign(auroc_minus_chosen=-0.01, average_precision_minus_chosen=0.2, **columns))
    expected = "a tie in AUROC [-0.010, 0.030], worse in average precision [-0.270, -0.100]"
    assert f"the recommended model is {expected}." in told
    assert "recommended model is" not in note()


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
    about = config()
    about["search"] = {f"p{place}": {"choices": [value] * 40, "when": {"p_0": [value]}} for place in range(40)}
    data = {**DATA, "source": source}
    frame = trials(count, **{f"p{place}": [value.replace("\ud800", "")] * count for place in range(3)})
    for text in (plan_note(about, "n" * 100, data, "val/elbo"), note(frame=frame, about=about, data=data)):
        assert len(whole(text)) <= longest(text) <= LONGEST_NOTE
        whole(text).encode()
        assert "trials of vae on" in text[:500]


def test_the_first_lines_say_which_model_how_good_and_what_to_do_with_it():
    lines = whole(note()).splitlines()
    assert lines[0].startswith(f"Recommended model: **[trial-0002](#/experiments/12/runs/{2:032x}")
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
    about = config(search={"family": {"choices": ["vae", "conditional"]}})
    frame = trials(2, family=["vae", None], **{"val/kl": [1.0, 2.0], "val_auroc/elbo": [0.5, math.nan]})
    frame["val/reconstruction"] = [2.0, 1.0]
    text = note(frame=frame, about=about)
    assert "several model families" in text
    assert "| &ensp;– |" in text


def test_the_plan_says_what_is_searched_on_what():
    lines = plan_note(config(trials=7), "s-1", DATA, "val/elbo").splitlines()
    assert lines[0].startswith("**Running**: 7 trials of vae on digits, proposed by tpe")
    assert "1,200 rows (30 anomalies) to judge" in lines[2]
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert rows == ["searched", "beta", "latent_dim", "free_bits.kind", "free_bits.nats"]


def test_mlflow_finds_the_trials_that_the_links_ask_for_the_best_first(store):
    experiment = open_experiment(store, uuid.uuid4().hex)
    parent = store.create_run(experiment).info.run_id
    tags = {schema.PARENT: parent, schema.KIND: "trial"}
    running, failed = (
        store.create_run(experiment, tags={**tags, schema.STATE: state}).info.run_id for state in ("running", "failed")
    )
    store.create_run(experiment, tags={**tags, schema.PARENT: "another", schema.STATE: "failed"})
    for run, value in ((running, 0.7), (failed, 0.9)):
        store.log_metric(run, "val_auroc/elbo", value)
    text = plan_note(config(), "s-1", DATA, "val/auroc") + note(frame=trials(2, state=["finished", "failed"]))
    asked = [parse_qs(link.partition("?")[2]) for link in read(filled(text, {}, experiment, parent)).links]
    found = []
    for query in asked:
        if "searchFilter" in query:
            order = [
                f"{key} {'ASC' if query['orderByAsc'] == ['true'] else 'DESC'}" for key in query.get("orderByKey", ())
            ]
            runs = store.search_runs([experiment], query["searchFilter"][0], order_by=order)
            found.append([run.info.run_id for run in runs])
    every = [failed, running]
    assert found == [every, every, [running], every, [failed]]
    assert [query["viewStateShareKey"] for query in asked if "viewStateShareKey" in query] == [[parent]]
    view = json.loads(filled(trials_view(config(), "val/auroc", None), {}, experiment, parent))
    order = [f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"]
    runs = store.search_runs([experiment], view["searchFilter"], order_by=order)
    assert [run.info.run_id for run in runs] == every
    assert [query["compareRunsMode"] for query in asked if "compareRunsMode" in query] == [["CHART"]] * 2


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
def test_the_best_by_the_rule_are_first(rule, score, metric, ascending):
    assert ranking(rule, score) == (metric, ascending)


def test_a_champion_off_the_frontier_is_named_all_the_same():
    frame = trials(3)
    frame.loc[1, ["val/kl", "val_auroc/elbo"]] = [99.0, 1.0]
    assert choose(frame, "val/auroc") == Selection(1, "elbo", 1.0)
    text = note(frame=frame)
    assert text.startswith("Recommended model: **[trial-0001]")
    assert "2 on the frontier" in text
