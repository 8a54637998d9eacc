"""Is this device well set up? Checks for `shoal-agent doctor`, each with what to do about it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import agent
from agent import identity as identities
from agent import inventory
from agent.clock import Clock
from agent.connection import tls_context
from agent.deployment import slots
from agent.inference import control, delegates
from agent.inference.delegates import External
from agent.inference.supervisor import CONTROL_SOCKET
from agent.store.state import State
from firmware_bundles.errors import NotEnrolled, ShoalError

if TYPE_CHECKING:
    from agent.config import Config
    from agent.identity import Identity

_DISTRIBUTION: Final = "shoal"
_TIMEOUT_S: Final = 5.0


class Result(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Check(NamedTuple):
    """One finding; `action` says what to do unless all is well."""

    name: str
    result: Result
    detail: str
    action: str = ""


def examine(config: Config) -> list[Check]:
    """Return all findings, in the order in which to mend them."""
    identity, enrolled = _enrolled(config)
    checks = [_package(), _runtime(), enrolled]
    if identity is not None:
        checks += [_modes(identity), _state(config), _clock(config), _broker(identity)]
    return [*checks, *_accelerators(config), _worker(config), *_slots(config)]


def _package() -> Check:
    """Two distributions may own a package called `agent`; the wrong one would run silently."""
    name = "package"
    here = Path(agent.__file__).resolve()
    try:
        distribution = metadata.distribution(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return Check(
            name,
            Result.FAILED,
            f"{here} belongs to no installed '{_DISTRIBUTION}'",
            "Install shoal into an environment of its own.",
        )
    files = {
        str(Path(str(distribution.locate_file(f))).resolve()) for f in distribution.files or ()
    }
    if str(here) in files:
        return Check(name, Result.OK, f"{_DISTRIBUTION} {distribution.version}")
    if any(file.endswith(".pth") for file in files):
        return Check(name, Result.OK, f"{_DISTRIBUTION} {distribution.version} from {here.parent}")
    return Check(
        name,
        Result.FAILED,
        f"{here} is not a file of '{_DISTRIBUTION}'",
        "Another distribution owns the package 'agent': use an environment of shoal's own.",
    )


def _runtime() -> Check:
    runtime = str(inventory.facts()["runtime"])
    if runtime != "none":
        return Check("runtime", Result.OK, runtime)
    return Check(
        "runtime",
        Result.FAILED,
        "no interpreter is installed",
        "Install shoal with the extra [agent].",
    )


def _accelerators(config: Config) -> list[Check]:
    try:
        found = delegates.load(config.state_dir)
    except ShoalError as error:
        action = error.hint or "Mend the file; until then the CPU serves."
        return [Check("accelerators", Result.FAILED, error.message, action)]
    libraries = [each.library for each in found if isinstance(each, External)]
    if missing := [path for path in libraries if not Path(path).exists()]:
        action = "Install it, or take its entry out; until then the CPU serves."
        detail = f"there is no {', '.join(missing)}"
        return [Check("accelerators", Result.WARNING, detail, action)]
    names = ", ".join(each.name for each in found)
    return [Check("accelerators", Result.OK, f"tried in order: {names}")] if found else []


def _enrolled(config: Config) -> tuple[Identity | None, Check]:
    try:
        identity = identities.load(config.state_dir, config.key_file)
    except NotEnrolled as error:
        return None, Check("enrolled", Result.WARNING, error.message, error.hint)
    except ShoalError as error:
        return None, Check("enrolled", Result.FAILED, error.message, "Enrol this device again.")
    return identity, Check("enrolled", Result.OK, f"{identity.device} at {identity.server}")


def _modes(identity: Identity) -> Check:
    loose = [
        f"{name} is {mode:04o}"
        for name, wanted in identities.MODES.items()
        if name != identities.KEY  # looked at when it is loaded, wherever it is
        and (mode := (identity.directory / name).stat().st_mode & 0o777) & ~wanted
    ]
    if not loose:
        return Check("modes", Result.OK, "the key and the secret are the agent's alone")
    return Check(
        "modes",
        Result.FAILED,
        ", ".join(loose),
        f"Take the rights of others away: chmod go-rwx {identity.directory}/*.secret",
    )


def _state(config: Config) -> Check:
    try:
        state = State.open(config.state_dir / "state.db")
        is_damaged = state.is_damaged()
        state.close()
    except ShoalError as error:
        return Check("state", Result.FAILED, error.message, error.hint)
    if is_damaged:
        return Check(
            "state",
            Result.FAILED,
            "the state was lost: models are served, no new one is taken",
            "Enrol this device again.",
        )
    return Check("state", Result.OK, str(config.state_dir / "state.db"))


def _clock(config: Config) -> Check:
    try:
        state = State.open(config.state_dir / "state.db")
        clock = Clock(state.time_floor())
        state.close()
    except ShoalError:
        clock = Clock()
    if clock.is_suspect():
        proved = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(clock.floor()))
        return Check(
            "clock",
            Result.WARNING,
            f"this machine's clock is late: signed times prove {proved}",
            "Set the clock; until then signed times are used.",
        )
    return Check("clock", Result.OK, "contradicts no signed time")


def _broker(identity: Identity) -> Check:
    broker = identity.broker
    where = f"{broker.host}:{broker.port}"
    try:
        with socket.create_connection((broker.host, broker.port), _TIMEOUT_S) as plain:
            if broker.is_tls:
                context = tls_context(identity, Clock())
                context.wrap_socket(plain, server_hostname=broker.host).close()
    except (OSError, ssl.SSLError) as error:
        return Check(
            "broker",
            Result.FAILED,
            f"{where} cannot be reached: {error}",
            "Check the network, and that the control plane runs.",
        )
    return Check("broker", Result.OK, where + (" over TLS" if broker.is_tls else ""))


def _worker(config: Config) -> Check:
    try:
        answer = asyncio.run(control.status(config.run_dir / CONTROL_SOCKET, _TIMEOUT_S))
    except ShoalError as error:
        is_unit = config.worker == "unit"
        start = "systemctl start shoal-inference" if is_unit else "shoal-agent run"
        return Check("worker", Result.WARNING, error.message, f"Start it: '{start}'.")
    ready = sorted(name for name, family in answer.families.items() if family.ready)
    return Check("worker", Result.OK, f"serves {', '.join(ready) or 'no model yet'}")


def _slots(config: Config) -> list[Check]:
    root = config.state_dir / "slots"
    checks = []
    for family in slots.families(root):
        serving = slots.serving(root, family)
        if serving is None:
            continue
        try:
            version = slots.read(serving).version
            detail = f"{family} {version} in slot {serving.name} is whole"
            checks.append(Check("slot", Result.OK, detail))
        except ShoalError as error:
            action = "Roll a model out to this device; the other slot serves meanwhile."
            checks.append(Check("slot", Result.FAILED, error.message, action))
    return checks
