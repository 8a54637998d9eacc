"""Names that cross a boundary, each with the one pattern it must match; parsed once, then trusted.

The annotated types are used as field types of messages and manifests, so that decoding checks them.
Nothing here knows what the named things are.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from firmware_bundles.errors import Malformed

# `\Z`, not `$`: the latter also matches before a closing newline.
DeviceId = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9-]{0,62}\Z", description="device id")]
Family = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9-]{0,30}\Z", description="model family")]
ModelVersion = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z", description="model version")
]
Digest = Annotated[
    str, Meta(pattern=r"\A[0-9a-f]{64}\Z", description="SHA-256 digest in lower-case hexadecimal")
]
Incarnation = Annotated[
    str, Meta(pattern=r"\A[0-9a-f]{16}\Z", description="incarnation of 16 hexadecimal digits")
]
Nonce = Annotated[
    str, Meta(pattern=r"\A[0-9a-f]{32}\Z", description="nonce of 32 hexadecimal digits")
]
FileName = Annotated[
    str, Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,62}\Z", description="name of a file in a bundle")
]
AcceleratorName = Annotated[
    str, Meta(pattern=r"\A[a-z0-9][a-z0-9_-]{0,31}\Z", description="name of an accelerator")
]
TargetPath = Annotated[
    str,
    Meta(
        pattern=r"\A[a-z][a-z0-9-]{0,30}/[A-Za-z0-9][A-Za-z0-9._-]{0,62}/manifest\.json\Z",
        description="path of a manifest: FAMILY/VERSION/manifest.json",
    ),
]
RolloutId = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9-]{0,62}\Z", description="rollout id")]
CohortName = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9-]{0,62}\Z", description="cohort name")]


def parse(kind: Any, text: object, what: str) -> str:  # noqa: ANN401 - annotated types have none
    """Return `text` if it is a `kind` (one of the types above); `what` names it in the error.

    Raises Malformed.
    """
    try:
        return str(msgspec.convert(text, kind))
    except msgspec.ValidationError as error:
        raise Malformed(f"{what} {text!r:.80} is not valid: {error}") from error


def target_path(family: str, version: str) -> str:
    """Return the path at which the owners' metadata lists the manifest of a version."""
    return parse(TargetPath, f"{family}/{version}/manifest.json", "target path")
