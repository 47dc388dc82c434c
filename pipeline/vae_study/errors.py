"""The exceptions of the package, and how passwords, tokens and keys are kept out of messages, logs and records."""

import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

# Characters. Nobody reads further.
LONGEST_MESSAGE = 1800


class _Message(Exception):
    """An error whose message is shown to a person: secrets in it are replaced, and it is not longer than a page."""

    def __init__(self, message: str):
        super().__init__(bounded(redacted(message)))


class UserError(_Message):
    """The user's input is wrong. The message says where, what was given and what was expected (exit code 2)."""


class TooManyValues(UserError):
    """A column of text has too many distinct values for categories; `column` is its name."""

    def __init__(self, message: str, column: str):
        super().__init__(message)
        self.column = column


class StudyError(_Message):
    """The study failed or was interrupted (exit code 1)."""


class TrialsFailed(StudyError):
    """The study failed because its trials did; its record says why.

    Attributes:
        study: Its name.
    """

    def __init__(self, message: str, study: str):
        super().__init__(message)
        self.study = study


class Diverged(Exception):
    """The loss of a trial is not finite. The trial ends and keeps its last finite metrics."""


# Characters of a library's error in a message: SQLAlchemy quotes whole queries.
LONGEST_REASON = 300


@contextmanager
def opening(what: str, expected: str = "") -> Iterator[None]:
    """Turn whatever a library raises while it opens something into a UserError. The package's own errors pass.

    Args:
        what: What is opened, as the user gave it, such as "--tracking-uri sqlite:///runs.db".
        expected: What would be right, such as "expected a database that SQLAlchemy can open".
    """
    try:
        yield
    except _Message:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"{what}: cannot be opened: {lines[0][:LONGEST_REASON]}"
        raise UserError(f"{reason}; {expected}" if expected else reason) from error


def bounded(text: str) -> str:
    """Text of about LONGEST_MESSAGE characters at most: the beginnings of as many lines as there is room for."""
    if len(text) <= LONGEST_MESSAGE:
        return text
    lines, most = text.splitlines(), LONGEST_MESSAGE if "\n" not in text else LONGEST_MESSAGE // 3
    lines = [line if len(line) <= most else f"{line[: most - 3]}..." for line in lines]
    ends = accumulate(len(line) + 1 for line in lines)
    shown = sum(end <= LONGEST_MESSAGE + 1 for end in ends)
    left = len(lines) - shown
    return "\n".join([*lines[:shown], *([f"... and {left:,} lines more"] if left else [])])


HIDDEN = "***"
# Characters. A shorter secret may be an ordinary word: it is hidden in addresses and after names like password= only.
SHORTEST = 8

_NAME = (
    r"(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|secret[_-]?key|signature|(?<![a-z])sig)"
)
# A shell's PWD is its working folder.
_SECRET_VARIABLE = re.compile(rf"(?!(?:old)?pwd$).*{_NAME}", re.IGNORECASE)
_WHOLE_ADDRESS = re.compile(r"://[^/:@]*:(.*)@", re.DOTALL)
# A password may contain anything but an @, so the match is greedy.
_IN_ADDRESS = re.compile(r"(://[^\s/:@]*:)\S*@")
_QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
_AFTER_NAME = re.compile(rf"({_NAME}=)(?:{_QUOTED}|[^\s&#'\",;)\]}}])+", re.IGNORECASE)
_IN_MAPPING = re.compile(rf"([\"'][\w.-]*{_NAME}[\"']\s*:\s*)(?:{_QUOTED})", re.IGNORECASE)
_IN_HEADER = re.compile(r"(authorization\W+(?:basic|bearer)\s+)[^\s'\",]+", re.IGNORECASE)


def redacted(text: str) -> str:
    """The text with its secrets replaced: in addresses, after names like password=, and values of the environment."""
    return _redacted(text, _known())


def redacted_values(content: Any) -> Any:
    """JSON values with every text in them redacted; keys stay."""
    return _redacted_values(content, _known())


def holds_secret(address: str) -> bool:
    """Whether an address has a password, a token or a key in it."""
    return bool(_WHOLE_ADDRESS.search(address)) or _by_pattern(address) != address


def guard_process() -> None:
    """Redact every log record (also of libraries) and every uncaught exception of this process."""
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
    """The secrets that this process was started with, longest first, so that no part of a secret stays."""
    named = [value for name, value in os.environ.items() if _SECRET_VARIABLE.fullmatch(name)]
    given = [text for text in (*os.environ.values(), *sys.argv) if "://" in text and "@" in text]
    found = {form for secret in (*named, *_passwords(given)) for form in _forms(secret)}
    return sorted((form for form in found if len(form) >= SHORTEST), key=len, reverse=True)


def _passwords(addresses: Iterable[str]) -> Iterator[str]:
    for address in addresses:
        found = _WHOLE_ADDRESS.search(address)
        if found:
            # Some libraries end a password at the first @ and name the rest as a host in their errors.
            yield from (found[1], *found[1].split("@"))


def _forms(secret: str) -> Iterator[str]:
    """A secret as it is, quoted for a URL, and escaped for JSON."""
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
        # A formatter uses exc_text if it is set.
        record.exc_text = _traceback(*record.exc_info)
    return record


def _show(kind: Kind, error: BaseException | None, trace: TracebackType | None) -> None:
    if not issubclass(kind, SystemExit):
        sys.stderr.write(f"{_traceback(kind, error, trace)}\n")


def _traceback(kind: Kind | None, error: BaseException | None, trace: TracebackType | None) -> str:
    return redacted("".join(traceback.format_exception(kind, error, trace))).rstrip()
