"""Refusals of what a person wrote, of who asks, and of who came too late."""

from __future__ import annotations

from firmware_bundles.errors.root import ShoalError


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


class FileInvalid(InputError):
    """A file of what is declared cannot be used; the message names file, line and field."""

    code = "input.file_invalid"


class RolloutDoubtful(InputError):
    """A rollout was to start without a warning, and there are some; the message is the first.

    Mend the file (docs/reference/checks.md says how), or start it without `--strict`.
    """

    code = "input.rollout_doubtful"


class ConfigInvalid(InputError):
    """A setting is unknown, out of range or does not fit this machine."""

    code = "input.config_invalid"


class NotFound(InputError):
    """There is no such thing: device, cohort, release, rollout, family, prediction."""

    code = "input.not_found"


class WebhookRefused(InputError):
    """An address is none that events may be sent to.

    Only https is called, and http on the control plane's own machine.
    """

    code = "input.webhook_refused"
    default_hint = "Use https, or allow the host in the setting webhook_hosts."


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


class ApprovalRefused(AccessError):
    """Who started a rollout wanted to approve it, too.

    Ask somebody else with the role approver.
    """

    code = "access.approval_refused"


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
