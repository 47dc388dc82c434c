"""What it takes to bring a Parquet table from its file to splits, first and for all later trials: Markdown."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 100_000
MEGABYTE = 1e6
# What runs in a process of its own: it prints its seconds, its peak memory, the fingerprint.
PREPARE = """
import json, resource, sys, time
from vae_study.data import prepare
from vae_study.config.data import DataConfig
started = time.perf_counter()
config = DataConfig(source="parquet", path=sys.argv[1], label="fraud", scale=sys.argv[2])
data = prepare(config, *sys.argv[3:])
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "peak": peak, "sha256": data.sha256}))
"""


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of the table")
    parser.add_argument("--columns", type=int, default=30, help="columns beside the label")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="type of the columns")
    parser.add_argument("--scale", nargs="*", default=["unit", "quantile"], help="scales to measure, a line each")
    return parser.parse_args()


def batches(schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
    """Skewed numbers, of which some rows come again, and one label in a thousand."""
    random = np.random.default_rng(0)
    for start in range(0, rows, ROWS_PER_GROUP):
        size = min(ROWS_PER_GROUP, rows - start)
        x_DN = random.lognormal(size=(len(schema) - 1, size)).astype(schema.field(0).type.to_pandas_dtype())
        x_DN[:, : size // 100] = x_DN[:, size // 2 : size // 2 + size // 100]
        fraud_N = (random.random(size) < 1e-3).astype(np.int8)
        yield pa.record_batch([*map(pa.array, x_DN), pa.array(fraud_N)], schema=schema)


def make_table(path: Path, rows: int, columns: int, dtype: str) -> None:
    """Write the table, a little at a time."""
    fields = [(f"feature {number}", getattr(pa, dtype)()) for number in range(columns)]
    schema = pa.schema([*fields, ("fraud", pa.int8())])
    with pq.ParquetWriter(path, schema) as writer:
        for batch in batches(schema, rows):
            writer.write_batch(batch)


def measured(folder: Path, path: Path, scale: str, *sha256: str) -> dict[str, Any]:
    """What `prepare` took in a process of its own."""
    command = [sys.executable, "-c", PREPARE, str(path), scale, *sha256]
    environment = {**os.environ, "VAE_STUDY_CACHE": str(folder / "cache")}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(found.stdout)
    return result


def line(folder: Path, path: Path, rows: int, columns: int, scale: str) -> str:
    """A row of the table."""
    first = measured(folder, path, scale)
    later = measured(folder, path, scale, first["sha256"])
    size = rows * columns * np.dtype(np.float32).itemsize
    cells = [
        f"{rows:,}",
        str(columns),
        f"{size / MEGABYTE:,.0f}",
        f"{path.stat().st_size / MEGABYTE:,.0f}",
        scale,
        f"{first['seconds']:.1f}",
        f"{first['peak'] / MEGABYTE:,.0f}",
        f"{first['peak'] / size:.2f}",
        f"{later['seconds']:.2f}",
        f"{later['peak'] / MEGABYTE:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Make a table, prepare it as a study's driver does, then as a trial on the same node does."""
    asked = arguments()
    head = (
        f"{date.today()}, {os.cpu_count()} CPUs, pyarrow {pa.__version__}, numpy {np.__version__}\n\n"
        "| rows | columns | float32, MB | file, MB | scale | seconds | peak, MB | peak / float32 "
        "| seconds of a later trial | its peak, MB |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_table(folder / "table.parquet", asked.rows, asked.columns, asked.dtype)
        lines = [line(folder, folder / "table.parquet", asked.rows, asked.columns, scale) for scale in asked.scale]
    sys.stdout.write(head + "".join(f"{one}\n" for one in lines))


if __name__ == "__main__":
    main()
