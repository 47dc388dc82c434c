"""The size and the shape of the package, as numbers; `make check` holds the limits.

    python .ci/structure.py            prints the numbers, and every place beyond a limit
    python .ci/structure.py --list     prints each file with its lines and importers, too

Whoever adds a capability that needs more room raises a limit in the same commit and says there what a user gains.
Only the source text is read: nothing is imported or run.
"""

import ast
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "pipeline"
PACKAGE = "vae_study"

# Lower these with each simplification. The aim is 23,000 lines. Of the lines, 2,300 read data as people have it,
# 300 give p-values, flags and explanations, 400 compare detectors, 200 look after a local Ray that dies, 500 serve
# models, 500 follow a study live and within a budget, 350 show it in a notebook and describe study files to editors,
# 260 train convolutional nets twice as fast, 200 detect without a model, 300 refuse what is too large to be meant,
# 730 train recurrent and convolutional networks on sequences with missing values, 900 cut time series of any size into
# windows, score them and measure what is found of their ranges, 430 give a whole frontier from one trial and train
# its best models again, 400 export, import and delete a study, 150 take half of the memory traffic of Adam on a GPU,
# 160 fit and compute scores there, so that it does not stand still meanwhile, 300 write a study into a manifest for
# Kubernetes, 120 choose the GPUs of a shared machine, 170 say what a study costs on a cluster, 560 ask for the labels
# that are worth most, choose by them, and say what to expect without labels, 700 show the series of test with their
# scores, and tell the stretches that a user looks at first, 350 mask missing values and bring irregular times to
# regular steps, 1,130 say whether a code is disentangled, with known factors of variation and without,
# 290 train models whose codes are independent of each other, by total correlation or covariance, 290 take whole series
# of different length as examples, and say what each row adds to the score of its series, 260 score windows of a table
# of any size in bounded memory, 110 bound what a study of 1,000 workers and 100,000 trials costs its driver, and say
# what a study on a full Ray waits for, 60 leave out training rows that may be anomalies, 260 learn labels of which
# they are told some, 220 say how sharp images are, and make them sharper, 290 keep images of 8 bits as bytes, which may
# be more than memory holds, 700 read MVTec's folders and masks, and say and draw which pixels of images are anomalous,
# 200 learn what makes images similar, by a discriminator, 305 train residual networks on large images, 270 give each
# place of an image a code of its own, and codes of two sizes, 65 find another value in a column that has one in train.
MOST_FILES = 204
MOST_LINES = 43_200
MOST_LINES_PER_FILE = 400
MOST_FILES_PER_FOLDER = 20
# A module with one importer in its own folder has to be at least this long, or it belongs into its importer.
LEAST_LINES_WITH_ONE_IMPORTER = 80


@dataclass(frozen=True, kw_only=True)
class Module:
    """One file of the package.

    Attributes:
        lines: Of the file, blank lines and comments included.
        functions: Lines of each function and method, without its docstring.
        imports: The modules of the package that it imports anywhere: at its top, in a function, for types only.
    """

    name: str
    path: Path
    lines: int
    functions: tuple[int, ...]
    imports: frozenset[str]


def modules() -> dict[str, Module]:
    """Every module of the package by its dotted name."""
    names = {_name(path): path for path in sorted(SOURCE.joinpath(PACKAGE).rglob("*.py"))}
    return {name: _module(name, path, names) for name, path in names.items()}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def _module(name: str, path: Path, names: Mapping[str, Path]) -> Module:
    text = path.read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(text)))
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return Module(
        name=name,
        path=path,
        lines=len(text.splitlines()),
        functions=tuple(_function_lines(node) for node in functions),
        imports=frozenset(_imports(nodes, names)) - {name},
    )


def _function_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def _imports(nodes: Sequence[ast.AST], names: Mapping[str, Path]) -> Iterator[str]:
    """A name that is imported from a package counts as that package's module where it is one."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module in names:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in names else str(node.module)


def importers(found: Mapping[str, Module]) -> dict[str, list[str]]:
    """Who imports each module."""
    return {name: [other.name for other in found.values() if name in other.imports] for name in found}


def rooms_for_one_guest(found: Mapping[str, Module]) -> list[str]:
    """Short modules with a single importer, which is in the same folder."""
    who = importers(found)
    return [
        f"{module.path.relative_to(SOURCE)}: {module.lines} lines, imported by {who[name][0]} only"
        for name, module in found.items()
        if len(who[name]) == 1
        and module.lines < LEAST_LINES_WITH_ONE_IMPORTER
        and found[who[name][0]].path.parent == module.path.parent
    ]


def circles(found: Mapping[str, Module]) -> list[str]:
    """Groups of modules that import each other, by whatever way round (strongly connected components, Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(found[name].imports):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            place = stack.index(name)
            groups.append(stack[place:])
            del stack[place:]

    for name in found:
        if name not in index:
            visit(name)
    return [" <-> ".join(sorted(group)) for group in groups if len(group) > 1]


def spread(values: Sequence[int]) -> str:
    """Median, 90th percentile and maximum."""
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return f"median {statistics.median(values):.0f}, p90 {deciles[-1]:.0f}, max {max(values)}"


def main() -> int:
    """Print the numbers; returns 1 where a limit is broken."""
    sys.setrecursionlimit(10_000)
    found = modules()
    lines = [module.lines for module in found.values()]
    functions = [size for module in found.values() for size in module.functions]
    folders = Counter(module.path.parent for module in found.values())
    guests, circle = rooms_for_one_guest(found), circles(found)
    if "--list" in sys.argv:
        for name, who in importers(found).items():
            print(f"{found[name].lines:5} {found[name].path.relative_to(SOURCE)}  {len(who)} importers")
    print(f"files                         {len(found)} (at most {MOST_FILES})")
    print(f"lines                         {sum(lines)} (at most {MOST_LINES})")
    print(f"lines of a file               {spread(lines)} (at most {MOST_LINES_PER_FILE})")
    print(f"lines of a function           {spread(functions)}, {len(functions)} functions")
    print(f"files of a folder             mean {len(found) / len(folders):.1f}, max {max(folders.values())}")
    print(f"short, with one importer      {len(guests)} (at most 0)")
    print(f"circles of imports            {len(circle)} (at most 0)")
    broken = [f"short, with one importer: {text}" for text in guests] + [f"circle: {text}" for text in circle]
    broken += [
        f"longer than {MOST_LINES_PER_FILE} lines: {module.path.relative_to(SOURCE)}"
        for module in found.values()
        if module.lines > MOST_LINES_PER_FILE
    ]
    broken += [
        f"more than {MOST_FILES_PER_FOLDER} files: {folder.relative_to(SOURCE)}"
        for folder, files in folders.items()
        if files > MOST_FILES_PER_FOLDER
    ]
    if len(found) > MOST_FILES or sum(lines) > MOST_LINES:
        broken.append("the package is larger than its limits")
    for text in broken:
        print(text)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
