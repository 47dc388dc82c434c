import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from vae_study.config.loading import load_config
from vae_study.config.study import StudyConfig
from vae_study.errors import UserError

from .files import DIGITS

TEXT = DIGITS.read_text(encoding="utf-8")
DOCUMENT = YAML(typ="safe").load(TEXT)


def paths(node, path=()):
    """The key path of every part of a document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3), max_leaves=5
)
changes = st.lists(
    st.tuples(st.sampled_from(list(paths(DOCUMENT))), st.just("delete") | values), min_size=1, max_size=3
)


def changed(steps):
    document = copy.deepcopy(DOCUMENT)
    for (*parents, leaf), value in steps:
        try:
            place = document
            for key in parents:
                place = place[key]
            if value == "delete":
                del place[leaf]
            else:
                place[leaf] = value
        except (KeyError, IndexError, TypeError):
            continue
    return document


def refusal(source, settings=()):
    """Why a config does not load, or None: then it works, as a whole and at each end of each range."""
    try:
        config = load_config(source, settings)
    except UserError as error:
        return str(error)
    assert StudyConfig.model_validate(config.plain()) == config
    for name, parameter in config.search.items():
        for value in parameter.ends():
            config.trial({name: value})
    return None


@given(changes)
def test_a_study_with_parts_changed_at_random_loads_or_says_why(steps):
    assert refusal(changed(steps)) != ""


@given(st.integers(0, len(TEXT)), st.integers(0, 30), st.text("{}[]:,#&*!|>'\"- \n\t0189.eabx~<?%@`", max_size=8))
def test_a_file_with_text_changed_at_random_loads_or_says_why(tmp_path_factory, start, length, text):
    file = tmp_path_factory.getbasetemp() / "random.yaml"
    file.write_text(TEXT[:start] + text + TEXT[start + length :], encoding="utf-8")
    assert refusal(file) != ""


@given(
    st.sampled_from([".".join(map(str, path)) for path in paths(DOCUMENT)]) | st.text("abc. =", max_size=8),
    st.sampled_from(["null", "{}", "[]", "{low: 1, high: 3}", "true", "1e999", "-0", "&a [*a]", "!!set {a}"])
    | st.text(max_size=8),
)
def test_any_setting_loads_or_says_why(key, value):
    assert refusal(DOCUMENT, [f"{key}={value}"]) != ""


@pytest.mark.parametrize("path", [".".join(map(str, path)) for path in paths(DOCUMENT) if len(path) < 3])
def test_any_key_may_be_removed_or_the_message_says_that_it_is_needed(path):
    assert path.split(".")[-1] in (refusal(DIGITS, [f"{path}=null"]) or path)
