"""From the retained repository files and an envelope to an assignment that may be carried out.

All files that the hint names are collected first and verified afterwards, in a task. What is
refused is detected and told in the next report; the running model is not touched.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from agent import log, task_messages
from firmware_bundles.errors import (
    MessageTooLarge,
    MetadataMissing,
    ShoalError,
    TransferError,
    TrustError,
    from_code,
)
from firmware_bundles.limits import (
    ASSIGNMENT_BYTES_MAX,
    FILTERS_PER_SUBSCRIBE_MAX,
    REPOSITORY_FILE_BYTES_MAX,
)
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import Assignment, RepositoryHint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.children import Children
    from agent.clock import Clock
    from agent.deployment.downloads import Line
    from agent.identity import Identity
    from agent.store.state import State

_ENVELOPES_WAITING_MAX: Final = 4
_ENVELOPE_BYTES_MAX: Final = ASSIGNMENT_BYTES_MAX * 2
_COLLECT_S_MAX: Final = 10.0
_ATTEMPTS_MAX: Final = 3
_TIMESTAMP: Final = "timestamp.json"


class Known(NamedTuple):
    """What an assignment is held against: the newest generations, and the last hello's nonce."""

    generations: Mapping[str, int]
    nonce: str | None


class Verification:
    """Collects, asks the task, and hands on what was admitted."""

    def __init__(
        self,
        identity: Identity,
        *,
        state: State,
        children: Children,
        clock: Clock,
        line: Line,
        known: Callable[[], Known],
        on_assignment: Callable[[Assignment], None],
        detect: Callable[[ShoalError], None],
    ) -> None:
        self._identity = identity
        self._state = state
        self._children = children
        self._clock = clock
        self._line = line
        self._known = known
        self._on_assignment = on_assignment
        self._detect = detect
        self._files: dict[str, bytes] = {}
        self._wanted: frozenset[str] | None = None
        self._changed = asyncio.Event()
        self._envelopes: asyncio.Queue[bytes] = asyncio.Queue(_ENVELOPES_WAITING_MAX)

    def connection_changed(self, *, is_up: bool) -> None:
        """Forget what was subscribed to: the retained hint will come again."""
        if not is_up:
            self._wanted = None

    def take_hint(self, payload: bytes) -> None:
        """Subscribe to the files that the hint names. Raises WireError for a broken hint."""
        hint = codec.decode(RepositoryHint, payload)
        wanted = frozenset(hint.files)
        self._files = {name: data for name, data in self._files.items() if name in wanted}
        self._want(wanted)
        self._changed.set()

    def take_file(self, name: str, payload: bytes) -> None:
        """Keep one retained file until the task reads it. Raises MessageTooLarge."""
        if len(payload) > REPOSITORY_FILE_BYTES_MAX:
            raise MessageTooLarge(f"repository file {name!r:.80} has {len(payload)} bytes")
        if not payload or name not in (self._wanted or ()):
            return
        self._files[name] = payload
        self._changed.set()
        if name != _TIMESTAMP:  # the others never change under their names
            self._line.unsubscribe([topics.repository_file(name)])

    def take_envelope(self, payload: bytes) -> None:
        """Queue an assignment's envelope; the oldest gives way when too many wait."""
        if len(payload) > _ENVELOPE_BYTES_MAX:
            raise MessageTooLarge(f"an assignment's envelope has {len(payload)} bytes")
        if self._envelopes.full():
            self._envelopes.get_nowait()
            log.event("assignment-dropped", reason="too many wait")
        self._envelopes.put_nowait(payload)

    async def run(self) -> None:
        """Verify envelopes one after the other; runs until cancelled."""
        while True:
            envelope = await self._envelopes.get()
            try:
                await self._judge(envelope)
            except ShoalError as error:
                self._detect(error)

    async def _judge(self, envelope: bytes) -> None:
        """Admit an envelope, or refuse it by the repository as it is retained now.

        A file that was swapped on its way never changes by itself: after a refusal all are
        collected anew, and judged once more if that makes a difference.
        """
        try:
            self._accept(await self._admit(envelope))
        except TrustError as error:
            judged = self._files
            self._collect_anew()
            await self._collect()
            if self._files == judged:
                raise
            self._detect(error)
            self._accept(await self._admit(envelope))

    async def _admit(self, envelope: bytes) -> task_messages.Admitted:
        """Ask the task; again when files were still on their way."""
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            await self._collect()
            self._changed.clear()
            try:
                request = self._request(envelope, may_use_cache=attempt == _ATTEMPTS_MAX)
                return await self._children.run(request, task_messages.Admitted)
            except TransferError as error:
                log.event("metadata-missing", attempt=attempt, reason=error.message)
                await self._wait_for_change()
        raise MetadataMissing("the models repository could not be collected whole")

    def _request(self, envelope: bytes, *, may_use_cache: bool) -> task_messages.Admit:
        known = self._known()
        return task_messages.Admit(
            metadata_dir=str(self._identity.directory.parent / "trust"),
            root=self._identity.root,
            files=dict(self._files),
            envelope=envelope,
            device=self._identity.device,
            generations=dict(known.generations),
            nonce=known.nonce,
            now=self._clock.now(),
            time_floor=self._clock.floor(),
            floors=self._state.floors(),
            may_use_cache=may_use_cache,
        )

    def _accept(self, admitted: task_messages.Admitted) -> None:
        """Raise the floors before anything verified is used, then hand the assignment on."""
        self._state.raise_floors(admitted.marks)
        is_fresh = admitted.assignment is not None and admitted.assignment.nonce is not None
        self._state.raise_time_floor(self._clock.raise_floor(admitted.proved, is_fresh=is_fresh))
        if admitted.fault is not None:
            raise from_code(admitted.fault.code, admitted.fault.message)
        if admitted.assignment is not None:
            self._on_assignment(admitted.assignment)

    def _collect_anew(self) -> None:
        wanted, self._wanted, self._files = self._wanted, None, {}
        if wanted is not None:
            self._line.unsubscribe([topics.repository_file(name) for name in sorted(wanted)])
            self._want(wanted)

    def _want(self, wanted: frozenset[str]) -> None:
        """Subscribe to the files of a repository that are not subscribed to."""
        new = sorted(wanted - (self._wanted or frozenset()))
        self._wanted = wanted
        filters = [topics.repository_file(name) for name in new]
        for start in range(0, len(filters), FILTERS_PER_SUBSCRIBE_MAX):
            self._line.subscribe(filters[start : start + FILTERS_PER_SUBSCRIBE_MAX])

    async def _collect(self) -> None:
        """Wait until every file that the hint names is there, or for as long as makes sense."""
        try:
            async with asyncio.timeout(_COLLECT_S_MAX):
                while self._wanted is None or not self._wanted <= self._files.keys():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            missing = sorted((self._wanted or frozenset()) - self._files.keys())
            log.event("metadata-incomplete", missing=",".join(missing) or "hint")

    async def _wait_for_change(self) -> None:
        try:
            async with asyncio.timeout(_COLLECT_S_MAX):
                await self._changed.wait()
        except TimeoutError:
            return
