"""Writes constraints.txt and constraints-training.txt anew from pyproject.toml.

Needs uv on the path.

    .venv/bin/python scripts/pin.py [--upgrade]

The pins hold for Python 3.11 to 3.13; where a version differs between them, an environment marker
says so. No address of an index, no hash and no option of this machine gets into the files.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
FILES: Mapping[str, tuple[str, Sequence[str]]] = {
    "constraints.txt": (
        (
            "# Exact versions for [agent], [control-plane], [parquet], [postgresql], dev\n"
            "# on Python 3.11 to 3.13.\n"
            "# Written by scripts/pin.py; used as: pip install -c constraints.txt ...\n"
        ),
        (
            "pyproject.toml",
            "--extra=agent",
            "--extra=control-plane",
            "--extra=parquet",
            "--extra=postgresql",
            "--group=dev",
        ),
    ),
    "constraints-training.txt": (
        (
            "# Exact versions for the training group: what makes the sample models.\n"
            "# Written by scripts/pin.py.\n"
        ),
        ("--group=pyproject.toml:training",),
    ),
}

Pins = Mapping[str, str]  # distribution -> version


def resolve(arguments: Sequence[str], python: str, preferred: Path | None) -> Pins:
    """Ask uv for one Python's pins; those of the file `preferred` are kept where they fit."""
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", *arguments]
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "pins.txt")
        if preferred is not None and preferred.exists():
            output.write_text(for_python(preferred.read_text(), python))
        command += [f"--python-version={python}", f"--output-file={output}"]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        lines = output.read_text().splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line)


def for_python(text: str, python: str) -> str:
    """The lines of a constraints file that hold on one Python, without their markers."""
    lines = []
    for line in text.splitlines():
        pin, _, marker = line.partition(" ; ")
        if "==" in pin and (not marker or python in pythons_of(marker)):
            lines.append(pin)
    return "\n".join(lines) + "\n"


def pythons_of(marker: str) -> Sequence[str]:
    """The Pythons on which a marker that `marker_for` wrote holds."""
    _, operator, quoted = marker.split()
    place = PYTHONS.index(quoted.strip("'"))
    return {"==": PYTHONS[place : place + 1], "<=": PYTHONS[: place + 1], ">=": PYTHONS[place:]}[
        operator
    ]


def marker_for(pythons: Sequence[str]) -> str:
    """The shortest marker for a run of neighbouring Pythons; empty for all of them."""
    if tuple(pythons) == PYTHONS:
        return ""
    if len(pythons) == 1:
        return f" ; python_version == '{pythons[0]}'"
    if pythons[-1] == PYTHONS[-1]:
        return f" ; python_version >= '{pythons[0]}'"
    return f" ; python_version <= '{pythons[-1]}'"


def merge(pins: Mapping[str, Pins]) -> str:
    """One file's lines for the pins of every Python."""
    lines = []
    for name in sorted({name for of_one in pins.values() for name in of_one}):
        by_version: dict[str, list[str]] = defaultdict(list)
        for python, of_one in pins.items():
            if name in of_one:
                by_version[of_one[name]].append(python)
        lines += [f"{name}=={version}{marker_for(on)}\n" for version, on in by_version.items()]
    return "".join(lines)


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--upgrade", action="store_true", help="take the newest, not the present pins"
    )
    is_upgrade = parser.parse_args().upgrade
    for name, (header, arguments) in FILES.items():
        file = ROOT / name
        present = None if is_upgrade else file
        pins = {python: resolve(arguments, python, present) for python in PYTHONS}
        file.write_text(header + merge(pins))
        print(f"{name}: {len({n for p in pins.values() for n in p})} distributions")


if __name__ == "__main__":
    main()
