"""What the pages say is true: each command is one, the keys are those of the code, links lead somewhere, blocks run."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from vae_study.cli import main
from vae_study.config.json_schema import EXAMPLES, keys, study_schema
from vae_study.config.loading import load_config
from vae_study.errors import UserError

from docs import reference

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
# What a shell does with a line around the command.
AROUND = re.compile(r"^(?:\$ |[A-Z_]+=\S+ |nohup |source \S+ && )*|\s+[|>&].*$")
REQUIRED = {"study": "s", "data": {"source": "csv", "path": "x.csv"}}


def commands(page: Path) -> list[str]:
    """The lines of code blocks that begin with the command, with lines that a backslash continues."""
    text = page.read_text(encoding="utf-8")
    indented = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))
    code = "\n".join([*(body for _, body in FENCED.findall(text)), indented]).replace("\\\n", " ")
    lines = (AROUND.sub("", line.strip()) for line in code.splitlines())
    return list(dict.fromkeys(line for line in lines if line.startswith("vae-study ")))


COMMANDS = [(page.name, line) for page in PAGES for line in commands(page)]


def test_there_are_commands_to_check():
    assert {"README.md", "tutorial.md", "cluster.md", "study-file.md"} <= {page for page, _ in COMMANDS}


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_in_the_pages_is_one(page, line):
    """Its name, options and arguments are parsed; nothing is run, whatever cluster or store it would need."""
    _, *words = shlex.split(line, comments=True)
    name, *rest = words
    if name.startswith("-"):
        return
    command = main.commands[name]
    with command.make_context(name, rest, parent=click.Context(main)):
        pass


def test_the_page_of_keys_is_that_of_the_code():
    assert reference.KEYS.read_text(encoding="utf-8") == reference.keys_page(), "make docs writes it again"


@pytest.mark.parametrize("key", keys(), ids=lambda key: key.name)
def test_every_key_has_a_meaning_a_type_and_an_example_that_it_takes(key):
    assert key.meaning
    assert key.type != "any value" or key.name in ("data.separator", "data.comment")
    if key.name.startswith(("objectives.", "constraints.")):
        return
    said = ""
    try:
        load_config(REQUIRED, [f"{key.name}={key.example}"])
    except UserError as error:
        said = str(error)
    # Another key may decide whether this one is of use; its own value is fine.
    assert f"{key.name}: got" not in said or ", which only " in said


def test_examples_are_of_keys_that_there_are():
    assert set(EXAMPLES) <= {key.name for key in keys()}


def test_the_schema_for_editors_knows_every_key_and_its_meaning():
    done = subprocess.run([sys.executable, "-m", "vae_study", "schema"], capture_output=True, text=True, check=True)
    schema = json.loads(done.stdout)
    assert schema == json.loads(json.dumps(study_schema()))
    assert schema["properties"]["trials"]["description"].startswith("The number of trials")
    assert schema["$defs"]["SplitConfig"]["properties"]["seed"]["description"] == "Of the shuffle."
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_the_pages_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target, anchor in LINK.findall(FENCED.sub("", text)):
        if "://" in target or target.startswith("mailto:"):
            continue
        place = page.parent / target
        assert place.exists(), f"{target} is not there"
        if anchor and place.suffix == ".md":
            assert anchor[1:] in anchors(place), f"{target}{anchor}: no such heading"


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def run_shell(page: Path, folder: Path) -> None:
    """Run a page's blocks of `sh` and its Python after them, in one folder, as a reader would."""
    (folder / "docs").symlink_to(ROOT / "docs")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "vae-study").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vae_study "$@"\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    source = os.pathsep.join([str(ROOT / "pipeline"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": source}
    blocks = FENCED.findall(page.read_text(encoding="utf-8"))
    # A tenth of the rows and a few epochs: what the commands do is the same.
    shell = "set -e\n" + "".join(body for kind, body in blocks if kind == "sh")
    shell = shell.replace("machines.py", "machines.py --rows 2000").replace("--trials 8", "--trials 2 --epochs 4")
    done = subprocess.run(["sh", "-c", shell], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.processes
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md", "docs/study-file.md"])
def test_the_shell_blocks_of_a_page_run_as_they_stand(page, tmp_path):
    if page == "README.md":
        subprocess.run([sys.executable, ROOT / "docs" / "machines.py", "--rows", "2000"], cwd=tmp_path, check=True)
    run_shell(ROOT / page, tmp_path)
    if page != "docs/study-file.md":
        assert (tmp_path / "reports" / "machines" / "report.html").exists()


@pytest.mark.processes
def test_the_documentation_becomes_a_site_without_broken_links(tmp_path):
    subprocess.run([sys.executable, ROOT / "docs" / "reference.py", "site", tmp_path / "site"], check=True)
    assert "Three lines of Python" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    for place in ("docs/tutorial.html", "docs/keys.html", "api/vae_study.html", "reports/digits/report.html"):
        assert (tmp_path / "site" / place).exists(), place
