"""The composition root of the control plane: who is made from what, started and stopped in order.

Nothing is decided here. One process: two HTTP listeners in the main thread, one MQTT client, the
inbox of what devices say, and the ticker of rollouts and of the models repository.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
import time
from collections import Counter
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from control_plane import cycles, routes
from control_plane.alerts import decision, destinations
from control_plane.alerts.posting import Posting
from control_plane.alerts.rounds import Rounds, Sources
from control_plane.api import listeners
from control_plane.api import tokens as token_routes
from control_plane.api.auth import Access, Role
from control_plane.broker import acl, choice, client
from control_plane.broker.client import BrokerClient
from control_plane.broker.eviction import LIFE_S as EVICTION_LIFE_S
from control_plane.broker.eviction import Eviction
from control_plane.broker.inbox import Inbox
from control_plane.config import SETTINGS
from control_plane.config import text as settings_text
from control_plane.data_folder import Hold
from control_plane.fleet.assignments import Assignments
from control_plane.fleet.authority import ROOT_KEY, Authority, Pair
from control_plane.fleet.cohorts import Cohorts
from control_plane.fleet.misconduct import Misconduct
from control_plane.fleet.presence import Presences
from control_plane.fleet.reports import Reports
from control_plane.fleet.retirement import Retirements
from control_plane.fleet.revocation import Revocations
from control_plane.fleet.strangers import Strangers
from control_plane.releases.announcer import Announcer
from control_plane.releases.chunk_files import ChunkFiles
from control_plane.releases.online_keys import OnlineKeys
from control_plane.releases.patch_maker import PatchMaker
from control_plane.releases.publisher import Publisher
from control_plane.releases.registry import Registry
from control_plane.releases.repository import ModelsRepository
from control_plane.releases.requests import ChunkRequests
from control_plane.rollouts import prometheus
from control_plane.rollouts.asking import Asking
from control_plane.rollouts.enlisting import Enlisting
from control_plane.rollouts.executor import Executor
from control_plane.rollouts.upholding import Upholding
from control_plane.store.access import AccessTokens
from control_plane.store.database import Database
from control_plane.store.stores import Stores
from control_plane.telemetry.baselines import Baselines
from control_plane.telemetry.ingest import Ingest
from control_plane.telemetry.retention import Periods, Retention
from control_plane.telemetry.standing import Rules
from control_plane.telemetry.watching import Watching
from control_plane.ticker import Ticker
from firmware_bundles import durable
from firmware_bundles.sketches.watch import Settings
from firmware_bundles.wire.topics import Up

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from fastapi import FastAPI

    from control_plane.broker.endpoint import Broker
    from control_plane.config import Config

    Clock = Callable[[], float]
    Say = Callable[[str], None]

_LOOPBACK: Final = "127.0.0.1"
_STOP_S_MAX: Final = 1.0
DAY_S: Final = 86_400
_CA_FOLDER: Final = "ca"
_SESSION_KEY_BYTES: Final = 32


class _Files(NamedTuple):
    """Certificates of this process on disk."""

    server: listeners.Tls
    client: listeners.Tls
    ca: Path


def run(config: Config, say: Say, *, wants_admin_token: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; `say` tells a person what to do next.

    Raises ConfigInvalid, StateDamaged, BrokerUnreachable, OSError.
    """
    _log_to_stderr(config.log_level)
    os.umask(0o077)  # the database holds the devices' secrets, wherever its folder is
    with ExitStack() as stack:
        stack.enter_context(Hold(config.data))
        durable.write(config.data / SETTINGS, settings_text(config).encode(), mode=0o600)
        secure = stack.enter_context(listeners.bind(config.host, config.port, "--port"))
        local = stack.enter_context(listeners.bind(_LOOPBACK, config.local_port, "--local-port"))
        database = Database.open(config.database_url)
        stack.callback(database.close)
        stores = Stores.over(database)
        service = _Service(config, stores, listeners.port_of(secure), time.time, say)
        if wants_admin_token or stores.tokens.count() == 0:
            _tell_admin_token(stores.tokens, listeners.port_of(local), say)
        stack.callback(service.stop)
        service.start()
        cycles.look_seldom()
        doors = [
            listeners.Door(secure, service.files.server, clients=service.files.ca),
            listeners.Door(local, None),
        ]
        asyncio.run(listeners.serve(service.app, doors, lambda: service.tell_ready(local, say)))
        say("stopping")


