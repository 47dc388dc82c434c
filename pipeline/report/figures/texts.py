"""Names as there is room for them in a picture."""

from pipeline.report.names import metric_name, parameter_name


def axis_name(name: str) -> str:
    """A metric's or a parameter's."""
    return metric_name(name) if "/" in name else parameter_name(name)


def short(text: str, longest: int = 18) -> str:
    """Text that leaves room for others."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def wrapped(text: str, width: int = 20) -> str:
    """Text in lines, broken after a dot, an underscore or a space."""
    lines = [""]
    for part in text.replace(".", ".\0").replace("_", "_\0").replace(" ", " \0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)
