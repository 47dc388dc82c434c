"""Which model to use, and with which score. Validation decides; test rows take no part in any choice."""
