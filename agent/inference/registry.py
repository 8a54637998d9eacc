"""Which model answers for which family, and how one takes the place of another.

A model is replaced by one assignment: who holds the old one finishes with it, and it is freed after
its last request. Loading itself is `served`'s affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agent.deployment import captures, slots, upload_policy
from agent.deployment.slots import Slot
from agent.inference import apart, mirror, served
from agent.inference.breadcrumbs import Act
from agent.inference.control import FamilyStatus
from agent.inference.guarded import Guard
from agent.inference.mirror import Mirror
from agent.inference.served import ServedModel
from agent.telemetry import capture
from agent.telemetry.capture import Rules
from agent.telemetry.recorder import Recorder
from agent.telemetry.recording import Recording
from firmware_bundles.errors import Malformed, ModelUnusable, SelfTestFailed, ShoalError, SlotBroken


class Serving(NamedTuple):
    """A model together with where its answers are recorded."""

    model: ServedModel
    recording: Recording


class Registry:
    """The serving models by family, and the reasons where there is none."""

    def __init__(
        self,
        root: Path,
        recorder: Recorder,
        guard: Guard,
        on_event: Callable[..., None],
        load: Callable[[Slot, Guard], ServedModel] = served.load,
    ) -> None:
        self.serving: dict[str, Serving] = {}
        self.reasons: dict[str, str] = {}
        self.mirrors: dict[str, Mirror] = {}
        self.changed = asyncio.Event()  # set when a family gets another model
        self._root = root
        self._recorder = recorder
        self._guard = guard
        self._on_event = on_event
        self._load_guarded = load
        self._changing = asyncio.Lock()

    def start(self) -> None:
        """Serve every family from the slot its pointer names; a broken one: from a good other."""
        for family in slots.families(self._root):
            self._start(family)

    async def swap(self, family: str, deadline_s: float) -> FamilyStatus:
        """Serve what the family's pointer names now; the old model answers until then.

        Raises SlotBroken, ModelUnusable (also where the worker died or hung at it before),
        SelfTestFailed (also when the deadline is over), and then nothing has changed.
        """
        slot = slots.serving(self._root, family)
        if slot is None:
            raise SlotBroken(f"the family {family} has no pointer to a slot")
        async with self._changing:
            if not self._guard.may_swap(slots.manifest_digest(slot)):
                raise ModelUnusable(
                    f"the worker died again and again, or hung, while it took {_name(slot)} over"
                )
            model = await self._load_in_time(slot, deadline_s)
            await self._end_shadow(family)  # its pairs would be another model's
            self._serve(family, model)
        return self.status(family)

    async def shadow(self, family: str, name: str, share: float) -> FamilyStatus:
        """Mirror a share of the inputs to the model of a slot; 0 ends what is mirrored.

        Raises SelfTestFailed, SlotBroken.
        """
        await self._end_shadow(family)
        if share > 0:
            current = self.serving.get(family)
            if current is None:
                raise SlotBroken(f"nothing of {family} serves: there is nothing to mirror")
            slot = slots.slot(self._root, family, name)
            made = await mirror.start(
                self._root.parent, current.model, slot, share, self._recorder, self._on_event
            )
            if self.serving.get(family) is not current:
                await made.stop()
                raise SelfTestFailed("another model began to serve meanwhile")
            self.mirrors[family] = made
        return self.status(family)

    async def close(self) -> None:
        """End all shadows."""
        for family in list(self.mirrors):
            await self._end_shadow(family)

    async def _end_shadow(self, family: str) -> None:
        if (ending := self.mirrors.pop(family, None)) is not None:
            await ending.stop()
            facts = ending.status()
            self._on_event(
                "shadow_ended",
                family=family,
                rows=facts.rows,
                agreed=facts.agreed,
                dropped=facts.dropped,
                errors=facts.errors,
            )

    def recapture(self, family: str) -> FamilyStatus:
        """Read anew what is to be captured of the model that serves a family."""
        if (current := self.serving.get(family)) is not None:
            current.recording.capture = self._rules(current.model)
        return self.status(family)

    def unload(self, family: str) -> FamilyStatus:
        """Serve nothing for this family any more."""
        self.serving.pop(family, None)
        self.reasons[family] = "it was unloaded"
        self._on_event("unloaded", family=family)
        return self.status(family)

    def status(self, family: str) -> FamilyStatus:
        """Return what answers for a family."""
        current = self.serving.get(family)
        if current is None:
            return FamilyStatus(reason=self.reasons.get(family, "there is no such family"))
        model = current.model
        return FamilyStatus(
            digest=model.bundle.digest,
            version=model.version,
            runtime=model.backend.runtime,
            delegate=model.backend.delegate,
            delegate_reason=model.delegate_reason,
            since=model.since,
            answered=model.answered,
            errors=model.errors,
            refusals=model.refusals,
            killers=self._guard.killers(model.bundle.digest),
            repeated_deaths=self._guard.repeated(model.bundle.digest),
            signal=self._guard.signal(model.bundle.digest),
            latency_us_sum=model.latency_us_sum,
            ready=True,
            shadow=self.mirrors[family].status() if family in self.mirrors else None,
        )

    def families(self) -> list[str]:
        """Return all families that serve or should."""
        return sorted({*self.serving, *self.reasons})

    def _start(self, family: str) -> None:
        named = slots.serving(self._root, family)
        if named is None:
            self.reasons[family] = "no slot was chosen yet"
            return
        other = slots.other(self._root, family)
        candidates = [named, *([other] if slots.is_good(other) else ())]
        # One that took the worker down while it was loaded comes last. The core asks for it again.
        for slot in sorted(candidates, key=lambda each: not self._may_start(each)):
            try:
                self._serve(family, self._load(slot, Act.STARTING))
            except ShoalError as error:
                # What is said is why the slot that should serve does not.
                self.reasons.setdefault(family, error.message)
                self._on_event("slot_refused", slot=_name(slot), code=error.code, why=error.message)
            else:
                return

    def _rules(self, model: ServedModel) -> Rules | None:
        """Return what is to be captured of a model; nothing where the policy does not fit it."""
        bundle = model.bundle
        try:
            policy = captures.read(bundle.slot, bundle.digest)
            if policy is None:
                return None
            labels = len(bundle.labels)
            return capture.rules_for(policy, bundle.manifest.inputs, labels, bundle.baseline)
        except (capture.Unknown, Malformed, OSError) as error:
            self._on_event("capture_refused", family=bundle.slot.family, why=str(error))
            return None

    def _may_start(self, slot: Slot) -> bool:
        try:
            return self._guard.may_start(slots.manifest_digest(slot))
        except SlotBroken:
            return True  # the attempt says what is wrong with it

    async def _load_in_time(self, slot: Slot, deadline_s: float) -> ServedModel:
        """Load a model apart; one that hangs keeps its thread until this worker ends."""
        before = self._guard.lanes()
        try:
            async with asyncio.timeout(deadline_s):
                return await apart.run(lambda: self._load(slot, Act.SWAPPING))
        except TimeoutError as error:
            self._guard.give_up(slots.manifest_digest(slot), before)
            self._on_event("swap_hung", slot=_name(slot), seconds=deadline_s)
            raise SelfTestFailed(
                f"{_name(slot)} could not be taken over within {deadline_s:g} seconds"
            ) from error

    def _load(self, slot: Slot, act: Act) -> ServedModel:
        digest = slots.manifest_digest(slot)
        with self._guard.loading(act, slot.family, digest):
            model = self._load_guarded(slot, self._guard)
        self._guard.loaded(digest)
        return model

    def _serve(self, family: str, model: ServedModel) -> None:
        bundle = model.bundle
        recording = self._recorder.use(family, bundle.digest, bundle.baseline_file, bundle.baseline)
        recording.capture = self._rules(model)
        share = upload_policy.read(self._root, family).predictions_share
        self._recorder.set_share(family, share)
        self.serving[family] = Serving(model, recording)
        self.reasons.pop(family, None)
        self.changed.set()
        self._on_event(
            "serving",
            slot=_name(bundle.slot),
            version=model.version,
            digest=bundle.digest[:12],
            runtime=model.backend.runtime,
        )


def _name(slot: Slot) -> str:
    return f"{slot.family}/{slot.name}"