class _Service:
    """All parts, made but not started."""

    def __init__(self, config: Config, stores: Stores, port: int, clock: Clock, say: Say) -> None:
        self._config = config
        self._stores = stores
        self._clock = clock
        self._server_url = f"https://{_in_url(config.device_host)}:{port}"
        self._authority = Authority.load_or_create(
            config.data / _CA_FOLDER, clock, config.certificate_days * DAY_S
        )
        server = self._authority.issue_server(_names(config))
        own = self._authority.issue_client(acl.SERVICE)
        self.files = _write_files(config, self._authority.certificate_pem, server, own)
        self._misconduct = Misconduct(stores.devices, clock)
        self._broker: Broker = choice.choose(
            config,
            ca=self._authority.chain_pem,
            server=server,
            revoked=self._authority.revocation_list(stores.certificates.revoked(clock())),
            exceeded=self._misconduct.subscribed,
            note=say,
        )
        self._revocations = self._make_revocations()
        self._client = BrokerClient(self._broker.own, self._tls())
        self._keys = OnlineKeys.load_or_create(config.data / "keys")
        self._chunks = ChunkFiles(config.data / "chunks")
        self._registry = Registry(stores.releases, self._chunks)
        self._repository = ModelsRepository(stores.releases, self._chunks, self._keys, clock)
        self._publisher = Publisher(
            self._repository,
            stores.releases,
            self._chunks,
            self._client.publish,
            stores.patches,
            retained_bytes_max=config.retained_bytes_max,
        )
        self._announcer = Announcer(
            self._publisher,
            self._repository,
            flush=self._client.flush,
            save=self._broker.save,
            clock=clock,
        )
        self._cohorts = Cohorts(stores.cohorts, stores.devices, clock)
        self._strangers = Strangers(stores.devices.exists, clock)
        self._assignments = Assignments(
            stores.devices,
            self._keys.director,
            self._client.publish,
            clock,
            patches=stores.patches.of_device,
            retirement=stores.retirements.find,
            refused=self._strangers.note,
        )
        self._retirements = self._make_retirements()
        self._baselines = Baselines(stores.telemetry.manifest, self._chunks.get)
        self._watching = self._make_watching()
        self._rounds = self._make_rounds()
        hosts = destinations.hosts(config.webhook_hosts)
        self._posting = Posting(stores.outbox, clock, hosts)
        self._tickers = self._make_tickers()
        self._inbox = self._make_inbox()
        self.app = self._make_app()

    def start(self) -> None:
        """Start all but the listeners. Raises BrokerUnreachable."""
        # Nobody listened until now: who is there says so again, or its retained presence does.
        self._stores.devices.forget_presence()
        self._broker.start()
        self._inbox.start()
        self._client.start(on_message=self._inbox.put, on_connect=self._announcer.broker_connected)
        for ticker in self._tickers:
            ticker.start()

    def stop(self) -> None:
        """Stop all in the opposite order; harmless if nothing was started."""
        for ticker in reversed(self._tickers):
            ticker.stop(_STOP_S_MAX)
        self._inbox.stop(_STOP_S_MAX)
        self._client.stop()
        self._broker.stop()

    def tell_ready(self, local: socket.socket, say: Say) -> None:
        """Tell where everything is."""
        say(
            f"shoal {version('shoal')} is ready\n"
            f"  page and API   http://{_LOOPBACK}:{listeners.port_of(local)}\n"
            f"  devices        {self._server_url}  (CA: {self.files.ca})\n"
            f"  broker         {self._broker.offered.url}  ({self._broker.name})\n"
            f"  data           {self._config.data}"
        )
        self._tell_of_root_key(say)

    def _tell_of_root_key(self, say: Say) -> None:
        root_key = self._config.data / _CA_FOLDER / ROOT_KEY
        if root_key.exists():
            say(f"  root CA key    {root_key}  (not needed daily: move it to a safe place)")
        elif self._authority.is_ending():
            say(f"  root CA key    the issuing CA ends soon: put {root_key} back, and start again")

    def _tls(self) -> ssl.SSLContext | None:
        if not self._broker.own.is_tls:
            return None
        ca = Path(self._config.broker_ca or self.files.ca)
        return client.tls_context(ca, self.files.client.certificate, self.files.client.key)

    def _make_revocations(self) -> Revocations:
        ca = Path(self._config.broker_ca or self.files.ca)
        eviction = Eviction(
            self._broker.own,
            ca,
            lambda name: self._authority.issue_client(name, EVICTION_LIFE_S),
        )
        return Revocations(
            self._stores.certificates,
            self._authority,
            install=self._install_revocations,
            evict=eviction.evict,
            clock=self._clock,
        )

    def _make_retirements(self) -> Retirements:
        return Retirements(
            self._stores.retirements,
            revoke=self._revocations.revoke,
            push=self._assignments.push,
            clock=self._clock,
        )

    def _install_revocations(self, revoked: bytes) -> None:
        """Keep the list where the owner of a foreign broker finds it, and give it to our own."""
        durable.write(self._config.data / "crl.pem", revoked)
        self._broker.install(revoked)

    def _make_watching(self) -> Watching:
        config = self._config
        settings = Settings(config.watch_reference_rows, config.watch_threshold)
        return Watching(
            self._stores.watches,
            self._baselines,
            Rules(settings, config.watch_quiet_windows),
            self._clock,
            config.watch_settle_s,
        )

    def _make_rounds(self) -> Rounds:
        stores, config = self._stores, self._config
        sources = Sources(
            alerts=stores.alerts,
            watches=stores.watches,
            concerns=stores.concerns,
            telemetry=stores.telemetry,
            baselines=self._baselines,
            members=self._cohorts.all_members,
        )
        rules = decision.Rules(config.alert_quiet_s, config.alert_renotify_s)
        return Rounds(sources, rules, self._clock, silent_s=config.silent_s)

    def _make_tickers(self) -> tuple[Ticker, ...]:
        """Return what looks after everything, and by themselves what may take its time."""
        executor = Executor(self._stores.rollouts, self._assignments.push, self._clock)
        asking = Asking(self._stores.rollouts, prometheus.ask, self._clock)
        enlisting = Enlisting(self._stores.rollouts, self._registry, self._cohorts, self._clock)
        upholding = Upholding(
            self._stores.rollouts,
            self._registry,
            self._cohorts,
            Executor(self._stores.rollouts, self._assignments.push, self._clock),
            self._clock,
        )
        maker = PatchMaker(
            self._stores.patches,
            self._registry,
            self._chunks,
            announce=self._publisher.announce_changes,
            bytes_max=self._config.patch_bytes_max,
            clock=self._clock,
        )
        rounds = [
            self._retirements.tick,
            self._revocations.tick,
            self._misconduct.tick,
            self._announcer.tick,
            executor.tick,
        ]
        tick_s, slow_s = self._config.tick_s, max(self._config.tick_s, 1.0)
        return (
            Ticker(rounds, tick_s),
            Ticker([asking.tick], slow_s),
            Ticker([maker.tick], slow_s),
            Ticker([enlisting.tick, upholding.tick], slow_s),
            Ticker([self._watching.tick], slow_s),
            Ticker([self._rounds.tick], max(10 * tick_s, 1.0)),
            Ticker([self._posting.tick], slow_s),
            Ticker([self._make_retention().tick], slow_s),
        )

    def _make_retention(self) -> Retention:
        periods = {name: getattr(self._config, name) for name in Periods.__struct_fields__}
        return Retention(
            self._stores.pruning, Periods(**periods), self._baselines.find, self._clock
        )

    def _make_inbox(self) -> Inbox:
        devices = self._stores.devices
        refused: Counter[str] = Counter()
        ingest = Ingest(
            self._stores.telemetry,
            devices.telemetry_secret,
            self._client.tell,
            self._clock,
            self._misconduct.refused,
            refused,
        )
        requests = ChunkRequests(self._chunks.get, self._client.publish, self._clock)
        reports = Reports(devices, self._clock, self._retirements.confirmed)
        return Inbox(
            {Up.REQUEST: requests.handle},
            ingest.ingest,
            self._misconduct.refused,
            together={
                Up.PRESENCE: Presences(devices, self._clock).handle_all,
                Up.HELLO: self._assignments.handle_all,
                Up.REPORT: reports.handle_all,
            },
            refused=refused,
        )

    def _make_app(self) -> FastAPI:
        return routes.create(
            routes.Parts(
                config=self._config,
                stores=self._stores,
                clock=self._clock,
                access=Access(self._stores.tokens, _session_key(self._config.data), self._clock),
                server_url=self._server_url,
                authority=self._authority,
                broker=self._broker,
                client=self._client,
                inbox=self._inbox,
                repository=self._repository,
                registry=self._registry,
                chunks=self._chunks,
                publisher=self._publisher,
                keys=self._keys,
                cohorts=self._cohorts,
                strangers=self._strangers,
                revocations=self._revocations,
                retirements=self._retirements,
                baselines=self._baselines,
                watching=self._watching,
                rounds=self._rounds,
                posting=self._posting,
            )
        )


