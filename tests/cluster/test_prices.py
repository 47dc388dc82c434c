"""What a study costs on the machines of a cluster file."""

from datetime import datetime

import pytest
import yaml
from click.testing import CliRunner
from vae_study.cli import main
from vae_study.cluster.prices import TABLE, Machines, machines_of, offers, offers_text
from vae_study.config.study import ResourcesConfig
from vae_study.errors import UserError

from tests.cluster.yamls import AWS, GCP, LOCAL, ROOT, filled

G5 = Machines(kind="g5", is_spot=True, most=8, dollars=0.5, head_dollars=0.1, cpus=4, gpus=1, as_of="2025")


def found(**changes):
    """By the number of machines: hours and dollars of 16 hours of workers in 64 trials."""
    resources, trials = ResourcesConfig(**changes.pop("resources", {"gpu": 1})), changes.pop("trials", 64)
    return {one.machines: (one.hours, pytest.approx(one.dollars)) for one in offers(G5, resources, 16.0, trials)}


def test_more_machines_take_less_time_and_cost_less_of_the_head():
    assert found() == {1: (16, 16 * 0.6), 4: (4, 4 * 2.1), 8: (2, 2 * 4.1)}


def test_each_says_when_it_would_end():
    lines = offers_text(G5, offers(G5, ResourcesConfig(gpu=1), 16.0, 64), datetime(2026, 12, 31, 22, 30)).splitlines()
    assert [line.split()[-2:] for line in lines[2:5]] == [
        ["2027-01-01", "14:30"], ["2027-01-01", "02:30"], ["2027-01-01", "00:30"],
    ]  # fmt: skip


def test_parts_of_a_gpu_are_workers_of_their_own_and_no_machine_is_paid_for_without_a_trial():
    assert found(resources={"gpu": 0.25}) == {1: (4, 4 * 0.6), 4: (1, 2.1), 8: (0.5, 0.5 * 4.1)}
    assert found(resources={"gpu": 0.1, "cpu": 0.1})[1] == (1.6, 1.6 * 0.6)
    assert found(trials=2) == {1: (16, 16 * 0.6), 4: (8, 8 * 1.1), 8: (8, 8 * 1.1)}
    with pytest.raises(UserError, match="a worker asks for 8 CPU and 0 GPU; g5 has 4 CPU and 1 GPU"):
        found(resources={"cpu": 8})


@pytest.mark.parametrize("path", [AWS, GCP], ids=lambda path: path.name)
def test_the_machines_of_our_own_files_are_in_the_table(path):
    machines = machines_of(path)
    table = yaml.safe_load(TABLE.read_text())
    on_demand = table["machines"][machines.kind]["dollars"]
    assert machines.is_spot
    assert machines.dollars == pytest.approx(on_demand * table["spot_share"])
    assert machines.most == filled(path)["max_workers"]
    assert (machines.gpus, machines.as_of) == (1, table["as_of"])


def test_check_says_what_it_costs_with_ones_own_prices(tmp_path):
    prices = tmp_path / "prices.yaml"
    rows = {"m6i.large": {"dollars": 1, "cpus": 2, "gpus": 0}, "g5.xlarge": {"dollars": 50, "cpus": 4, "gpus": 1}}
    prices.write_text(yaml.safe_dump({"as_of": "today", "spot_share": 0.5, "machines": rows}))
    words = [
        "check",
        str(ROOT / "search_spaces" / "digits.yaml"),
        "--home",
        str(tmp_path),
        "--set",
        "training.epochs=2",
    ]
    said = CliRunner().invoke(main, [*words, "--cluster", str(AWS), "--prices", str(prices)])
    assert said.exit_code == 0, said.output
    assert "g5.xlarge on spot at about 25 dollars an hour, the head at 1 (prices of today)" in said.output
    [one, four] = [line.split() for line in said.output.splitlines() if line.split()[:1] in (["1"], ["4"])]
    # 64 trials on 4 CPUs each.
    assert float(one[1]) == pytest.approx(4 * float(four[1]), rel=0.05)
    assert float(one[2]) == pytest.approx(26 * float(one[1]), rel=0.05)


SLIPS = {
    "machines of one's own": ({}, LOCAL, None, "says no type and number of its workers; expected a file of `ray up`"),
    "a machine that the table lacks": (
        {"g5.xlarge": "p9.huge"},
        AWS,
        None,
        "has no machine 'p9.huge', only m6i.large, g4",
    ),
    "a table without dollars": ({}, AWS, "{machines: {g5.xlarge: {}, m6i.large: {}}}", "lacks a number"),
    "no worker at all": ({"max_workers: 4": "max_workers: 0"}, AWS, None, "has at most 0 workers; expected 1 or more"),
    "no YAML": ({"provider:": "provider: ["}, AWS, None, "cannot be read"),
}


@pytest.mark.parametrize(("changes", "path", "table", "message"), SLIPS.values(), ids=SLIPS)
def test_a_slip_gives_one_message(tmp_path, changes, path, table, message):
    text = path.read_text()
    for old, new in changes.items():
        text = text.replace(old, new)
    (tmp_path / "cluster.yaml").write_text(text)
    (tmp_path / "prices.yaml").write_text(table or "")
    with pytest.raises(UserError, match=message) as refused:
        machines_of(tmp_path / "cluster.yaml", tmp_path / "prices.yaml" if table else None)
    assert len(str(refused.value).splitlines()) == 1
