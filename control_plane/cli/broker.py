"""`shoal broker`: the settings of a broker that somebody else runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from control_plane.cli import http, output

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def broker() -> None:
    """Keep `config` a verb of its own."""


@app.command()
def config(
    *,
    host: Annotated[str, typer.Option(help="Address that it listens on.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(help="Port that it listens on.")] = 8883,
    out: Annotated[Path | None, typer.Option(help="Write the files to this folder.")] = None,
) -> None:
    """Print the configuration and access rules for an external mosquitto, and those for others.

    Beside them it needs server.pem and server.key of its own, and crl.pem from the data folder of
    the control plane, copied and reloaded (SIGHUP) whenever it changes and at least weekly.

    \b
    Example:
      shoal broker config --port 8883 --out /etc/mosquitto/shoal
    """
    with http.connect() as api:
        found = api.get("broker/config", host=host, port=port)
    if output.is_json():
        output.show_json(found)
        return
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    for name, text in found["files"].items():
        if out is None:
            print(f"# ---- {name}\n{text}")
        else:
            (out / name).write_text(text)
            output.note(f"wrote {out / name}")
    print("# Any other broker must keep these rules:")
    for rule in found["rules"]:
        print(f"# - {rule}")
