"""Entry of the short-lived children: `python -m agent.task`, frames in, frames out, until the end.

Hostile bytes are parsed here, under resource limits, in a process that has nothing to lose. Heavy
modules are imported by the verb that needs them.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent import task_messages
from firmware_bundles.errors import Malformed, MetadataMissing, ShoalError, TaskFailed
from firmware_bundles.wire.messages import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from firmware_bundles.trust.verifier import Repository

_MEMORY_BYTES_MAX: Final = 1024**3
_CPU_S_MAX: Final = 20
_NICENESS: Final = 5  # serving comes first, a worker's restart before all
# A slow board needs most of a minute for the largest file.
_PATCH_CPU_S_MAX: Final = 80


def admit(request: task_messages.Admit) -> task_messages.Admitted:
    """Verify the repository, then the envelope against it."""
    from firmware_bundles.trust import verifier

    moment = verifier.moment(
        request.envelope,
        device=request.device,
        nonce=request.nonce,
        own=request.now,
        floor=request.time_floor,
    )
    repository = _refresh(request, moment)
    moment = max(moment, repository.issued)
    marks = dict(repository.marks)
    try:
        assignment = verifier.admit(
            repository,
            request.envelope,
            device=request.device,
            generations=request.generations,
            nonce=request.nonce,
            now=moment,
        )
    except ShoalError as error:
        return task_messages.Admitted(
            marks=marks,
            proved=repository.issued,
            fault=Fault(code=error.code, message=error.message[:512]),
        )
    proved = max(repository.issued, assignment.issued)
    return task_messages.Admitted(marks=marks, proved=proved, assignment=assignment)


def _refresh(request: task_messages.Admit, moment: float) -> Repository:
    """Verify the collected files; where some cannot be had, the cache once more if that may be."""
    from firmware_bundles.trust import verifier

    folder = Path(request.metadata_dir)
    try:
        return verifier.refresh(folder, request.root, request.files, moment, request.floors)
    except MetadataMissing:
        if not request.may_use_cache:
            raise
    cached = verifier.cached_files(folder)
    return verifier.refresh(folder, request.root, cached, moment, request.floors)


def check_release(request: task_messages.CheckRelease) -> task_messages.Allowed:
    """Hold a model against the owners' terms in the cache.

    Time is left out: an old word is better than none, and no later one can be had offline.
    """
    from firmware_bundles.trust import verifier

    folder = Path(request.metadata_dir)
    cached = verifier.cached_files(folder)
    repository = verifier.refresh(folder, request.root, cached, 0.0, request.floors)
    verifier.check_model(repository, request.family, request.model)
    return task_messages.Allowed()


def sign_report(request: task_messages.SignReport) -> task_messages.Signed:
    """Sign a report with the device's key."""
    from firmware_bundles.trust import envelopes

    signer = envelopes.device_signer(request.report.device, Path(request.key_path).read_bytes())
    return task_messages.Signed(envelope=envelopes.sign(request.report, signer))


def prepare_state(request: task_messages.PrepareState) -> task_messages.Prepared:
    """Make the tables of state.db."""
    from agent.store import state_schema

    state_schema.prepare(Path(request.path))
    return task_messages.Prepared()


def renew(request: task_messages.Renew) -> task_messages.Renewed:
    """Renew the device's certificate, if it is time."""
    from agent import reenrolment

    key_file = None if request.key_file is None else Path(request.key_file)
    return reenrolment.renew(Path(request.state_dir), request.now, key_file)


def fetch_chunks(request: task_messages.FetchChunks) -> task_messages.FetchedChunks:
    """Fetch chunks over HTTPS."""
    from agent import web_chunks

    return web_chunks.fetch(request)


def apply_patch(request: task_messages.ApplyPatch) -> task_messages.Applied:
    """Apply a patch."""
    from agent.deployment import patched_file

    resource.setrlimit(resource.RLIMIT_CPU, (_PATCH_CPU_S_MAX, _PATCH_CPU_S_MAX))
    return task_messages.Applied(bytes=patched_file.make(request))


def main() -> int:
    """Answer requests until the input ends; returns the exit status, 1 after a broken frame."""
    _limit()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while head := source.read(task_messages.LENGTH_BYTES):
        length = int.from_bytes(head, "big")
        if len(head) < task_messages.LENGTH_BYTES or length > task_messages.REQUEST_BYTES_MAX:
            return 1
        sink.write(task_messages.frame(_answer(source.read(length))))
        sink.flush()
    return 0


def _answer(body: bytes) -> msgspec.Struct:
    try:
        request = _parse(body)
        return _VERBS[type(request)](request)
    except ShoalError as error:
        return task_messages.Refusal(code=error.code, message=error.message, hint=error.hint)
    except Exception as error:  # noqa: BLE001 - the core must get an answer, whatever happened
        return task_messages.Refusal(code=TaskFailed.code, message=f"{error!r:.500}")


_VERBS: Final[dict[type[msgspec.Struct], Callable[..., msgspec.Struct]]] = {
    task_messages.Admit: admit,
    task_messages.CheckRelease: check_release,
    task_messages.SignReport: sign_report,
    task_messages.PrepareState: prepare_state,
    task_messages.Renew: renew,
    task_messages.FetchChunks: fetch_chunks,
    task_messages.ApplyPatch: apply_patch,
}


def _parse(body: bytes) -> task_messages.Request:
    try:
        request: task_messages.Request = msgspec.json.decode(body, type=task_messages.Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"a task's request cannot be read: {error}") from error
    return request


def _limit() -> None:
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES_MAX, _MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S_MAX, _PATCH_CPU_S_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
