"""AWS in one process, to be run as a module: moto's server, but for what it leaves out of spot instances."""

from moto.ec2.models.instances import Instance
from moto.server import main


def _spot_request(instance: Instance) -> str | None:
    return instance.id.replace("i-", "sir-") if instance.lifecycle == "spot" else None


if __name__ == "__main__":
    # By its request Ray knows a spot worker, and ends it. Else it would stop it like the head, which EC2 refuses.
    Instance.spot_instance_request_id = property(_spot_request)
    main()
