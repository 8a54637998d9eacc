"""Which devices of the fleet cannot run a model: told who builds it, before anybody signs it.

The server knows what each device can run; a rollout to such devices is refused there all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from control_plane.cli import http, output
from control_plane.cli.options import CURRENT
from firmware_bundles import capabilities
from firmware_bundles.capabilities import Capabilities
from firmware_bundles.errors import ShoalError

if TYPE_CHECKING:
    from firmware_bundles.manifest import Needs


def tell(needs: Needs) -> None:
    """Say on standard error which devices cannot run it; ask nobody without a token."""
    if CURRENT.get().token is None:
        return
    try:
        with http.connect() as api:
            found = api.post("cohorts/runtimes")["runtimes"]
    except ShoalError as error:
        output.note(f"the fleet was not asked whether it can run the model: {error.message}")
        return
    for each in found:
        offered = Capabilities(
            each["runtime"],
            each["operations"],
            each["memory_bytes"],
            each.get("accelerators"),
            each.get("speed_class"),
        )
        if lacks := capabilities.lacking(needs, offered):
            who = f"{each['devices']} devices, {each['example']} among them,"
            if each["devices"] == 1:
                who = f"the device {each['example']}"
            output.note(f"{who} cannot run the model: {'; '.join(lacks)}")
