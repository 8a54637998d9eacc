"""What devices are told to run: signed on demand, never retained.

Who shall run what is decided by rollouts and stands in `store.devices`; here it is said.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET

from control_plane.fleet import retirement
from firmware_bundles import limits
from firmware_bundles.errors import ShoalError
from firmware_bundles.trust import envelopes
from firmware_bundles.wire import codec, messages, topics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from control_plane.store.devices import Devices
    from control_plane.store.retirement import RetirementRow
    from firmware_bundles.trust.keys import Signer

_LOG: Final = logging.getLogger(__name__)


class Assignments:
    """Answers hellos and pushes changes.

    `director` signs, `publish` takes topic and payload, `patches` says by family which there are
    for a device, `retirement` finds the one of a device; `refused` hears the id of one that said
    hello and is not enrolled, or revoked.
    """

    def __init__(
        self,
        devices: Devices,
        director: Signer,
        publish: Callable[[str, bytes], None],
        clock: Callable[[], float],
        patches: Callable[[str], Mapping[str, Sequence[messages.PatchReference]]] = lambda _: {},
        retirement: Callable[[str], RetirementRow | None] = lambda _: None,
        refused: Callable[[str], None] = lambda _device_id: None,
    ) -> None:
        self._retirement = retirement
        self._devices = devices
        self._director = director
        self._publish = publish
        self._clock = clock
        self._patches = patches
        self._refused = refused

    def handle(self, device_id: str, payload: bytes) -> None:
        """Answer a hello as it came from the broker. Raises WireError, BrokerUnreachable."""
        (error,) = self.handle_all([(device_id, payload)])
        if error is not None:
            raise error

    def handle_all(self, batch: Sequence[tuple[str, bytes]]) -> list[ShoalError | None]:
        """Answer hellos with what is newer than what each device knows; always, to tell the time.

        Says of each why it was not answered, if it was not.
        """
        hellos = [_hello(payload) for _, payload in batch]
        versions = {
            device_id: said.agent_version
            for (device_id, _), said in zip(batch, hellos, strict=True)
            if isinstance(said, messages.Hello)
        }
        known = self._devices.greeted(versions, self._clock()) if versions else frozenset()
        orders = self._devices.orders_of(known)
        return [
            self._answer(device_id, said, orders.get(device_id, ()), is_known=device_id in known)
            if isinstance(said, messages.Hello)
            else said
            for (device_id, _), said in zip(batch, hellos, strict=True)
        ]

    def _answer(
        self,
        device_id: str,
        hello: messages.Hello,
        orders: Sequence[messages.Order],
        *,
        is_known: bool,
    ) -> ShoalError | None:
        if not is_known:
            _LOG.info("hello of a device without access device=%s", device_id)
            self._refused(device_id)
            return None
        try:
            self._send(device_id, newer(orders, hello.generations), hello.nonce)
        except ShoalError as error:
            return error
        return None

    def push(self, device_ids: Sequence[str]) -> None:
        """Tell those of the devices that are online; the others ask when they connect."""
        online = self._devices.online(device_ids)
        for device_id in device_ids:
            if device_id in online:
                self._send(device_id, self._devices.orders(device_id), None)

    def _send(self, device_id: str, orders: Sequence[messages.Order], nonce: str | None) -> None:
        now = self._clock()
        if orders:
            orders = patched(orders, self._patches(device_id))
        erase = retirement.order(self._retirement(device_id))
        assignment = messages.Assignment(
            schema=messages.SCHEMA if erase is None else messages.SCHEMA_OF_RETIREMENT,
            device=device_id,
            issued=now,
            expires=now + limits.ASSIGNMENT_LIFE_S,
            orders=tuple(orders) if erase is None else (),
            nonce=nonce,
            erase=UNSET if erase is None else erase,
        )
        payload = envelopes.sign(assignment, self._director)
        self._publish(topics.down(device_id, topics.Down.ASSIGNMENT), payload)


def _hello(payload: bytes) -> messages.Hello | ShoalError:
    try:
        return codec.decode(messages.Hello, payload)
    except ShoalError as error:
        return error


def newer(orders: Sequence[messages.Order], generations: Mapping[str, int]) -> list[messages.Order]:
    """Return the orders whose generation is newer than what the device has of that family."""
    return [order for order in orders if order.generation > generations.get(order.family, 0)]


def patched(
    orders: Sequence[messages.Order],
    patches: Mapping[str, Sequence[messages.PatchReference]],
) -> list[messages.Order]:
    """Return the orders with the first patches of their families, as many as a message takes."""
    found: list[messages.Order] = []
    left = limits.PATCHES_PER_ASSIGNMENT_MAX
    for order in orders:
        taken = tuple(patches.get(order.family, ()))[: min(limits.PATCHES_PER_ORDER_MAX, left)]
        left -= len(taken)
        found.append(msgspec.structs.replace(order, patches=taken) if taken else order)
    return found
