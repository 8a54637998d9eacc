"""Devices that exist only as rows: enrolled, told what to run, and reporting as a test has them.

The database is a real one; what a device would sign is written where checked reports are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert, select

from control_plane.rollouts.model import Rollout, Standing
from control_plane.rollouts.parsing import parse
from control_plane.store import many
from control_plane.store.database import Database
from control_plane.store.schema import (
    desired,
    device,
    label_count,
    release,
    reported,
    segment,
    value_sum,
)
from control_plane.store.watch_schema import watch
from control_plane.telemetry.latency_bins import encoded
from firmware_bundles.identifiers import target_path
from firmware_bundles.windows import UTC_OFFSET
from firmware_bundles.wire.totals import LOG_SCALE

FAMILY = "digits"


def digest(version: str) -> str:
    """Return the digest of the manifest of a version."""
    return hashlib.sha256(version.encode()).hexdigest()


def rollout(text: str, rollout_id: str = "example") -> Rollout:
    """Return a rollout as `text` describes it."""
    spec = parse(text)
    return Rollout(
        id=rollout_id,
        spec=spec,
        release_path=target_path(spec.family, spec.release),
        standing=Standing(),
        created_by="anna",
    )


class RowFleet:
    """A database with releases 1, 2 and 3 of a family, and devices."""

    def __init__(
        self, place: Path | str, size: int, offsets: Sequence[int | None] = (None,)
    ) -> None:
        """Open a database in a folder, or at a URL."""
        url = place if isinstance(place, str) else f"sqlite:///{place / 'shoal.db'}"
        self.database = Database.open(url)
        self.devices = [f"device-{number:03}" for number in range(size)]
        with self.database.transaction() as connection:
            for number in (1, 2, 3):
                connection.execute(insert(release).values(release_row(number)))
            rows = [
                device_row(each, offset)
                for each, offset in zip(self.devices, cycle(offsets), strict=False)
            ]
            if rows:
                connection.execute(insert(device), rows)

    def wants(self, device_id: str) -> dict[str, Any]:
        """Return what a device shall run; empty if nothing."""
        query = select(desired).where(desired.c.device_id == device_id)
        with self.database.reading() as connection:
            row = connection.execute(query).mappings().first()
        return dict(row) if row else {}

    def offered(self, version: str) -> set[str]:
        """Return the devices that shall run a version."""
        path = target_path(FAMILY, version)
        return {each for each in self.devices if self.wants(each).get("path") == path}

    def serve(self, version: str, devices: Iterable[str] | None = None) -> None:
        """Let devices say that they serve a version, by themselves or since a rollout of old."""
        for device_id in devices if devices is not None else self.devices:
            self.report(device_id, generation=0, state=None, serving=digest(version))

    def obey(self, devices: Iterable[str] | None = None, state: str = "committed") -> None:
        """Let devices do what they are told and say so; in other states they serve as before."""
        for device_id in devices if devices is not None else self.devices:
            if not (wanted := self.wants(device_id)):
                continue
            serving = wanted["digest"] if state == "committed" else self.serving(device_id)
            self.report(device_id, generation=wanted["generation"], state=state, serving=serving)

    def serving(self, device_id: str) -> str | None:
        """Return the digest that a device last said it serves."""
        query = select(reported.c.serving_digest).where(reported.c.device_id == device_id)
        with self.database.reading() as connection:
            return connection.execute(query).scalar_one_or_none()

    def report(
        self, device_id: str, *, generation: int, state: str | None, serving: str | None
    ) -> None:
        """Store what a device said, signed."""
        row = {
            "device_id": device_id,
            "family": FAMILY,
            "generation": generation,
            "state": state,
            "serving_digest": serving,
            "received": 0.0,
        }
        with self.database.transaction() as connection:
            many.upsert(connection, reported, [row])

    def label(self, device_id: str, version: str, *, labelled: int, wrong: int, at: float) -> None:
        """Store labels that came for predictions of a version."""
        row = {
            "device_id": device_id,
            "incarnation": "0" * 16,
            "kind": "labels",
            "first": int(at * 1000) + 1,
            "model": digest(version),
            "family": FAMILY,
            "received": at,
            "labelled": labelled,
            "wrong": wrong,
        }
        with self.database.transaction() as connection:
            many.upsert(connection, label_count, [row])

    def measure(self, device_id: str, version: str, values: list[float], *, at: float) -> None:
        """Store values of "revenue", and the same numbers as the logarithms of latencies."""
        about = {
            "device_id": device_id,
            "incarnation": "0" * 16,
            "first": int(at * 1000) + int(version),
            "model": digest(version),
            "family": FAMILY,
            "received": at,
        }
        n, total, total2 = len(values), sum(values), sum(value**2 for value in values)
        revenue = {
            "kind": "labels",
            "name": "revenue",
            "exponent": 8,
            "segment": 0,
            "n": n,
            "quantum": 2.0**-8,
            "total": total * 2**8,
            "total2": total2 * 2**16,
            "minimum": min(values) * 2**8,
            "maximum": max(values) * 2**8,
        }
        latency = {
            "kind": "predictions",
            "last": about["first"],
            "rows": n,
            "body": b"",
            "answered": n,
            "started": at,
            "ended": at,
            "latency_us": 0,
            "log_latency": total * LOG_SCALE,
            "log_latency2": total2 * LOG_SCALE**2,
        }
        with self.database.transaction() as connection:
            connection.execute(insert(value_sum), about | revenue)
            connection.execute(insert(segment), about | latency)

    def promise(
        self, device_id: str, version: str, rows: int, right: float, *, at: float, state: str
    ) -> None:
        """Store a window whose confidences promise so much, and what the watch over it says."""
        about = {"device_id": device_id, "family": FAMILY, "model": digest(version)}
        row = {
            "incarnation": "2" * 16,
            "kind": "window",
            "first": int(at * 1000) + int(version),
            "last": int(at * 1000) + int(version),
            "received": at,
            "rows": rows,
            "body": b"",
            "started": at,
            "ended": at,
            "promised_rows": rows,
            "promised_right": right,
        }
        said = dict.fromkeys(("since", "until", "score"), 0.0) | {"turn": 1, "state": state}
        counts = ("reference_rows", "taken", "late", "unreadable", "tested", "quiet", "rings")
        said |= dict.fromkeys(counts, 0) | {"findings": [], "changed": at}
        with self.database.transaction() as connection:
            connection.execute(insert(segment), about | row)
            many.upsert(connection, watch, [about | said])

    def answer(self, device_id: str, version: str, latencies_us: Sequence[int], at: float) -> None:
        """Store that a device gave answers which took so long."""
        row = {
            "device_id": device_id,
            "incarnation": "1" * 16,
            "kind": "predictions",
            "first": int(at * 1000) + int(version),
            "last": int(at * 1000) + int(version),
            "model": digest(version),
            "family": FAMILY,
            "received": at,
            "rows": len(latencies_us),
            "body": b"",
            "started": at,
            "ended": at,
            "latency_bins": encoded([np.array(latencies_us)])[0],
        }
        with self.database.transaction() as connection:
            connection.execute(insert(segment), row)


def release_row(number: int) -> dict[str, Any]:
    """Return the row of a release."""
    version = str(number)
    return {
        "path": target_path(FAMILY, version),
        "family": FAMILY,
        "version": version,
        "number": number,
        "digest": digest(version),
        "length": 100 + number,
        "manifest": b"{}",
        "published": 0.0,
    }


def device_row(device_id: str, offset: int | None = None) -> dict[str, Any]:
    """Return the row of a device that is online, so far ahead of UTC."""
    return {
        "id": device_id,
        "public_key_pem": "",
        "certificate_serial": "",
        "telemetry_secret": b"",
        "labels": {},
        "inventory": {} if offset is None else {UTC_OFFSET: offset},
        "enrolled": 0.0,
        "is_online": True,
    }