def _write_files(config: Config, ca: bytes, server: Pair, client_pair: Pair) -> _Files:
    public = config.data / "ca.pem"
    durable.write(public, ca)
    directory = config.data / "tls"
    directory.mkdir(exist_ok=True, mode=0o700)
    return _Files(
        server=_write_pair(directory, "server", server),
        client=_write_pair(directory, "client", client_pair),
        ca=public,
    )


def _write_pair(directory: Path, name: str, pair: Pair) -> listeners.Tls:
    files = listeners.Tls(directory / f"{name}.pem", directory / f"{name}.key")
    durable.write(files.key, pair.key, mode=0o600)
    durable.write(files.certificate, pair.certificate)
    return files


def _names(config: Config) -> list[str]:
    names = [config.device_host, config.host, "localhost", _LOOPBACK, "::1"]
    return [name for name in names if name not in {"0.0.0.0", "::"}]  # noqa: S104 left out


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _session_key(data: Path) -> bytes:
    path = data / "session.key"
    if not path.exists():
        durable.write(path, secrets.token_bytes(_SESSION_KEY_BYTES), mode=0o600)
    return path.read_bytes()


def _tell_admin_token(tokens: AccessTokens, local_port: int, say: Say) -> None:
    made = token_routes.create(tokens, "admin", Role.ADMIN, time.time())
    say(
        "The administrator's token, told only this once:\n\n"
        f"  {made.token}\n\n"
        "What to do next, in another terminal:\n\n"
        f"  export SHOAL_SERVER=http://{_LOOPBACK}:{local_port} SHOAL_TOKEN={made.token}\n"
        "  shoal keys init --out keys --family FAMILY   make the owners' keys\n"
        "  shoal device invite                          let a device enrol\n"
        "  shoal release publish BUNDLE                 give the fleet a model\n"
    )


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(asctime)s level=%(levelname)s from=%(name)s %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("alembic", "asyncio", "httpx", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
