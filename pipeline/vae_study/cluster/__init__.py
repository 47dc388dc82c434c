"""Studies as jobs of a Ray cluster, and the scripts that its nodes run."""
