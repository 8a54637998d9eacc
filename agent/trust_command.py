"""`shoal-agent trust`: a TUF client for support staff, against any repository on HTTP(S).

Uses the machine's clock. Exit status 0 or 1; an error is one line. How trust is decided stands in
`firmware_bundles.trust.client`; here are arguments, requests and lines.
"""

from __future__ import annotations

import argparse
import logging
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Self

import httpx

from firmware_bundles import limits
from firmware_bundles.errors import InputError, NotFound, ShoalError, TransferError
from firmware_bundles.trust import client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DONE: Final = 0
FAILED: Final = 1
# A repository that sends a byte now and then must not hold the tool for ever (slow retrieval).
_SILENCE_S_MAX: Final = 15.0
_FILE_S_MAX: Final = 1800.0
_ABSENT: Final = frozenset({403, 404})
_EXAMPLES: Final = """\
examples:
  shoal-agent trust --metadata-dir D init root.json
  shoal-agent trust --metadata-dir D --metadata-url https://models.example/metadata refresh
  shoal-agent trust --metadata-dir D --metadata-url https://models.example/metadata \\
    --target-name digits/1/manifest.json --target-dir X \\
    --target-base-url https://models.example/targets download

exit status:
  0 done   1 refused or failed; the reason is one line on standard error
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    for name in ("tuf", "securesystemslib"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    options = _parser().parse_args(arguments)
    try:
        verb: Callable[[argparse.Namespace], None] = options.verb
        verb(options)
    except ShoalError as error:
        return _fail(f"{error.message} ({error.code})")
    except KeyboardInterrupt:
        return _fail("interrupted")
    except Exception as error:  # noqa: BLE001 - hostile input must end in one line, whatever it hit
        return _fail(f"{error!s:.300}" if isinstance(error, OSError) else f"{error!r:.300}")
    return DONE


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return FAILED


class _Parser(argparse.ArgumentParser):
    """Refuses like everything else here: one line, status 1."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_fail(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="shoal-agent trust",
        description="Check a TUF repository as a device would, with this machine's clock.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--metadata-dir", type=Path, required=True, metavar="D", help="trusted")
    parser.add_argument("--metadata-url", metavar="U", help="where the metadata is")
    parser.add_argument("--target-name", action="append", metavar="T", help="may be repeated")
    parser.add_argument("--target-dir", type=Path, metavar="X", help="where targets are kept")
    parser.add_argument("--target-base-url", metavar="B", help="where the targets are")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    init = verbs.add_parser("init", help="trust a root; sends no request")
    init.add_argument("root_file", type=Path, metavar="ROOT_FILE")
    init.set_defaults(verb=_init)
    verbs.add_parser("refresh", help="bring the metadata up to date").set_defaults(verb=_refresh)
    download = verbs.add_parser("download", help="refresh, then fetch targets in order")
    download.set_defaults(verb=_download)
    return parser


def _init(options: argparse.Namespace) -> None:
    with options.root_file.open("rb") as file:
        root = file.read(limits.ROOT_BYTES_MAX + 1)
    if len(root) > limits.ROOT_BYTES_MAX:
        raise InputError(f"{options.root_file} has more than {limits.ROOT_BYTES_MAX} bytes")
    print(f"trusted root {client.init(options.metadata_dir, root)}")


def _refresh(options: argparse.Namespace) -> None:
    _require(options, "metadata_url")
    with _Http() as http:
        versions = client.Client(options.metadata_dir, options.metadata_url, http).refresh()
    print(", ".join(f"{role} {version}" for role, version in versions.items()))


def _download(options: argparse.Namespace) -> None:
    _require(options, "metadata_url", "target_name", "target_dir", "target_base_url")
    with _Http() as http:
        repository = client.Client(options.metadata_dir, options.metadata_url, http)
        repository.refresh()
        for target in options.target_name:
            path = repository.download(target, options.target_dir, options.target_base_url)
            print(path)


def _require(options: argparse.Namespace, *names: str) -> None:
    for name in names:
        if not getattr(options, name):
            raise InputError(f"--{name.replace('_', '-')} is missing; options come before the verb")


class _Http:
    """Requests over HTTP(S). Bodies come as they were sent, never unpacked."""

    def __init__(self) -> None:
        self._client = httpx.Client(
            verify=ssl.create_default_context(),  # the authorities of this machine
            timeout=_SILENCE_S_MAX,
            follow_redirects=True,
            headers={"Accept-Encoding": "identity", "User-Agent": "shoal-agent"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def __call__(self, url: str) -> Iterator[bytes]:
        """Yield the body. Raises NotFound, TransferError."""
        until = time.monotonic() + _FILE_S_MAX
        try:
            with self._client.stream("GET", url) as response:
                if response.status_code in _ABSENT:
                    raise NotFound(f"{url} is not there (status {response.status_code})")
                if not response.is_success:
                    raise TransferError(f"{url} answered with status {response.status_code}")
                for piece in response.iter_raw():
                    if time.monotonic() > until:
                        raise TransferError(f"{url} took longer than {_FILE_S_MAX:g} s")
                    yield piece
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TransferError(f"{url} could not be fetched: {error}") from error
