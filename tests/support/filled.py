"""Slots filled with bundles that tests have in memory."""

from __future__ import annotations

from collections.abc import Mapping

from agent.deployment import slots
from firmware_bundles import durable
from firmware_bundles import manifest as manifests


def fill(slot: slots.Slot, manifest: bytes, files: Mapping[str, bytes]) -> None:
    """Let a slot hold a bundle, as a deployment does."""
    entries = manifests.parse(manifest).files
    slots.fill(slot, manifest, entries, lambda each, path: durable.write(path, files[each.name]))
