"""The order of a rollout's devices by the plain rule, one device after the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from control_plane.rollouts.order import place, shift


def arrange(
    rollout_id: str, devices: Iterable[str], strata: Mapping[str, str] | None = None
) -> list[str]:
    """Return the devices by position; without `strata` all are one stratum."""
    groups: dict[str, list[str]] = defaultdict(list)
    for device in set(devices):
        groups[(strata or {}).get(device, "")].append(device)
    placed: list[tuple[float, bytes, str]] = []
    for stratum, members in groups.items():
        ordered = sorted((place(rollout_id, device), device) for device in members)
        first = shift(rollout_id, stratum)
        placed += [
            ((index + first) / len(ordered), hashed, device)
            for index, (hashed, device) in enumerate(ordered)
        ]
    return [device for _, _, device in sorted(placed)]
