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
    """Signed data does not fit what was signed before it."""

    code = "trust.refused"
    default_hint = "Do not retry: find out who published this."


class SignatureInvalid(TrustError):
    """A signature is missing, or was made with a key that may not sign this."""

    code = "trust.signature_invalid"


class MetadataExpired(TrustError):
    """A signed role of the models repository is past its time."""

    code = "trust.expired"
    default_hint = "Sign the role again, and check the clock of this machine."


class RollbackAttempt(TrustError):
    """Signed data is older than what was seen before."""

    code = "trust.rollback"


class DigestMismatch(TrustError):
    """A file or manifest is not the one that was signed."""

    code = "trust.digest_mismatch"


class ReleaseUnknown(TrustError):
    """An order or rollout names a release that its owners did not sign.

    Sign and publish it, or choose another.
    """

    code = "trust.release_unknown"
    default_hint = "The owners' signed metadata does not list this release."


class ReleaseBelowFloor(TrustError):
    """The release has a number below the owners' `min_release`."""

    code = "trust.release_below_floor"
    default_hint = "The owners no longer allow releases below min_release; publish a newer one."


class ReleaseWithdrawn(TrustError):
    """The owners withdrew the release."""

    code = "trust.release_withdrawn"
    default_hint = "Choose another release; this one never runs again."


class AssignmentReplayed(TrustError):
    """An assignment is older than one that the device has seen, or answers another hello."""

    code = "trust.assignment_replayed"


class AssignmentForeign(TrustError):
    """An assignment for one device came to another."""

    code = "trust.assignment_foreign"


class AssignmentExpired(TrustError):
    """An assignment came too late, or its time lies in the future."""

    code = "trust.assignment_expired"
    default_hint = "Check the clocks of both machines; the device asks anew."


class ReportReplayed(TrustError):
    """A report came again, or is older than what its device has said since.

    A broker may deliver twice; if the count grows, find out who repeats the device's words.
    """

    code = "trust.report_replayed"


class AuthenticationFailed(TrustError):
    """A message does not carry the seal of who it says it is from."""

    code = "trust.authentication_failed"


class BundleError(ShoalError):
    """The parts of a bundle do not fit together."""

    code = "bundle.refused"
    default_hint = "Build the bundle again."


class ManifestInvalid(BundleError):
    """The manifest, or a file that it describes, cannot be read or contradicts itself."""

    code = "bundle.manifest_invalid"


class ModelUnusable(BundleError):
    """The interpreter cannot load the model, or the model is not what the manifest says."""

    code = "bundle.model_unusable"


class RuntimeUnsupported(BundleError):
    """There is no interpreter, or none that can run the model."""

    code = "bundle.runtime_unsupported"
    default_hint = "Install an interpreter (the extra 'agent'), or convert the model for it."


class ConversionFaulty(BundleError):
    """The converted model is not what its owner trained, or not what devices can serve."""

    code = "bundle.conversion_faulty"
    default_hint = "Convert the model again; docs/how-to/convert-a-model.md lists the traps."


class BundleTooLarge(BundleError):
    """A bundle, or a file of it, is larger than allowed."""

    code = "bundle.too_large"
    default_hint = "Make the model smaller."


class TransferError(ShoalError):
    """Something could not be sent or fetched."""

    code = "transfer.failed"
    default_hint = "This is tried again by itself."


class BrokerUnreachable(TransferError):
    """The broker does not answer, does not start or does not keep up."""

    code = "transfer.broker_unreachable"


class ServerUnreachable(TransferError):
    """The control plane does not answer, or something else answers at its address."""

    code = "transfer.server_unreachable"


class ChunkMissing(TransferError):
    """A chunk that a manifest lists is not there."""

    code = "transfer.chunk_missing"


class ChunkCorrupt(TransferError):
    """A chunk arrived with other bytes than its name promises."""

    code = "transfer.chunk_corrupt"


class TransferTooSlow(TransferError):
    """A download was slower than its policy allows, from every source.

    Look at the device's link; another order may give it more time.
    """

    code = "transfer.too_slow"
    default_hint = "Look at the device's link, or give the rollout's policy more time."


class PatchRefused(TransferError):
    """A patch cannot be applied, or does not make the file that the owners signed.

    The device fetches the whole file instead; a patch that keeps failing is worth a look.
    """

    code = "transfer.patch_refused"


class MetadataMissing(TransferError):
    """The device has not collected all files of the models repository."""

    code = "transfer.metadata_missing"


class DeviceError(ShoalError):
    """A device could not do its part."""

    code = "device.failed"
    default_hint = "Look at the device: `shoal-agent status`, `shoal-agent doctor`."


class NeedsUnmet(DeviceError):
    """A model needs newer operations or more memory than the device has; it was not fetched."""

    code = "device.needs_unmet"
    default_hint = "Update the device's interpreter, or convert the model for the one it has."


class NotEnrolled(DeviceError):
    """The state directory holds no identity."""

    code = "device.not_enrolled"
    default_hint = "Run 'shoal-agent enrol --server URL --token TOKEN --ca FILE'."


class ClockSuspect(DeviceError):
    """The device's clock contradicts times that were signed; it judges by those."""

    code = "device.clock_suspect"
    default_hint = "Set the clock of the device, or look why it loses the time."


class SlotUnwritable(DeviceError):
    """A file of the agent cannot be written."""

    code = "device.slot_unwritable"
    default_hint = "Check owner, modes and disk of the state directory."


class SlotBroken(DeviceError):
    """The bundle in a slot is not whole, or no slot is marked as serving."""

    code = "device.slot_broken"
    default_hint = "Roll a release out again: it is fetched and verified anew."


