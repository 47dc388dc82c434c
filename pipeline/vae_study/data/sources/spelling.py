"""Values as the data section says that they are written: marks for missing values; decimals, thousands and signs."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vae_study.config.data import NEGATIVE_BRACKETS, NEGATIVE_END, DataConfig
from vae_study.data.sources.source import Rows, is_number, is_text

# What pandas, numpy, R and databases write for a missing number. In a column of words, NA may be Namibia.
MISSING_WORDS = ("", "NA", "NaN", "nan", "NULL", "null")
# Spaces that are written between thousands.
_SPACES = " \u00a0\u202f"
_THOUSANDS = re.compile(r"\d{1,3}([,.' \u00a0\u202f])\d{3}(\1\d{3})*([.,]\d+)?")
_DECIMAL_COMMA = re.compile(r"\d+,\d+")
_UNIT = r"[%\u2030$\u00a2\u00a3\u00a5\u20a9\u20ac\u20b9\u20ba\u20bd\u20bf]|USD|EUR|GBP|CHF|JPY|CNY|INR"
_WITH_UNITS = re.compile(rf"[-+]?\s*({_UNIT})?\s*[-+]?((?:\d|\.\d).*?)\s*({_UNIT})?")
# What these signs make of a number, as the exponent of 10.
_FRACTIONS = {"%": -2, "\u2030": -3}


def respelled(rows: Rows, names: Collection[str], config: DataConfig) -> Rows:
    """The same rows; in the named columns, missing values are nulls; `numbers_as` has what the config declares.

    Args:
        rows: A table.
        names: The columns that are features.
        config: Its missing_values, decimal, thousands and signs; decimal and thousands may also be found in the file.
    """
    declared = {"decimal": config.decimal, "thousands": config.thousands, "signs": config.signs}
    rows = replace(rows, numbers_as={**rows.numbers_as, **{key: value for key, value in declared.items() if value}})
    if not config.missing_values:
        return rows

    def batches(wanted: Sequence[str]) -> Iterator[Any]:
        for batch in rows.batches(wanted):
            columns = [
                _without(column, config.missing_values) if name in names else column
                for name, column in zip(wanted, batch.columns, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, list(wanted))

    return replace(rows, batches=batches)


def _without(column: Any, missing_values: Sequence[Any]) -> Any:
    if not is_text(column.type):
        numbers = [float(value) for value in missing_values if isinstance(value, int | float)]
        if not numbers or not is_number(column.type) or pa.types.is_null(column.type):
            return column
        is_missing = pc.is_in(column.cast(pa.float64(), safe=False), value_set=pa.array(numbers, pa.float64()))
        return pc.if_else(is_missing, pa.scalar(None, column.type), column)
    text = column.cast(pa.string())
    marks = pa.array([*map(str, missing_values)], pa.string())
    return pc.if_else(pc.is_in(pc.utf8_trim_whitespace(text), value_set=marks), pa.scalar(None, pa.string()), text)


def plain_numbers(column: Any, numbers_as: Mapping[str, Any]) -> Any:
    """A column of text in which numbers are written plainly: $1.234,50 as 1234.50, 12% as 12e-2, (5) as -5.

    Args:
        column: A pyarrow array of text. What is no number stays as it is.
        numbers_as: The settings `decimal`, `thousands` and `signs`, where they are not at their defaults.
    """
    if not numbers_as:
        return column
    text = column.cast(pa.string())
    bare = _without_signs(pc.utf8_trim_whitespace(text), numbers_as.get("signs", ()))
    decimal, thousands = numbers_as.get("decimal", "."), numbers_as.get("thousands")
    point = re.escape(decimal)
    groups = f"[{_SPACES}]" if thousands == " " else re.escape(thousands) if thousands else None
    whole = rf"([0-9]{{1,3}}({groups}[0-9]{{3}})+|[0-9]+)" if groups else "[0-9]+"
    is_number_text = pc.match_substring_regex(
        bare, rf"^[-+]?({whole}({point}[0-9]*)?|{point}[0-9]+)([eE][-+]?[0-9]+)?$"
    )
    plain = pc.replace_substring_regex(bare, groups, "") if groups else bare
    return pc.if_else(is_number_text, pc.replace_substring(plain, decimal, "."), text)


def _without_signs(text: Any, signs: Collection[str]) -> Any:
    """Numbers without these signs; what is no number may become anything."""
    if NEGATIVE_BRACKETS in signs:
        text = pc.replace_substring_regex(text, r"^\(\s*([^-+()][^()]*)\)$", r"-\1")
    if NEGATIVE_END in signs:
        text = pc.replace_substring_regex(text, r"^([^-+\s].*)-$", r"-\1")
    for sign in signs:
        if sign in (NEGATIVE_BRACKETS, NEGATIVE_END):
            continue
        escaped = re.escape(sign)
        if sign in _FRACTIONS:
            text = pc.replace_substring_regex(text, rf"^([^eE]*[0-9])\s*{escaped}\s*$", rf"\1e{_FRACTIONS[sign]}")
        else:
            text = pc.replace_substring_regex(text, rf"^([-+]?)\s*{escaped}\s*", r"\1")
            text = pc.replace_substring_regex(text, rf"\s*{escaped}\s*$", "")
    return pc.utf8_trim_whitespace(text)


_REMEDIES = {
    "thousands": "data.thousands names the separator of thousands",
    "decimal": "data.decimal: ',' reads decimal commas",
}


def number_writing(value: str) -> tuple[str, ...] | None:
    """Which of _REMEDIES and of data.signs a number in a text needs, none if it is plain; None if it is no number."""
    text = value.strip()
    if not text or is_missing_word(text):
        return None
    if reads_as_number(text):
        return ()
    found = []
    if text.startswith("(") and text.endswith(")"):
        found, text = [NEGATIVE_BRACKETS], text[1:-1].strip()
    elif text.endswith("-"):
        found, text = [NEGATIVE_END], text[:-1].strip()
    parts = _WITH_UNITS.fullmatch(text)
    if parts is None:
        return None
    found += [unit for unit in (parts[1], parts[3]) if unit]
    thousands = _THOUSANDS.fullmatch(parts[2])
    if thousands:
        return (*found, "thousands", *(["decimal"] if (thousands[3] or "").startswith(",") else []))
    if _DECIMAL_COMMA.fullmatch(parts[2]):
        return (*found, "decimal")
    return tuple(found) if reads_as_number(parts[2]) else None


def number_remedies(values: Iterable[str]) -> list[str]:
    """The settings that make plain numbers of texts, as parts of a message."""
    found = dict.fromkeys(one for value in values for one in number_writing(value) or ())
    remedies = [remedy for key, remedy in _REMEDIES.items() if key in found]
    signs = [one for one in found if one not in _REMEDIES]
    return [*remedies, f"data.signs: [{', '.join(map(repr, signs))}] reads them"] if signs else remedies


def reads_as_number(value: str) -> bool:
    """Whether a text reads as a number."""
    if value is None or "_" in value or is_missing_word(value):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def is_missing_word(value: str | None) -> bool:
    """Whether a text stands for a missing number."""
    return value is None or value.strip() in MISSING_WORDS
