"""The ids of all events in the agent's log, and what each means: stable, for whoever filters them.

`docs/reference/events.md` is written from here. How a line looks stands in `log`.
"""

from __future__ import annotations

from typing import Final

from firmware_bundles.wire.messages import DeploymentState

_S = DeploymentState
_TRANSITIONS: Final[dict[DeploymentState, str]] = {
    _S.FETCHING: "A deployment began: its chunks are being fetched.",
    _S.STAGING: "All chunks are here; the slot that does not serve is being filled.",
    _S.SELF_TESTING: "The slot is full; a child of the worker tries the model.",
    _S.SHADOWING: "The model passed its self-test; it sees mirrored input.",
    _S.SWITCHING: "The pointer moves to the new model, and the worker follows.",
    _S.PROBATION: "The new model answers, and is watched.",
    _S.COMMITTING: "The model proved itself; its slot is being marked good.",
    _S.ROLLING_BACK: "The former model comes back; `fault` and `reason` say why.",
    _S.COMMITTED: "The deployment ended well.",
    _S.ROLLED_BACK: "The deployment ended with the former model.",
    _S.FAILED: "The deployment ended before its model ever served.",
}


def of_state(state: DeploymentState) -> str:
    """Return the id of the event that a deployment entered a state."""
    return f"deployment-{state.replace('_', '-')}"


CATALOGUE: Final[dict[str, str]] = {
    **{of_state(state): meaning for state, meaning in _TRANSITIONS.items()},
    "accelerated": "A model serves on an accelerator; `what` says what that took.",
    "acceleration-failed": "Accelerators could not be looked after; a fault of the agent.",
    "assignment": "An assignment was admitted.",
    "assignment-dropped": "An assignment gave way to newer ones: too many waited.",
    "broker-unreachable": "The broker does not answer; tried again.",
    "buffer-damaged": "buffer.db was damaged, was put aside, and a new one is in use.",
    "buffer-failed": "The buffer could not be read; telemetry waits.",
    "capture-not-kept": "What is to be captured of a model could not be written; nothing is.",
    "capture-refused": "A policy captures what the model does not have; nothing is captured.",
    "certificate-refused": "A certificate ended before the proved time, or is of the future.",
    "certificate-renewed": "The device has a new certificate.",
    "chunks-not-fetched": "Chunks could not be had over HTTPS; they are asked for again.",
    "chunks-shared": "Chunks of the new bundle were copied from a slot instead of fetched.",
    "chunks-stalled": "Chunks did not come in time and are asked for again.",
    "clock-suspect": "The machine's clock contradicts what is proved; the proved time counts.",
    "connection-callback-failed": "A message could not be handled; a fault of the agent.",
    "connection-closed": "The connection to the broker ended.",
    "connection-refused": "The broker refused the connection.",
    "control-failed": "A request on the worker's control socket failed; a fault of the agent.",
    "death-traced": "What a worker died of: `at` what, which `input`, by which `signal`.",
    "delegate-lost": "An accelerator failed in service; the CPU answered, and serves on.",
    "delegate-refused": "An accelerator may not serve a model; `why` says why. The CPU does.",
    "delegates-invalid": "inference.toml cannot be used; the CPU serves.",
    "deployment-resumed": "A start of the agent goes on with an open deployment.",
    "detected": "Something was refused; it is counted and reported.",
    "erased": "A retired device has nothing left; it says so in its reports.",
    "erasure-failed": "A step of the erasure failed; tried again.",
    "failed": "The worker cannot run; `code` and `why` say why.",
    "hello": "The device asked for its assignment.",
    "identity-damaged": "The identity cannot be used; the worker serves meanwhile.",
    "journal-damaged": "What an earlier worker wrote cannot be read to its end; it is set aside.",
    "left": "The control plane knows of the erasure; the identity is gone, and the agent ends.",
    "local-not-listening": "The socket for people at this device could not be made.",
    "local-refused": "A request of somebody at this device was refused.",
    "message-ignored": "A message came on a topic that the agent does not know.",
    "model-lost": "No whole model is left of a family: its committed release is asked for again.",
    "message-refused": "A message could not be read.",
    "metadata-incomplete": "Files of the models repository have not come.",
    "metadata-missing": "The models repository could not be verified yet: files are missing.",
    "model-crashing": "A committed model died at different inputs; the other slot serves again.",
    "model-wrong": "A serving model answers a golden vector wrong; the worker is replaced.",
    "order-taken": "An order of an assignment will be carried out.",
    "patch-applied": "A file was made from the former one; `saved_bytes` were not fetched.",
    "patch-failed": "A patch was not there or did not work; the file is fetched whole.",
    "pointer-mended": "A pointer was lost, or named a broken slot, and was set anew.",
    "probation-passed": "A model's probation ended well; `why` says what was seen.",
    "protocol-fallback": "The broker does not speak MQTT 5; the older protocol is used.",
    "ready": "The worker answers requests.",
    "recorder-failed": "Predictions could not be recorded; they are counted as dropped.",
    "recovered": "Predictions of an earlier worker were moved to the buffer.",
    "recovery-failed": "Predictions of an earlier worker could not be moved yet.",
    "renewal-failed": "The certificate could not be renewed; tried again.",
    "report": "A signed report was made and sent.",
    "report-failed": "A report could not be made; tried again.",
    "request-failed": "A request to the endpoint failed; a fault of the agent.",
    "retired": "The director retired this device: it erases what it holds.",
    "self-test-passed": "A model passed its self-test.",
    "serving": "The worker serves a model.",
    "shadow-ended": "Nothing is mirrored any more; `rows` were compared, `agreed` of them agreed.",
    "shadow-enough": "The candidate saw enough; `rows` were compared, `agreed` of them agreed.",
    "shadow-failed": "A shadow could not be started, or ended by itself.",
    "shadow-started": "A share of the live inputs is mirrored to a shadow.",
    "slot-marked": "Somebody at this device marked a slot good or bad.",
    "slot-refused": "A slot cannot serve; `why` says why. The other one is tried.",
    "spool-erased": "The worker of a retired device removed what was recorded.",
    "started": "The core runs.",
    "state-damaged": "state.db cannot be used; nothing new is activated.",
    "state-not-made": "A new state.db could not be made; tried again.",
    "state-not-opened": "state.db cannot be opened now; tried again.",
    "step-failed": "A step of a deployment failed.",
    "stopped": "The program ended in order.",
    "swap-hung": "A model did not load in time in the worker; the former one serves on.",
    "unhandled": "An error that nobody waited for; a fault of the agent.",
    "unloaded": "The worker serves no model of a family any more.",
    "update-waits": "An update may not go on now; `waits_for` says what it waits for.",
    "usage-damaged": "The counts of bytes were damaged, were put aside, and begin anew.",
    "usage-not-written": "The counts of bytes could not be written; tried again.",
    "worker-died": "The worker ended, unasked; it is started again.",
    "worker-hung": "The worker did not say that it lives; it is killed and started again.",
    "worker-not-started": "The worker could not be started; tried again.",
    "worker-silent": "The worker did not answer the core.",
    "worker-started": "The worker was started.",
}
