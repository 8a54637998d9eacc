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

from typing import ClassVar


class ShoalError(Exception):
    """A refusal: a stable `code`, a sentence that says what was wrong, a `hint` what to do."""

    code: ClassVar[str] = "internal"
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint


class TrustError(ShoalError):
    code = "trust.refused"
    default_hint = "Do not retry: find out who published this."


class SignatureInvalid(TrustError):
    code = "trust.signature_invalid"


class MetadataExpired(TrustError):
    code = "trust.expired"
    default_hint = "Sign the role again, and check the clock of this machine."


class RollbackAttempt(TrustError):
    code = "trust.rollback"


class DigestMismatch(TrustError):
    code = "trust.digest_mismatch"


class ReleaseUnknown(TrustError):
    code = "trust.release_unknown"
    default_hint = "The owners' signed metadata does not list this release."


class ReleaseBelowFloor(TrustError):
    code = "trust.release_below_floor"
    default_hint = "The owners no longer allow releases below min_release; publish a newer one."


class ReleaseWithdrawn(TrustError):
    code = "trust.release_withdrawn"


class AssignmentReplayed(TrustError):
    code = "trust.assignment_replayed"


class AssignmentForeign(TrustError):
    code = "trust.assignment_foreign"


class AssignmentExpired(TrustError):
    code = "trust.assignment_expired"


class AuthenticationFailed(TrustError):
    code = "trust.authentication_failed"


class BundleError(ShoalError):
    code = "bundle.refused"
    default_hint = "Build the bundle again."


class ManifestInvalid(BundleError):
    code = "bundle.manifest_invalid"


class ModelUnusable(BundleError):
    code = "bundle.model_unusable"


class RuntimeUnsupported(BundleError):
    code = "bundle.runtime_unsupported"


class BundleTooLarge(BundleError):
    code = "bundle.too_large"


class TransferError(ShoalError):
    code = "transfer.failed"
    default_hint = "This is tried again by itself."


class BrokerUnreachable(TransferError):
    code = "transfer.broker_unreachable"


class ServerUnreachable(TransferError):
    code = "transfer.server_unreachable"


class ChunkMissing(TransferError):
    code = "transfer.chunk_missing"


class ChunkCorrupt(TransferError):
    code = "transfer.chunk_corrupt"


class MetadataMissing(TransferError):
    code = "transfer.metadata_missing"


class DeviceError(ShoalError):
    code = "device.failed"


class NotEnrolled(DeviceError):
    code = "device.not_enrolled"
    default_hint = "Run 'shoal-agent enrol --server URL --token TOKEN --ca FILE'."


class SlotUnwritable(DeviceError):
    code = "device.slot_unwritable"


class SlotBroken(DeviceError):
    code = "device.slot_broken"


class StorageFull(DeviceError):
    code = "device.storage_full"


class StateDamaged(DeviceError):
    code = "device.state_damaged"
    default_hint = "Serving goes on; enrol the device again to let it take new models."


class SelfTestFailed(DeviceError):
    code = "device.self_test_failed"


class ProbationFailed(DeviceError):
    code = "device.probation_failed"


class DeploymentLooping(DeviceError):
    code = "device.deployment_looping"


class WorkerUnavailable(DeviceError):
    code = "device.worker_unavailable"


class TaskFailed(DeviceError):
    code = "device.task_failed"


class WireError(ShoalError):
    code = "wire.refused"


class Malformed(WireError):
    code = "wire.malformed"


class MessageTooLarge(WireError):
    code = "wire.too_large"


class UnknownMessage(WireError):
    code = "wire.unknown_message"


class VersionUnsupported(WireError):
    code = "wire.version_unsupported"
    default_hint = "Agent and control plane may be one release apart; update the older one."


class SegmentOverlapping(WireError):
    code = "wire.segment_overlapping"
    default_hint = "Two runs of one agent use the same state directory."


class InputError(ShoalError):
    code = "input.invalid"


class SelectorInvalid(InputError):
    code = "input.selector_invalid"
    default_hint = "A selector looks like 'site=berlin,arch!=armv7l,line in (a, b)'."


class RolloutInvalid(InputError):
    code = "input.rollout_invalid"


class ConfigInvalid(InputError):
    code = "input.config_invalid"


class NotFound(InputError):
    code = "input.not_found"


class AccessError(ShoalError):
    code = "access.denied"


class NotAuthenticated(AccessError):
    code = "access.not_authenticated"
    default_hint = "Give a valid token: --token, or the environment variable SHOAL_TOKEN."


class RoleInsufficient(AccessError):
    code = "access.role_insufficient"


class EnrolmentRefused(AccessError):
    code = "access.enrolment_refused"
    default_hint = "Ask an operator for a new token: shoal device invite."


class SubscriptionExceeded(AccessError):
    code = "access.subscription_exceeded"
    default_hint = "If nobody tried something out there, revoke the device: shoal device revoke."


class ConflictError(ShoalError):
    code = "conflict"
    default_hint = "Load the present state and try again."


def from_code(code: str, message: str, hint: str = "") -> ShoalError:
    """Return the error that another process meant by `code`; unknown: a plain ShoalError."""
    for kind in _all(ShoalError):
        if kind.code == code:
            return kind(message, hint=hint)
    return ShoalError(f"{message} ({code:.64})", hint=hint)


def _all(kind: type[ShoalError]) -> list[type[ShoalError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in _all(child))]
