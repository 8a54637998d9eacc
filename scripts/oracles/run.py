"""Run the oracles, each in an environment of its own, and store what they said in tests/vectors.

    python scripts/oracles/run.py [NAME ...]

They are heavy and their requirements exclude each other, so that the tests never import them: they
compare with what is stored, which names its versions. An oracle is `NAME.py` beside this file; it
writes one JSON document to standard output.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).parent
VECTORS = HERE.parents[1] / "tests" / "vectors"
ORACLES = {
    "laws": ("scipy==1.17.1", "scikit-learn==1.9.1"),
    "evidently_psi": ("evidently==0.7.23", "pandas<3"),
    "fairlearn_gaps": ("fairlearn==0.15.0", "scikit-learn==1.9.1"),
    "nannyml_cbpe": ("nannyml==0.13.1", "scikit-learn==1.9.1", "statsmodels"),
    "river_streams": ("river==0.26.1", "scipy==1.17.1"),
}


def run(name: str, requirements: tuple[str, ...]) -> None:
    """Make the environment, run the oracle, store its answer."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", *requirements], check=True)
        store(name, python)


def store(name: str, python: str) -> None:
    """Run the oracle with an interpreter that has what it needs, and let it report to nobody."""
    quiet = {**os.environ, "NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1"}
    command = [python, str(HERE / f"{name}.py")]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=quiet)
    (VECTORS / f"{name}.json").write_bytes(said.stdout)
    print(f"{name}: {len(said.stdout)} bytes")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or ORACLES:
        run(chosen, ORACLES[chosen])
