"""Refusals of what is signed: never retry, alert; somebody may be attacking."""

from __future__ import annotations

from firmware_bundles.errors.root import ShoalError


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
