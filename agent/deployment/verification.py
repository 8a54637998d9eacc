"""From the retained repository files and an envelope to an assignment that may be carried out.

All files that the hint names are collected first (`collection`) and verified afterwards, in a task.
What is refused is detected and told in the next report; the running model is not touched.
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
from firmware_bundles.limits import ASSIGNMENT_BYTES_MAX
from firmware_bundles.wire.messages import Assignment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.children import Children
    from agent.clock import Clock
    from agent.deployment.collection import Collection
    from agent.identity import Identity
    from agent.store.state import State

_ENVELOPES_WAITING_MAX: Final = 4
_ENVELOPE_BYTES_MAX: Final = ASSIGNMENT_BYTES_MAX * 2
_ATTEMPTS_MAX: Final = 3


class Known(NamedTuple):
    """What an assignment is held against: the newest generations, and the last hello's nonce."""

    generations: Mapping[str, int]
    nonce: str | None


class Verification:
    """Waits for the collection, asks the task, and hands on what was admitted."""

    def __init__(
        self,
        identity: Identity,
        *,
        state: State,
        children: Children,
        clock: Clock,
        collection: Collection,
        known: Callable[[], Known],
        on_assignment: Callable[[Assignment], None],
        detect: Callable[[ShoalError], None],
    ) -> None:
        self._identity = identity
        self._state = state
        self._children = children
        self._clock = clock
        self._collection = collection
        self._known = known
        self._on_assignment = on_assignment
        self._detect = detect
        self._envelopes: asyncio.Queue[bytes] = asyncio.Queue(_ENVELOPES_WAITING_MAX)

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

        A file that was swapped on its way never changes by itself: after a refusal, of the whole
        or of one family, all are collected anew, and judged once more if that makes a difference.
        """
        try:
            self._accept(await self._admit(envelope))
        except TrustError as error:
            judged = dict(self._collection.files)
            self._collection.drop()
            await self._collection.whole()
            if self._collection.files == judged:
                self._collection.drop()  # the next envelope asks for them anew
                raise
            self._detect(error)
            self._accept(await self._admit(envelope))

    async def _admit(self, envelope: bytes) -> task_messages.Admitted:
        """Ask the task; again when files were still on their way."""
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            await self._collection.whole()
            try:
                request = self._request(envelope, may_use_cache=attempt == _ATTEMPTS_MAX)
                return await self._children.run(request, task_messages.Admitted)
            except TransferError as error:
                log.event("metadata-missing", attempt=attempt, reason=error.message)
                await self._collection.change()
        raise MetadataMissing("the models repository could not be collected whole")

    def _request(self, envelope: bytes, *, may_use_cache: bool) -> task_messages.Admit:
        known = self._known()
        return task_messages.Admit(
            metadata_dir=str(self._identity.directory.parent / "trust"),
            root=self._identity.root,
            files=dict(self._collection.files),
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
