"""What a test does when the machine lacks a tool: it is never left out in silence."""

import os
from typing import NoReturn

import pytest


def lacks(tool: str) -> NoReturn:
    """End the test: skipped, with the tool's name in the summary; failed in CI, where .ci/run installs the tools."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{tool}, and CI must not leave this test out")
    pytest.skip(tool)
