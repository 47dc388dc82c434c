"""Passwords, tokens and keys, kept out of all that is printed, logged, stored or shown."""

import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"
# Characters. Shorter ones may be words of any text; in addresses and after a "password=" they are hidden all the same.
SHORTEST = 8

_NAME = (
    r"(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|secret[_-]?key|signature|(?<![a-z])sig)"
)
# A shell's PWD is no password but the folder that it is in.
_SECRET_VARIABLE = re.compile(rf"(?!(?:old)?pwd$).*{_NAME}", re.IGNORECASE)
_WHOLE_ADDRESS = re.compile(r"://[^/:@]*:(.*)@", re.DOTALL)
# Of what looks like several passwords, all is one: databases take anything but an @ for a part of it.
_IN_ADDRESS = re.compile(r"(://[^\s/:@]*:)\S*@")
_QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
_AFTER_NAME = re.compile(rf"({_NAME}=)(?:{_QUOTED}|[^\s&#'\",;)\]}}])+", re.IGNORECASE)
_IN_MAPPING = re.compile(rf"([\"'][\w.-]*{_NAME}[\"']\s*:\s*)(?:{_QUOTED})", re.IGNORECASE)
_IN_HEADER = re.compile(r"(authorization\W+(?:basic|bearer)\s+)[^\s'\",]+", re.IGNORECASE)


def redacted(text: str) -> str:
    """A text without its secrets: those of addresses, after names such as password=, and the environment's own."""
    return _redacted(text, _known())


def redacted_values(content: Any) -> Any:
    """JSON values with every text in them redacted; names stay."""
    return _redacted_values(content, _known())


def holds_secret(address: str) -> bool:
    """Whether an address that is going to be kept has a password, a token or a key in it."""
    return bool(_WHOLE_ADDRESS.search(address)) or _by_pattern(address) != address


def guard_process() -> None:
    """Have this process log and show no secret: no logger, of a library's either, and no error that ends a thread."""
    logging.setLogRecordFactory(_guarded_record)
    sys.excepthook = _show
    threading.excepthook = lambda told: _show(told.exc_type, told.exc_value, told.exc_traceback)


def _redacted(text: str, known: Iterable[str]) -> str:
    for secret in known:
        text = text.replace(secret, HIDDEN)
    return _by_pattern(text)


def _by_pattern(text: str) -> str:
    text = _IN_ADDRESS.sub(rf"\1{HIDDEN}@", text) if "://" in text else text
    for pattern in (_AFTER_NAME, _IN_MAPPING, _IN_HEADER):
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


def _redacted_values(content: Any, known: list[str]) -> Any:
    match content:
        case str():
            return _redacted(content, known)
        case Mapping():
            return {name: _redacted_values(value, known) for name, value in content.items()}
        case list() | tuple():
            return [_redacted_values(value, known) for value in content]
    return content


def _known() -> list[str]:
    """What this process was started with, longest first, so that no part of a secret stays."""
    named = [value for name, value in os.environ.items() if _SECRET_VARIABLE.fullmatch(name)]
    given = [text for text in (*os.environ.values(), *sys.argv) if "://" in text and "@" in text]
    found = {form for secret in (*named, *_passwords(given)) for form in _forms(secret)}
    return sorted((form for form in found if len(form) >= SHORTEST), key=len, reverse=True)


def _passwords(addresses: Iterable[str]) -> Iterator[str]:
    for address in addresses:
        found = _WHOLE_ADDRESS.search(address)
        if found:
            # Libraries that end it at the first @ take the rest for a host, and name it in their errors.
            yield from (found[1], *found[1].split("@"))


def _forms(secret: str) -> Iterator[str]:
    """A secret as it is, and as addresses and JSON have it."""
    for form in (secret, unquote(secret)):
        yield from (form, quote(form, safe=""), json.dumps(form)[1:-1])


_make_record = logging.getLogRecordFactory()
Kind = type[BaseException]


def _guarded_record(*args: Any, **named: Any) -> logging.LogRecord:
    record = _make_record(*args, **named)
    try:
        message = record.getMessage()
    except (TypeError, ValueError):
        message = f"{record.msg} {record.args}"
    if (shown := redacted(message)) != message:
        record.msg, record.args = shown, None
    if record.exc_info and record.exc_info[0] is not None:
        # A formatter makes none where there is one.
        record.exc_text = _traceback(*record.exc_info)
    return record


def _show(kind: Kind, error: BaseException | None, trace: TracebackType | None) -> None:
    if not issubclass(kind, SystemExit):
        sys.stderr.write(f"{_traceback(kind, error, trace)}\n")


def _traceback(kind: Kind | None, error: BaseException | None, trace: TracebackType | None) -> str:
    return redacted("".join(traceback.format_exception(kind, error, trace))).rstrip()
