"""Arrays that a model's owner hands over as .npz files: real values, by tensor name, rows first.

Checked against the model's tensors, so that what goes into a bundle fits it. No pickles are read.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Final

import numpy as np

from firmware_bundles import limits
from firmware_bundles.errors import InputError
from firmware_bundles.golden import RealArray

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from firmware_bundles.manifest import Tensor

    Reals = NDArray[np.float32]

LABEL_ARRAY: Final = "label"
_INFLATED_BYTES_MAX: Final = 4 * limits.FILE_BYTES_MAX


def load(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a .npz file. Raises InputError, OSError."""
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            file.seek(0)
            if size <= _INFLATED_BYTES_MAX:
                with np.load(file, allow_pickle=False) as arrays:
                    return {name: arrays[name] for name in arrays.files}
        except Exception as error:  # a damaged file makes these libraries raise almost anything
            raise InputError(f"{path} is no .npz file of plain arrays: {error!s:.200}") from error
    raise InputError(f"{path} holds more than {_INFLATED_BYTES_MAX} bytes of arrays")


def reals_of(
    arrays: Mapping[str, NDArray[np.generic]], tensors: Iterable[Tensor], path: Path
) -> dict[str, Reals]:
    """Return the rows of each tensor as float32, in the order of `tensors`. Raises InputError."""
    found = {tensor.name: _reals(arrays, tensor, path) for tensor in tensors}
    if len({len(rows) for rows in found.values()}) != 1:
        raise InputError(f"the arrays of {path} differ in their number of rows")
    return found


def labels_of(arrays: Mapping[str, NDArray[np.generic]], rows: int, path: Path) -> tuple[int, ...]:
    """Return the true class indices, or none where the file has no `label`. Raises InputError."""
    labels = arrays.get(LABEL_ARRAY)
    if labels is None:
        return ()
    if labels.shape != (rows,) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"array 'label' of {path} is not one whole number for each row")
    return tuple(int(label) for label in labels.astype(np.int64))


def as_golden(values: Reals) -> RealArray:
    """Return the array as it stands in golden vectors."""
    return RealArray(shape=values.shape, data=values.astype("<f4").tobytes())


def _reals(arrays: Mapping[str, NDArray[np.generic]], tensor: Tensor, path: Path) -> Reals:
    values = arrays.get(tensor.name)
    if values is None:
        raise InputError(f"{path} has no array {tensor.name!r}; it has {sorted(arrays)}")
    if values.ndim == 0 or not len(values) or values.shape[1:] != tensor.shape[1:]:
        raise InputError(
            f"array {tensor.name!r} of {path} has shape {values.shape}; "
            f"expected rows of shape {tensor.shape[1:]}"
        )
    if not np.issubdtype(values.dtype, np.number) or np.issubdtype(
        values.dtype, np.complexfloating
    ):
        raise InputError(f"array {tensor.name!r} of {path} holds no real numbers")
    return values.astype(np.float32)
