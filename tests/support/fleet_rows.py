"""Rows of a fleet as they stand in the database, for tests of who reads them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import insert, update

from control_plane.store import schema
from firmware_bundles import chunks, manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Table

    from control_plane.store.database import Database

SECRET = b"k" * 32
NOW = 1_800_000_000.0


def enrol(
    database: Database,
    device_id: str,
    *,
    secret: bytes = SECRET,
    labels: Mapping[str, str] | None = None,
    **values: object,
) -> None:
    """Add a device."""
    row = {
        "id": device_id,
        "public_key_pem": "",
        "certificate_serial": "",
        "telemetry_secret": secret,
        "labels": dict(labels or {}),
        "inventory": {},
        "agent_version": "0.1.0",
        "enrolled": NOW - 3600,
    }
    _insert(database, schema.device, row | values)


def report(database: Database, device_id: str, **values: object) -> None:
    """Add what a device reports of the family digits."""
    row = {"device_id": device_id, "family": "digits", "generation": 1, "received": NOW}
    _insert(database, schema.reported, row | values)


def publish(database: Database, version: str, number: int, files: Mapping[str, bytes]) -> str:
    """Add a release with these files (chunks are named by `chunks.cut`); return its digest."""
    entries = tuple(
        manifest.FileEntry(
            name=name,
            length=len(data),
            digest=chunks.digest_of(data),
            chunks=tuple(chunk.digest for chunk in chunks.cut(data)),
        )
        for name, data in {"model.tflite": b"model", "golden.msgpack": b"golden", **files}.items()
    )
    tensor = manifest.Tensor(name="t", datatype="FP32", shape=(1, 2))
    described = manifest.Manifest(
        family="digits",
        version=version,
        model="model.tflite",
        inputs=(tensor,),
        outputs=(tensor,),
        files=entries,
        golden=manifest.Golden(rows=1, runtime="test"),
        baseline="baseline.bin" if "baseline.bin" in files else None,
    )
    body = manifest.encode(described)
    row = {
        "path": f"digits/{version}/manifest.json",
        "family": "digits",
        "version": version,
        "number": number,
        "digest": hashlib.sha256(body).hexdigest(),
        "length": len(body),
        "manifest": body,
        "published": NOW - 1800,
    }
    _insert(database, schema.release, row)
    return str(row["digest"])


def roll_out(
    database: Database, rollout_id: str, version: str, spec: Mapping[str, Any], **values: object
) -> None:
    """Add a rollout of the family digits."""
    row = {
        "id": rollout_id,
        "family": "digits",
        "release_path": f"digits/{version}/manifest.json",
        "spec": dict(spec),
        "state": "running",
        "phase": 0,
        "phase_state": "soaking",
        "phase_since": NOW - 60,
        "generation": 2,
        "created": NOW - 600,
        "created_by": "admin",
    }
    _insert(database, schema.rollout, row | values)


def deploy(database: Database, rollout_id: str, device_id: str, **values: object) -> None:
    """Add a device to a rollout."""
    row = {"rollout_id": rollout_id, "device_id": device_id, "position": 0}
    _insert(database, schema.deployment, row | values)


def decide(database: Database, rollout_id: str, *why: str, **values: object) -> None:
    """Add a decision on a rollout."""
    row = {
        "rollout_id": rollout_id,
        "generation": 1,
        "at": NOW - 60,
        "state": "running",
        "phase": 0,
        "phase_state": "soaking",
        "why": list(why),
        "gates": [],
    }
    _insert(database, schema.decision, row | values)


def misbehave(database: Database) -> None:
    """Let three of the devices stand otherwise with the fleet than the rest."""
    noted = {"device_id": "device-0", "message": "why", "last": NOW}
    for code, count in (("trust.signature_invalid", 4), ("device.storage_full", 9)):
        _insert(database, schema.detection, {**noted, "code": code, "count": count})
    greedy = {**noted, "code": "access.subscription_exceeded", "count": 2}
    _insert(database, schema.misconduct, greedy)
    changes = {"device-1": {"retiring": NOW}, "device-2": {"revoked": NOW, "retired": NOW}}
    with database.transaction() as connection:
        for name, values in changes.items():
            connection.execute(
                update(schema.device).where(schema.device.c.id == name).values(values)
            )


def detect(database: Database, device_id: str, code: str, count: int) -> None:
    """Let a device have refused something."""
    row = {"device_id": device_id, "code": code, "message": "why", "count": count, "last": NOW}
    _insert(database, schema.detection, row)


def label(
    database: Database, device_id: str, model: str, *, labelled: int, wrong: int, first: int = 1
) -> None:
    """Let labels of a model of the family digits have been counted now."""
    row = {
        "device_id": device_id,
        "incarnation": "00000000000000aa",
        "kind": "labels",
        "first": first,
        "model": model,
        "family": "digits",
        "received": NOW,
        "labelled": labelled,
        "wrong": wrong,
    }
    _insert(database, schema.label_count, row)


def _insert(database: Database, table: Table, row: Mapping[str, Any]) -> None:
    with database.transaction() as connection:
        connection.execute(insert(table), msgspec.to_builtins(row, builtin_types=(bytes,)))
