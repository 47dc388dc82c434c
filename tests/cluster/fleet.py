"""Machines behind the instances of an account: booted when one is started, without power once it is stopped."""

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.aws import Account
from tests.cluster.hosts import Host

SECONDS_BETWEEN = 0.5


class Fleet:
    """The machines."""

    def __init__(self, folder: Path, account: Account, say: Callable[[str], None]):
        """No machines yet.

        Args:
            folder: With the key that they let in.
            account: Whose instances they are.
            say: Called with what befalls an instance.
        """
        self.folder, self.say, self.over = folder, say, threading.Event()
        self._ec2, self._hosts, self._booted, self._failure = account.client("ec2"), dict[str, Host](), 0, ""

    def instances(self) -> dict[str, dict[str, Any]]:
        """What EC2 tells of each instance, terminated ones too, by its id."""
        found = self._ec2.describe_instances()["Reservations"]
        return {one["InstanceId"]: one for reservation in found for one in reservation["Instances"]}

    def hosts(self, kind: str) -> dict[str, Host]:
        """The machines of the nodes of a kind, head or worker, by their instances' ids."""
        assert not self._failure, self._failure
        instances = self.instances()
        tag = {"Key": "ray-node-type", "Value": kind}
        return {key: host for key, host in self._hosts.copy().items() if tag in instances[key]["Tags"]}

    def terminate(self, instance: str) -> None:
        """As EC2 does with a spot instance when it has no more to spare, or a person with one's own."""
        self._ec2.terminate_instances(InstanceIds=[instance])

    def follow(self) -> None:
        """Until it is over, do with the machines as EC2 does with the instances."""
        try:
            while not self.over.wait(SECONDS_BETWEEN):
                self._follow_once()
        except Exception:
            self._failure = traceback.format_exc()
        finally:
            for host in self._hosts.values():
                host.crash()

    def _follow_once(self) -> None:
        instances = self.instances()
        running = {key for key, one in instances.items() if one["State"]["Name"] == "running"}
        for key in self._hosts.keys() - running:
            self.say(f"EC2: {key} is {instances[key]['State']['Name']}")
            self._hosts.pop(key).crash()
        for key in running - self._hosts.keys():
            self._boot(key, instances[key])

    def _boot(self, key: str, instance: dict[str, Any]) -> None:
        self._booted += 1
        host = Host(self.folder, self._booted, instance["PrivateIpAddress"], instance["PublicIpAddress"])
        # Before it is up, since it is to be crashed in any case.
        self._hosts[key] = host
        host.boot()
        market = instance.get("InstanceLifecycle", "on demand")
        self.say(f"EC2: {key} is running, {instance['InstanceType']}, {market}, at {host.address}")


@contextmanager
def following(fleet: Fleet) -> Iterator[None]:
    """Have the machines follow the instances meanwhile; without power afterwards."""
    thread = threading.Thread(target=fleet.follow)
    thread.start()
    try:
        yield
    finally:
        fleet.over.set()
        thread.join()