class StorageFull(DeviceError):
    """The disk is full, or the buffer is and nothing in it may be dropped."""

    code = "device.storage_full"
    default_hint = "Free space where the state directory lies."


class StateDamaged(DeviceError):
    """A database, key or data folder cannot be used, or belongs to another process."""

    code = "device.state_damaged"
    default_hint = "Serving goes on; enrol the device again to let it take new models."


class SelfTestFailed(DeviceError):
    """The model's answers to its golden vectors were wrong, late or none.

    Read the message: the model does not run on this device as on its owner's.
    """

    code = "device.self_test_failed"


class ProbationFailed(DeviceError):
    """The new model failed while the device watched it; the previous one serves again.

    Read the message; publish a mended release.
    """

    code = "device.probation_failed"


class InputRefused(DeviceError):
    """An input took the worker down twice: for a day it is not given to that model any more."""

    code = "device.input_refused"


class ModelCrashing(DeviceError):
    """A committed model died at different inputs, and was left: publish a mended release."""

    code = "device.model_crashing"


class DeploymentLooping(DeviceError):
    """A deployment took more steps than any should; the device gave it up.

    Keep the device's log and report it: this is a fault of the agent.
    """

    code = "device.deployment_looping"


class DeploymentSuperseded(DeviceError):
    """A newer generation came before the deployment had ended.

    Nothing: the newer one is carried out.
    """

    code = "device.superseded"


class DeploymentCancelled(DeviceError):
    """Somebody at the device ended or reverted the deployment.

    Ask who did; a newer rollout is carried out as usual.
    """

    code = "device.cancelled"


class WorkerUnavailable(DeviceError):
    """The inference worker does not answer, or its sockets cannot be made.

    The agent starts it anew; if it lasts, read the agent's log.
    """

    code = "device.worker_unavailable"


class TaskFailed(DeviceError):
    """A child process that checks or signs something failed or took too long.

    It is tried again; if it lasts, read the agent's log.
    """

    code = "device.task_failed"


class WireError(ShoalError):
    """The other side sent something that cannot be taken.

    Check that both sides are of about the same release.
    """

    code = "wire.refused"


class Malformed(WireError):
    """The bytes cannot be read as what they should be."""

    code = "wire.malformed"


class MessageTooLarge(WireError):
    """A message or body is larger than allowed."""

    code = "wire.too_large"


class UnknownMessage(WireError):
    """A message came on a topic that nobody may use."""

    code = "wire.unknown_message"


class VersionUnsupported(WireError):
    """A message has a schema that this side does not read."""

    code = "wire.version_unsupported"
    default_hint = "Agent and control plane may be one release apart; update the older one."


class SegmentOverlapping(WireError):
    """A segment holds rows that were delivered before under another key."""

    code = "wire.segment_overlapping"
    default_hint = "Two runs of one agent use the same state directory."


class InputError(ShoalError):
    """What was asked for is not possible as written.

    Mend the command or file: the message says what is wrong.
    """

    code = "input.invalid"


class SelectorInvalid(InputError):
    """A cohort's selector cannot be read; the message names the column."""

    code = "input.selector_invalid"
    default_hint = "A selector looks like 'site=berlin,arch!=armv7l,line in (a, b)'."


class RolloutInvalid(InputError):
    """A rollout file cannot be used; the message names line and field."""

    code = "input.rollout_invalid"


class ConfigInvalid(InputError):
    """A setting is unknown, out of range or does not fit this machine."""

    code = "input.config_invalid"


class NotFound(InputError):
    """There is no such thing: device, cohort, release, rollout, family, prediction."""

    code = "input.not_found"


class BackupUnreadable(InputError):
    """A file is no backup, is damaged or cut off, or the passphrase is another."""

    code = "input.backup_unreadable"
    default_hint = "Check file and passphrase; each backup is opened with the one it was made with."


class BackupInconsistent(InputError):
    """The parts of a control plane, or of its backup, do not fit together."""

    code = "input.backup_inconsistent"
    default_hint = "Take an older backup; keep this one and report it."


class AccessError(ShoalError):
    """Who asks may not do this.

    Ask an administrator.
    """

    code = "access.denied"


class NotAuthenticated(AccessError):
    """There is no token or session, or it is not known."""

    code = "access.not_authenticated"
    default_hint = "Give a valid token: --token, or the environment variable SHOAL_TOKEN."


class RoleInsufficient(AccessError):
    """The token's role does not cover this.

    Ask an administrator for a token with the role that the message names.
    """

    code = "access.role_insufficient"


class EnrolmentRefused(AccessError):
    """The enrolment token is unknown, used up or over, or not for this device."""

    code = "access.enrolment_refused"
    default_hint = "Ask an operator for a new token: shoal device invite."


class SubscriptionExceeded(AccessError):
    """A device subscribed to topics that are not its own; the broker delivers nothing of them.

    Look at what runs on the device; revoke it if nobody can explain the subscription.
    """

    code = "access.subscription_exceeded"
    default_hint = "If nobody tried something out there, revoke the device: shoal device revoke."


class ConflictError(ShoalError):
    """The state changed meanwhile, or does not allow this."""

    code = "conflict"
    default_hint = "Load the present state and try again."


def from_code(code: str, message: str, hint: str = "") -> ShoalError:
    """Return the error that another process meant by `code`; unknown: a plain ShoalError."""
    found = next((kind for kind in _all(ShoalError) if kind.code == code), None)
    return found(message, hint=hint) if found else ShoalError(f"{message} ({code:.64})", hint=hint)


def _all(kind: type[ShoalError]) -> list[type[ShoalError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in _all(child))]
