"""`shoal serve`: the control plane in this process. Settings are read in `control_plane.config`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from firmware_bundles.errors import InputError

app = typer.Typer(rich_markup_mode=None)


@app.command()
def serve(
    *,
    data: Annotated[Path | None, typer.Option(help="Folder for database, keys and chunks.")] = None,
    host: Annotated[str | None, typer.Option(help="Address that devices' doors bind to.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTPS port, for devices.")] = None,
    local_port: Annotated[
        int | None, typer.Option(help="HTTP port on loopback, for page and commands.")
    ] = None,
    broker: Annotated[
        str | None, typer.Option(help="auto, mosquitto, amqtt or mqtts://HOST:PORT.")
    ] = None,
    broker_port: Annotated[int | None, typer.Option(help="Port of a broker of our own.")] = None,
    broker_ca: Annotated[
        str | None, typer.Option(help="Who certified a foreign broker: a PEM file.")
    ] = None,
    advertise: Annotated[
        str | None, typer.Option(help="Name or address under which devices reach this machine.")
    ] = None,
    certificate_days: Annotated[
        int | None, typer.Option(help="Life of a device's certificate, 30 to 90 days.")
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="URL of a database; else a file in --data.")
    ] = None,
    tick_s: Annotated[
        float | None, typer.Option(help="How often rollouts are looked after, in seconds.")
    ] = None,
    patch_bytes_max: Annotated[
        int | None, typer.Option(help="Bytes of patches kept at the broker; 0 makes none.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    new_admin_token: Annotated[
        bool, typer.Option("--new-admin-token", help="Make one more administrator's token.")
    ] = False,
) -> None:
    """Run the control plane: API, page, rollouts, telemetry and, unless told otherwise, a broker.

    Each option is also a line of the settings file and a variable SHOAL_NAME. The first start
    prints the administrator's token and what to do next. Ctrl-C or SIGTERM ends it in order.

    \b
    Example:
      shoal serve --data /var/lib/shoal --host 0.0.0.0 --advertise shoal.example
    """
    try:
        from control_plane import config as settings
        from control_plane import service
    except ModuleNotFoundError as error:
        raise InputError(
            f"'shoal serve' needs {error.name}, which is not installed",
            hint="Install the control plane: pip install 'shoal[control-plane]'.",
        ) from error

    flags = {
        "data": data,
        "host": host,
        "port": port,
        "local_port": local_port,
        "broker": broker,
        "broker_port": broker_port,
        "broker_ca": broker_ca,
        "advertise": advertise,
        "certificate_days": certificate_days,
        "database": database,
        "tick_s": tick_s,
        "patch_bytes_max": patch_bytes_max,
        "log_level": log_level,
    }
    service.run(settings.load(flags, os.environ, config), _say, wants_admin_token=new_admin_token)


def _say(text: str) -> None:
    print(text, flush=True)
