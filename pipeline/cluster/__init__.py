"""Studies as jobs of a Ray cluster, from a machine that is not part of it; and the scripts that its nodes run."""

from pipeline.cluster.jobs import Job, JobQueue, jobs_text
from pipeline.cluster.portable import require_portable

__all__ = ["Job", "JobQueue", "jobs_text", "require_portable"]
