"""Who receives a load of segments, in a process of its own: the control plane's own parts, or paho.

Started as `own PORT DATABASE` or `bare PORT`; says `ready` when it is subscribed. Each line it is
sent is answered with the messages taken so far, and its processor seconds.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from control_plane import cycles
from control_plane.broker.client import BrokerClient
from control_plane.broker.endpoint import Endpoint
from control_plane.broker.inbox import Inbox
from control_plane.store.database import Database
from control_plane.store.stores import Stores
from control_plane.telemetry.ingest import Ingest
from firmware_bundles.wire import topics

_HOST = "127.0.0.1"


def own(port: int, database: str) -> Callable[[], int]:
    """Wire the parts as the service does."""
    stores = Stores.over(Database.open(f"sqlite:///{database}"))
    client = BrokerClient(Endpoint(_HOST, port, is_tls=False), None)
    ingest = Ingest(stores.telemetry, stores.devices.telemetry_secret, client.tell, time.time)
    inbox = Inbox({}, ingest.ingest)
    connected = threading.Event()
    inbox.start()
    client.start(on_message=inbox.put, on_connect=connected.set)
    assert connected.wait(10)
    return lambda: ingest.tally.stored


def bare(port: int) -> Callable[[], int]:
    """Count with paho alone, QoS 1."""
    client = Client(CallbackAPIVersion.VERSION2, "bare")
    taken = [0]
    subscribed = threading.Event()

    def count(*_: object) -> None:
        taken[0] += 1

    def subscribe(*_: object) -> None:
        client.subscribe(topics.ALL_UP, 1)

    client.on_message = count
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_connect = subscribe
    client.connect(_HOST, port)
    client.loop_start()
    assert subscribed.wait(10)
    return lambda: taken[0]


def main() -> None:
    """Do as the module says."""
    logging.basicConfig(level="WARNING")
    kind, port, *rest = sys.argv[1:]
    taken = own(int(port), *rest) if kind == "own" else bare(int(port))
    time.sleep(0.5)  # the broker has the subscription, too
    cycles.look_seldom()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(taken(), time.process_time(), flush=True)


if __name__ == "__main__":
    main()
