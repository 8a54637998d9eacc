"""Data that a model's owner has, as arrays by name: .npz, .npy, CSV and Parquet files.

Bounded and without pickles. What the arrays mean is `held_out`'s affair. Parquet needs pyarrow,
which is an extra of its own and never on a device.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from firmware_bundles import arrays
from firmware_bundles.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

TABLE_BYTES_MAX: Final = 1024**3
_COLUMNS_MAX: Final = 65_536
_ARRAY_SUFFIXES: Final = (".npz", ".npy")
_MISSING: Final = frozenset({"", "na", "nan", "null", "none", "n/a"})


def is_table(path: Path) -> bool:
    """Whether a file holds named columns, and not whole arrays."""
    return path.suffix.lower() not in _ARRAY_SUFFIXES


def read(path: Path) -> Arrays:
    """Return the arrays of a file by name, or its columns; text that is no number stays text.

    A .npy file's only array is called as the file. Raises InputError, OSError.
    """
    size = path.stat().st_size
    if size > TABLE_BYTES_MAX:
        raise InputError(f"{path} has {size} bytes; at most {TABLE_BYTES_MAX} are read")
    match path.suffix.lower():
        case ".npz":
            return dict(arrays.load(path))
        case ".npy":
            return {path.stem: _npy(path)}
        case ".csv":
            return _csv(path)
        case ".parquet" | ".pq":
            return _parquet(path)
    raise InputError(f"{path} is no .npz, .npy, .csv or .parquet file")


def _npy(path: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(path, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a damaged file makes numpy raise almost anything
        raise InputError(f"{path} is no .npy file of a plain array: {error!s:.200}") from error
    return found


def _csv(path: Path) -> Arrays:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            names = next(reader, [])
            if len(set(names)) != len(names) or not 0 < len(names) <= _COLUMNS_MAX:
                raise InputError(f"the first line of {path} does not name its columns once each")
            rows = [row for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file in UTF-8: {error}") from error
    wrong = next((at for at, row in enumerate(rows, start=2) if len(row) != len(names)), None)
    if wrong is not None:
        raise InputError(f"line {wrong} of {path} has not {len(names)} fields")
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return {name: _column(list(values)) for name, values in zip(names, columns, strict=True)}


def _column(texts: list[str]) -> NDArray[Any]:
    known = ["nan" if text.strip().lower() in _MISSING else text for text in texts]
    try:
        return np.array(known, dtype=np.float64)
    except ValueError:
        return np.array(texts, dtype=np.str_)


def _parquet(path: Path) -> Arrays:
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise InputError(
            f"{path} is a Parquet file, and pyarrow is not installed",
            hint="Install shoal[parquet], or hand the data over as CSV, .npz or .npy.",
        ) from error
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} is no Parquet file that can be read: {error!s:.200}") from error
    return {name: np.asarray(table.column(name).to_numpy()) for name in table.column_names}
