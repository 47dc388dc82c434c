"""The plotting library, packed to be inlined, and the hashes by which a page allows it to run and nothing else.

Packed it takes two megabytes of the page instead of five. The page unpacks it into a script element, which the
browser runs since its policy names the text's hash (Content Security Policy Level 3, section 6.7.3).
"""

import base64
import gzip
import hashlib
from functools import cache
from importlib.resources import files


@cache
def packed_library() -> str:
    """plotly.js, gzip in base64; without a time, so that it is the same each time."""
    return base64.b64encode(gzip.compress(_source(), compresslevel=9, mtime=0)).decode("ascii")


@cache
def library_hash() -> str:
    """As a page's policy names the library."""
    return script_hash(_source())


def script_hash(script: bytes) -> str:
    """As a page's policy names an inline script: it runs this text only."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode('ascii')}'"


def _source() -> bytes:
    """Of the installed package, without importing it: the figures are made without its Python."""
    return files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
