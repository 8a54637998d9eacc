"""Refusals of one device: look at the device."""

from __future__ import annotations

from firmware_bundles.errors.root import ShoalError


class DeviceError(ShoalError):
    """A device could not do its part."""

    code = "device.failed"
    default_hint = "Look at the device: `shoal-agent status`, `shoal-agent doctor`."


class NeedsUnmet(DeviceError):
    """A model needs operations, memory, an accelerator or speed that are not there; unfetched."""

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
