"""What a study costs on the machines of a cluster file, and how long it takes, from a dated table of prices."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vae_study.config.study import ResourcesConfig
from vae_study.errors import UserError

TABLE = Path(__file__).with_name("prices.yaml")
# How many machines to say it for, beside the most that the cluster has.
MACHINES = (1, 4)
# By provider: what names the type of a machine in `node_config`.
TYPES = {"aws": "InstanceType", "gcp": "machineType"}
INSTEAD = "expected a file of `ray up` for aws or gcp; else give --price-per-hour"


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The machines of a cluster file.

    Attributes:
        kind: Such as g5.xlarge.
        is_spot: Whether they may be reclaimed.
        most: The most that run at once.
        dollars: What one of them costs an hour.
        head_dollars: What the head costs an hour.
        cpus, gpus: Of one.
        as_of: The date of the prices.
    """

    kind: str
    is_spot: bool
    most: int
    dollars: float
    head_dollars: float
    cpus: float
    gpus: float
    as_of: str


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a study takes on so many machines.

    Attributes:
        hours: Of training, with all machines up from the start.
        dollars: For these hours, the head included.
    """

    machines: int
    hours: float
    dollars: float


def offers(machines: Machines, resources: ResourcesConfig, worker_hours: float, trials: int) -> list[Offer]:
    """What a study takes on 1, 4 and the most machines.

    Args:
        machines: The cluster's.
        resources: What a worker occupies.
        worker_hours: The time of all workers together.
        trials: The trials that these are for; no more workers than these are of use.

    Raises:
        UserError: No worker fits on a machine.
    """
    wanted = {"CPU": (machines.cpus, resources.cpu), "GPU": (machines.gpus, resources.gpu)}
    # In ten-thousandths as Ray counts: in floats, 1 // 0.1 is 9.
    each = min(round(has * 1e4) // round(ask * 1e4) for has, ask in wanted.values() if ask)
    if not each:
        raise UserError(
            f"--cluster: a worker asks for {resources.cpu:g} CPU and {resources.gpu:g} GPU; {machines.kind} has "
            f"{machines.cpus:g} CPU and {machines.gpus:g} GPU"
        )
    found = []
    for count in sorted({min(some, machines.most) for some in (*MACHINES, machines.most)}):
        hours = worker_hours / min(each * count, trials)
        used = min(count, math.ceil(trials / each))
        found.append(
            Offer(machines=count, hours=hours, dollars=hours * (used * machines.dollars + machines.head_dollars))
        )
    return found


def offers_text(machines: Machines, found: Sequence[Offer], now: datetime) -> str:
    """The offers as a table, with when each would end that starts now."""
    spot = " on spot" if machines.is_spot else ""
    lines = [
        f"cluster    {machines.kind}{spot} at about {machines.dollars:.2g} dollars an hour, the head at "
        f"{machines.head_dollars:.2g} (prices of {machines.as_of})",
        f"{'':10} {'machines':>8}  {'hours':>8}  {'dollars':>8}  started now, it ends",
        *(
            f"{'':10} {one.machines:>8}  {one.hours:>8.3g}  {one.dollars:>8.3g}  "
            f"{now + timedelta(hours=one.hours):%Y-%m-%d %H:%M}"
            for one in found
        ),
        f"{'':10} and some minutes until a machine is up",
    ]
    return "\n".join(lines)


def machines_of(file: Path, prices: Path | None = None) -> Machines:
    """The machines of a file of `ray up`, with their prices.

    Args:
        file: With one type of node that trains; where it has several, the first is taken.
        prices: A table in the form of ours, in its place.

    Raises:
        UserError: A file cannot be read or is of another form, or the table does not have a machine.
    """
    config, table = _read(file, "--cluster"), _read(prices or TABLE, "--prices")
    try:
        nodes, key = dict(config["available_node_types"]), TYPES[config["provider"]["type"]]
        head = nodes.pop(config["head_node_type"])
        worker = next(iter(nodes.values()))
        kind, head_kind = worker["node_config"][key], head["node_config"][key]
        most = min(int(worker["max_workers"]), int(config["max_workers"]))
    except (KeyError, TypeError, ValueError, StopIteration):
        raise UserError(f"--cluster {file}: says no type and number of its workers; {INSTEAD}") from None
    if most < 1:
        raise UserError(f"--cluster {file}: has at most {most} workers; expected 1 or more")
    where = prices or TABLE.name
    row, head_row = _row(table, kind, where), _row(table, head_kind, where)
    is_spot = _is_spot(worker["node_config"])
    try:
        return Machines(
            kind=kind,
            is_spot=is_spot,
            most=most,
            dollars=float(row["dollars"]) * (float(table["spot_share"]) if is_spot else 1),
            head_dollars=float(head_row["dollars"]),
            cpus=float(row["cpus"]),
            gpus=float(row["gpus"]),
            as_of=str(table["as_of"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--prices {where}: lacks a number, or one is none ({error}); expected the form of {TABLE}"
        ) from None


def _is_spot(config: Mapping[str, Any]) -> bool:
    market = config.get("InstanceMarketOptions") or {}
    scheduling = [one for one in config.get("scheduling") or [] if isinstance(one, dict)]
    return market.get("MarketType") == "spot" or any(one.get("preemptible") for one in scheduling)


def _row(table: Mapping[str, Any], kind: str, where: Path | str) -> Mapping[str, Any]:
    machines = table.get("machines")
    if isinstance(machines, dict) and isinstance(row := machines.get(kind), dict):
        return row
    known = ", ".join(map(str, machines)) if isinstance(machines, dict) else "none"
    raise UserError(
        f"--prices {where}: has no machine {kind!r}, only {known}; expected a table with it, as {TABLE} is one"
    )


def _read(file: Path, option: str) -> dict[str, Any]:
    try:
        found = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise UserError(f"{option} {file}: cannot be read: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(found, dict):
        raise UserError(f"{option} {file}: is no mapping; expected YAML with keys")
    return found
