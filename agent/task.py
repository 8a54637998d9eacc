"""Entry of the short-lived children: `python -m agent.task VERB`, JSON in, JSON out.

Hostile bytes are parsed here, under resource limits, in a process that has nothing to lose. Heavy
modules are imported by the verb that needs them.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent import children
from firmware_bundles.errors import Malformed, ShoalError, TaskFailed
from firmware_bundles.wire.messages import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

_MEMORY_BYTES_MAX: Final = 1024**3
_CPU_S_MAX: Final = 20


def admit(request: children.Admit) -> children.Admitted:
    """Verify the repository, then the envelope against it."""
    from firmware_bundles.trust import verifier

    repository = verifier.refresh(
        Path(request.metadata_dir), request.root, request.files, request.now
    )
    versions = dict(repository.versions)
    try:
        assignment = verifier.admit(
            repository,
            request.envelope,
            device=request.device,
            generations=request.generations,
            nonce=request.nonce,
            now=request.now,
        )
    except ShoalError as error:
        return children.Admitted(
            versions=versions, fault=Fault(code=error.code, message=error.message[:512])
        )
    return children.Admitted(versions=versions, assignment=assignment)


def sign_report(request: children.SignReport) -> children.Signed:
    """Sign a report with the device's key."""
    from firmware_bundles.trust import envelopes

    signer = envelopes.device_signer(request.report.device, Path(request.key_path).read_bytes())
    return children.Signed(envelope=envelopes.sign(request.report, signer))


def prepare_state(request: children.PrepareState) -> children.Prepared:
    """Make the tables of state.db."""
    from agent.store import state_schema

    state_schema.prepare(Path(request.path))
    return children.Prepared()


def main() -> int:
    """Answer one request and return the exit status: 0 done, 1 refused."""
    _limit()
    try:
        request = _read(sys.argv[1:])
        answer: msgspec.Struct = _VERBS[type(request)](request)
    except ShoalError as error:
        _write(children.Refusal(code=error.code, message=error.message, hint=error.hint))
        return 1
    except Exception as error:  # noqa: BLE001 - the core must get an answer, whatever happened
        _write(children.Refusal(code=TaskFailed.code, message=f"{error!r:.500}"))
        return 1
    _write(answer)
    return 0


_VERBS: Final[dict[type[msgspec.Struct], Callable[..., msgspec.Struct]]] = {
    children.Admit: admit,
    children.SignReport: sign_report,
    children.PrepareState: prepare_state,
}


def _read(arguments: list[str]) -> children.Request:
    data = sys.stdin.buffer.read(children.REQUEST_BYTES_MAX + 1)
    if len(data) > children.REQUEST_BYTES_MAX:
        raise Malformed(f"a task's request is larger than {children.REQUEST_BYTES_MAX} bytes")
    try:
        request: children.Request = msgspec.json.decode(data, type=children.Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"a task's request cannot be read: {error}") from error
    if arguments != [request.__struct_config__.tag]:
        raise Malformed(f"the request is for another verb than {arguments}")
    return request


def _write(answer: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    sys.stdout.buffer.flush()


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES_MAX, _MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S_MAX, _CPU_S_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
