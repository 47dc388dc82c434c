"""The cluster files that we ship, as a person fills them in."""

import copy
from pathlib import Path
from typing import Any

import yaml
from vae_study.cluster.kubernetes import BLANK

ROOT = Path(__file__).parents[2]
AWS, LOCAL, GCP = ROOT / "cluster.yaml", ROOT / "docs" / "cluster.local.yaml", ROOT / "docs" / "cluster.gcp.yaml"
KUBERAY = ROOT / "docs" / "cluster.kuberay.yaml"
FILLED = {
    "REGION": "us-west-2",
    "KEY": "my-key",
    "BUCKET": "bucket",
    "PLACE": "s3://bucket",
    "HEAD-PROFILE": "vae-study-head",
    "WORKER-PROFILE": "vae-study-worker",
    "HEAD": "10.0.0.1",
    "WORKER": "10.0.0.2",
    "OTHER-WORKER": "10.0.0.3",
    "USER": "me",
    "PROJECT": "my-project",
    "IMAGE": "projects/my-project/global/images/my-image",
    "HEAD-ACCOUNT": "head@my-project.iam.gserviceaccount.com",
    "WORKER-ACCOUNT": "worker@my-project.iam.gserviceaccount.com",
}


def blanks(path: Path) -> set[str]:
    """What a person has to fill in."""
    # Not in comments, which speak of YOUR-... as such.
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    return set(BLANK.findall("\n".join(lines)))


def filled_text(path: Path, **more: str) -> str:
    """A file's text with every blank filled in."""
    known = {**FILLED, **more}
    return BLANK.sub(lambda found: known[found[1]], path.read_text())


def filled(path: Path, **more: str) -> dict[str, Any]:
    """A file with every blank filled in, as Ray reads it."""
    return yaml.safe_load(filled_text(path, **more))


def changed(config, *steps):
    """A copy with one value set; with None, without the key."""
    config = copy.deepcopy(config)
    *path, key, value = steps
    place = config
    for step in path:
        place = place[step]
    if value is None:
        del place[key]
    else:
        place[key] = value
    return config
