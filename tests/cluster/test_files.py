"""The cluster files that we ship: their form, what AWS makes of ours, and that slips are refused."""

import boto3
import pytest
from click import ClickException
from jsonschema import ValidationError
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.yamls import AWS, GCP, LOCAL, ROOT, blanks, changed, filled

WORLD = "0.0.0.0/0"
REFUSALS = (ValidationError, ValueError, KeyError, ClickException, AssertionError)


@pytest.fixture(scope="module")
def aws(bucket, tmp_path_factory):
    """EC2 without AWS, and a HOME without keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("aws")))
        yield boto3.resource("ec2", region_name="us-west-2")


def bootstrapped(config):
    """What `ray up` would start, but for the sizes of the machines, which take AWS seconds to list."""
    return bootstrap_aws(prepare_config(config))


def open_to_the_world(ec2, config):
    """The ports of the cluster's security group that anybody reaches."""
    [group] = {id for kind in config["available_node_types"].values() for id in kind["node_config"]["SecurityGroupIds"]}
    rules = ec2.SecurityGroup(group).ip_permissions
    return {rule.get("FromPort") for rule in rules if any(ip["CidrIp"] == WORLD for ip in rule["IpRanges"])}


@pytest.mark.parametrize("path", [AWS, LOCAL, GCP], ids=lambda path: path.name)
def test_every_shipped_file_has_the_form_that_ray_reads_and_mounts_files_that_are_there(path):
    config = prepare_config(filled(path))
    validate_config(config)
    for source in config["file_mounts"].values():
        assert source.startswith("~/") or (ROOT / source).exists()
    for command in [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]:
        assert "&&" not in command.partition("ulimit -n 65536")[2]
        for script in [word for word in command.split() if word.endswith(".sh")]:
            assert (ROOT / script.removeprefix("~/vae-study/project/")).is_file()


def test_on_aws_a_person_fills_in_region_key_bucket_and_profiles_and_nothing_else():
    assert blanks(AWS) == {"REGION", "KEY", "BUCKET", "HEAD-PROFILE", "WORKER-PROFILE"}


def test_aws_gives_the_workers_a_gpu_by_spot_and_a_profile_and_the_head_no_trials(aws):
    group = ("provider", "security_group", "GroupName")
    config = _bootstrap_config(changed(filled(AWS), *group, "made-by-ray"), no_config_cache=True)
    head, gpu = (config["available_node_types"][kind] for kind in ("head", "gpu"))
    assert head["resources"]["CPU"] == 0
    assert (gpu["resources"]["CPU"], gpu["resources"]["GPU"]) == (4, 1)
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["node_config"]["IamInstanceProfile"] == {"Name": "vae-study-head"}
    assert gpu["node_config"]["IamInstanceProfile"] == {"Name": "vae-study-worker"}
    assert head["node_config"]["ImageId"] == gpu["node_config"]["ImageId"] == "resolve:ssm:/vae-study/image"
    assert open_to_the_world(aws, config) == {22}


def test_a_security_group_that_was_made_beforehand_stays_closed_to_the_world(aws):
    [vpc] = aws.vpcs.filter(Filters=[{"Name": "isDefault", "Values": ["true"]}])
    group = aws.create_security_group(GroupName="vae-study", Description="vae-study", VpcId=vpc.id)
    mine = [{"CidrIp": "203.0.113.7/32"}]
    group.authorize_ingress(
        IpPermissions=[
            {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group.id}]},
            {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": mine},
        ]
    )
    config = bootstrapped(filled(AWS))
    assert config["available_node_types"]["gpu"]["node_config"]["SecurityGroupIds"] == [group.id]
    assert open_to_the_world(aws, config) == set()


BROKEN = {
    "a word that Ray does not know": (AWS, ("max_worker", 4)),
    "a head of a type that there is not": (AWS, ("head_node_type", "heed")),
    "more workers at least than at most": (AWS, ("available_node_types", "gpu", "min_workers", 5)),
    "a node without an instance": (AWS, ("available_node_types", "gpu", "node_config", None)),
    "a cap in words": (AWS, ("max_workers", "four")),
    "machines without a head": (LOCAL, ("provider", "head_ip", None)),
    "no provider": (GCP, ("provider", "type", None)),
}


@pytest.mark.parametrize(("path", "steps"), BROKEN.values(), ids=BROKEN)
def test_a_slip_is_refused_before_anything_is_started(path, steps):
    with pytest.raises(REFUSALS):
        validate_config(prepare_config(changed(filled(path), *steps)))


BROKEN_ON_AWS = {
    "nodes without the key": ("available_node_types", "gpu", "node_config", "KeyName", None),
    "a zone of another region": ("provider", "availability_zone", "eu-north-1a"),
}


@pytest.mark.parametrize("steps", BROKEN_ON_AWS.values(), ids=BROKEN_ON_AWS)
def test_a_slip_that_only_aws_can_see_is_refused_before_anything_is_started(aws, steps):
    with pytest.raises(REFUSALS):
        bootstrapped(changed(filled(AWS), *steps))
    assert not list(aws.instances.all())
