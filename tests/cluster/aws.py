"""AWS without AWS, on the network of the machines: an account with what docs/cluster.md makes in it."""

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import EndpointConnectionError

from tests.cluster.hosts import GATEWAY
from tests.cluster.yamls import FILLED
from tests.tracking.servers import free_port
from tests.waiting import until

BUCKET, REGION = FILLED["BUCKET"], FILLED["REGION"]
TRUST = {"Version": "2012-10-17", "Statement": []}
IMAGE = "ami-12c6146b"


@dataclass
class Account:
    """An account, and the keys of one who may do all in it.

    Attributes:
        environment: What finds it, in the words of AWS' own tools.
        secret: What must be in no log.
    """

    environment: dict[str, str]
    secret: str

    def client(self, service: str) -> Any:
        """A client of one of its services."""
        of = self.environment
        keys = {"aws_access_key_id": of["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": self.secret}
        return boto3.client(service, endpoint_url=of["AWS_ENDPOINT_URL"], region_name=REGION, **keys)

    def under(self, prefix: str) -> list[str]:
        """The keys of the bucket with a prefix."""
        found = self.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [one["Key"] for one in found]

    def furnish(self, public_key: bytes) -> None:
        """Steps 2 to 5 of docs/cluster.md."""
        ec2, iam = self.client("ec2"), self.client("iam")
        ec2.import_key_pair(KeyName=FILLED["KEY"], PublicKeyMaterial=public_key)
        image = {"Type": "String", "DataType": "aws:ec2:image", "Value": IMAGE}
        self.client("ssm").put_parameter(Name="/vae-study/image", **image)
        for name in (FILLED["HEAD-PROFILE"], FILLED["WORKER-PROFILE"]):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))
            iam.create_instance_profile(InstanceProfileName=name)
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        group = ec2.create_security_group(GroupName="vae-study", Description="vae-study")["GroupId"]
        ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": f"{GATEWAY}/32"}]}
        inside = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[inside, ssh])


@contextmanager
def account(folder: Path) -> Iterator[Account]:
    """An account with an empty bucket, to be reached from all machines; its server's log is in the folder."""
    port, secret = free_port(), secrets.token_hex(16)
    environment = {"AWS_ENDPOINT_URL": f"http://{GATEWAY}:{port}", "AWS_DEFAULT_REGION": REGION}
    environment |= {"AWS_ACCESS_KEY_ID": "of-the-tests", "AWS_SECRET_ACCESS_KEY": secret}
    command = [sys.executable, "-m", "tests.cluster.aws_server", "-H", GATEWAY, "-p", str(port)]
    with (folder / "aws.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        made = Account(environment, secret)
        until(lambda: _has_bucket(made.client("s3")), "AWS answers")
        yield made
    finally:
        server.kill()
        server.wait()


def _has_bucket(s3: Any) -> bool:
    try:
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    except EndpointConnectionError:
        return False
    return True
