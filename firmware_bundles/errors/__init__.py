"""The error tree of shoal. Every refusal anywhere ends in one of these classes.

Classes follow what the caller does next; `code` is stable and appears on the wire, in the API, in
journals and in the documentation. Nothing here logs, formats for a terminal or decides exit codes.

    ShoalError
      TrustError        never retry, alert: somebody may be attacking
      BundleError       the publisher's fault: build and sign again
      TransferError     retry with backoff
      DeviceError       this device's fault: look at the device
      WireError         the peer's bytes are wrong
      InputError        what a person wrote is wrong: mend the file or the command
      AccessError       who asks may not
      ConflictError     somebody was faster: load again and plan again
"""

from __future__ import annotations

from firmware_bundles.errors.bundle import (
    BundleError,
    BundleTooLarge,
    ConversionFaulty,
    ManifestInvalid,
    ModelUnusable,
    RuntimeUnsupported,
)
from firmware_bundles.errors.device import (
    ClockSuspect,
    DeploymentCancelled,
    DeploymentLooping,
    DeploymentSuperseded,
    DeviceError,
    InputRefused,
    ModelCrashing,
    NeedsUnmet,
    NotEnrolled,
    ProbationFailed,
    SelfTestFailed,
    SlotBroken,
    SlotUnwritable,
    StateDamaged,
    StorageFull,
    TaskFailed,
    WorkerUnavailable,
)
from firmware_bundles.errors.people import (
    AccessError,
    ApprovalRefused,
    BackupInconsistent,
    BackupUnreadable,
    ConfigInvalid,
    ConflictError,
    EnrolmentRefused,
    FileInvalid,
    InputError,
    NotAuthenticated,
    NotFound,
    RoleInsufficient,
    RolloutDoubtful,
    RolloutInvalid,
    SelectorInvalid,
    SubscriptionExceeded,
    WebhookRefused,
)
from firmware_bundles.errors.root import (
    ShoalError,
)
from firmware_bundles.errors.transfer import (
    BrokerUnreachable,
    ChunkCorrupt,
    ChunkMissing,
    MetadataMissing,
    PatchRefused,
    ServerUnreachable,
    TransferError,
    TransferTooSlow,
)
from firmware_bundles.errors.trust import (
    AssignmentExpired,
    AssignmentForeign,
    AssignmentReplayed,
    AuthenticationFailed,
    DigestMismatch,
    MetadataExpired,
    ReleaseBelowFloor,
    ReleaseUnknown,
    ReleaseWithdrawn,
    ReportReplayed,
    RollbackAttempt,
    SignatureInvalid,
    TrustError,
)
from firmware_bundles.errors.wire import (
    Malformed,
    MessageTooLarge,
    SegmentOverlapping,
    UnknownMessage,
    VersionUnsupported,
    WireError,
)

__all__ = [
    "AccessError",
    "ApprovalRefused",
    "AssignmentExpired",
    "AssignmentForeign",
    "AssignmentReplayed",
    "AuthenticationFailed",
    "BackupInconsistent",
    "BackupUnreadable",
    "BrokerUnreachable",
    "BundleError",
    "BundleTooLarge",
    "ChunkCorrupt",
    "ChunkMissing",
    "ClockSuspect",
    "ConfigInvalid",
    "ConflictError",
    "ConversionFaulty",
    "DeploymentCancelled",
    "DeploymentLooping",
    "DeploymentSuperseded",
    "DeviceError",
    "DigestMismatch",
    "EnrolmentRefused",
    "FileInvalid",
    "InputError",
    "InputRefused",
    "Malformed",
    "ManifestInvalid",
    "MessageTooLarge",
    "MetadataExpired",
    "MetadataMissing",
    "ModelCrashing",
    "ModelUnusable",
    "NeedsUnmet",
    "NotAuthenticated",
    "NotEnrolled",
    "NotFound",
    "PatchRefused",
    "ProbationFailed",
    "ReleaseBelowFloor",
    "ReleaseUnknown",
    "ReleaseWithdrawn",
    "ReportReplayed",
    "RoleInsufficient",
    "RollbackAttempt",
    "RolloutDoubtful",
    "RolloutInvalid",
    "RuntimeUnsupported",
    "SegmentOverlapping",
    "SelectorInvalid",
    "SelfTestFailed",
    "ServerUnreachable",
    "ShoalError",
    "SignatureInvalid",
    "SlotBroken",
    "SlotUnwritable",
    "StateDamaged",
    "StorageFull",
    "SubscriptionExceeded",
    "TaskFailed",
    "TransferError",
    "TransferTooSlow",
    "TrustError",
    "UnknownMessage",
    "VersionUnsupported",
    "WebhookRefused",
    "WireError",
    "WorkerUnavailable",
    "from_code",
]


def from_code(code: str, message: str, hint: str = "") -> ShoalError:
    """Return the error that another process meant by `code`; unknown: a plain ShoalError."""
    found = next((kind for kind in _all(ShoalError) if kind.code == code), None)
    return found(message, hint=hint) if found else ShoalError(f"{message} ({code:.64})", hint=hint)


def _all(kind: type[ShoalError]) -> list[type[ShoalError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in _all(child))]
