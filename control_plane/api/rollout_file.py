"""A rollout file as the body of a request: YAML or JSON, no longer than one may be."""

from typing import Any, Final

from fastapi import Request

from control_plane.rollouts.parsing import ROLLOUT_BYTES_MAX
from firmware_bundles.errors import RolloutInvalid

_FILE_FORMATS: Final[dict[str, Any]] = {"application/yaml": {}, "application/json": {}}
FORMATS: Final[dict[str, Any]] = {"requestBody": {"required": True, "content": _FILE_FORMATS}}


async def read(request: Request) -> bytes:
    """Return the body. Raises RolloutInvalid as soon as it is too long."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > ROLLOUT_BYTES_MAX:
            raise RolloutInvalid(f"the rollout has more than {ROLLOUT_BYTES_MAX} bytes")
    return body
