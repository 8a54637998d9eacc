"""Samples as a Parquet file with a manifest: the same query gives the same bytes.

Rows stand in order of device, incarnation and number. Nothing that differs from run to run is
written: no time of the export, no name of who asked.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from firmware_bundles import durable
from firmware_bundles.errors import InputError
from firmware_bundles.wire.columns import UNKNOWN
from firmware_bundles.wire.samples import Reason, Samples, decode_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Json = Any
    Ask = Callable[[Mapping[str, Any]], Json]

FORMAT: Final = "shoal.samples/1"
_SUFFIX: Final = ".parquet"
_MANIFEST_BYTES_MAX: Final = 256 * 1024 * 1024
_ROW_GROUP: Final = 16_384
# The columns of the file, in this order.
_COLUMNS: Final = (
    "device", "incarnation", "sequence", "family", "model", "release", "time", "reasons",
    "predicted", "predicted_label", "label", "true_label", "scores", "places", "values",
)  # fmt: skip


class Asked(NamedTuple):
    """Which samples."""

    family: str
    version: str | None
    cohort: str | None
    since: float
    until: float | None
    labelled_only: bool


class Files(NamedTuple):
    """Where rows and manifest go."""

    rows: Path
    manifest: Path


def files_of(out: Path) -> Files:
    """Return the files for a folder, or for a file that ends in .parquet."""
    if out.suffix == _SUFFIX:
        return Files(out, out.with_name(f"{out.name}.manifest.json"))
    return Files(out / f"samples{_SUFFIX}", out / "manifest.json")


def asked_again(path: Path) -> Asked:
    """Return the query of a manifest. Raises InputError."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MANIFEST_BYTES_MAX))
        if document["format"] != FORMAT:
            raise InputError(f"{path} has the format {document['format']!r:.40}, not {FORMAT}")
        query = document["query"]
        return Asked(**{name: query[name] for name in Asked._fields})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is no manifest of samples: {error!r:.200}") from error


def write(asked: Asked, files: Files, ask: Ask) -> dict[str, Any]:
    """Fetch all pages, write both files, and return what was written.

    Raises InputError where pyarrow is not installed, no family was named, or nothing was found.
    """
    parquet = _pyarrow()
    if not asked.family:
        raise InputError("name the family of the models: --family, or --again a manifest")
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    sources: list[Json] = []
    models: dict[str, Json] = {}
    until = asked.until
    for page in _pages(asked, ask):
        until = page["until"]
        models |= {each["digest"]: each for each in page["models"]}
        for segment in page["segments"]:
            taken = _take(columns, segment, models[segment["model"]], asked)
            if taken:
                sources.append(_source(segment, models[segment["model"]], taken))
    if not sources:
        raise InputError("there are no such samples", hint="See what there is: shoal samples list.")
    files.rows.parent.mkdir(parents=True, exist_ok=True)
    durable.write(files.rows, parquet(columns))
    data = files.rows.read_bytes()
    manifest = {
        "format": FORMAT,
        "query": asked._replace(until=until)._asdict(),
        "file": {
            "name": files.rows.name,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        },
        "rows": len(columns["sequence"]),
        "labelled": sum(label is not None for label in columns["label"]),
        "models": [models[digest] for digest in sorted({each["model"] for each in sources})],
        "sources": sources,
    }
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    durable.write(files.manifest, text.encode())
    return {
        "samples": manifest["rows"],
        "labelled": manifest["labelled"],
        "devices": len({each["device"] for each in sources}),
        "file": str(files.rows),
        "manifest": str(files.manifest),
    }


def _pages(asked: Asked, ask: Ask) -> Iterator[Json]:
    """Yield pages; all after the first end when that one does."""
    given: dict[str, Any] = {
        "family": asked.family,
        "version": asked.version,
        "cohort": asked.cohort,
        "since": repr(asked.since),
        "until": None if asked.until is None else repr(asked.until),
    }
    while True:
        page = ask(given)
        yield page
        if page["after"] is None:
            return
        given |= {"until": repr(page["until"]), "after": page["after"]}


def _take(columns: dict[str, list[Any]], segment: Json, model: Json, asked: Asked) -> int:
    """Add the rows of a segment that were asked for; return how many."""
    found = decode_samples(base64.b64decode(segment["body"]))
    labels = {int(number): label for number, label in segment["labels"].items()}
    places = [at for span in found.spans for at in range(span.first, span.first + span.length)]
    count = 0
    for at, sequence in enumerate(found.sequence.tolist()):
        label = labels.get(sequence)
        if asked.labelled_only and label is None:
            continue
        count += 1
        row = _row(found, at, label, model["labels"])
        row |= {
            "device": segment["device_id"],
            "incarnation": segment["incarnation"],
            "family": model["family"],
            "model": segment["model"],
            "release": model["release"],
            "time": segment["started"] + float(found.time_ms[at]) / 1000,
            "places": places,
        }
        for name in _COLUMNS:
            columns[name].append(row[name])
    return count


def _row(found: Samples, at: int, label: int | None, names: list[str]) -> dict[str, Any]:
    predicted = int(found.classes[at])
    reasons = Reason(int(found.reasons[at]) & sum(Reason))
    return {
        "sequence": int(found.sequence[at]),
        "reasons": ",".join(sorted(str(each.name).lower() for each in reasons)),
        "predicted": None if predicted == UNKNOWN else predicted,
        "predicted_label": _name(predicted, names),
        "label": label,
        "true_label": None if label is None else _name(label, names),
        "scores": found.scores[at].tolist(),
        "values": found.values[at].tolist(),
    }


def _name(place: int, names: list[str]) -> str | None:
    return names[place] if 0 <= place < len(names) else None


def _source(segment: Json, model: Json, rows: int) -> Json:
    return {
        "device": segment["device_id"],
        "incarnation": segment["incarnation"],
        "first": segment["first"],
        "last": segment["last"],
        "rows": rows,
        "model": segment["model"],
        "release": model["release"],
        "body_sha256": hashlib.sha256(base64.b64decode(segment["body"])).hexdigest(),
    }


def _pyarrow() -> Callable[[dict[str, list[Any]]], bytes]:
    """Return what makes a Parquet file of columns. Raises InputError."""
    try:
        import pyarrow as pa  # type: ignore[import-not-found, import-untyped, unused-ignore]
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            "Parquet files need pyarrow, which is not installed",
            hint="pip install 'shoal[parquet]'",
        ) from error

    reals = pa.list_(pa.float32())
    special = {
        "sequence": pa.int64(),
        "time": pa.float64(),
        "predicted": pa.int32(),
        "label": pa.int32(),
        "scores": reals,
        "places": pa.list_(pa.int32()),
        "values": reals,
    }
    schema = pa.schema([(name, special.get(name, pa.string())) for name in _COLUMNS])

    def encode(columns: dict[str, list[Any]]) -> bytes:
        table = pa.Table.from_pydict(columns, schema=schema)
        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink, compression="zstd", row_group_size=_ROW_GROUP)
        return bytes(sink.getvalue().to_pybytes())

    return encode
