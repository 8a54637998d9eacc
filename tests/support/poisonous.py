"""A worker whose interpreter does what a broken kernel may do at certain inputs or models.

The first two stored values of an input name the fault; the third makes one poison another input.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CRASH, HANG = 0.75, 0.5  # real values that the digits model stores exactly enough
MARK = 1.0

_WORKER = '''#!{python}
"""The real worker; only its interpreter is made to fail."""
import ctypes, pathlib, sys, time
from agent.inference import backends, worker

real_run, real_init = backends.LiteRtBackend.run, backends.LiteRtBackend.__init__


def run(self, inputs):
    values = inputs[0].ravel()
    if values[0] == {mark} and values[1] == {crash}:
        ctypes.string_at(0)
    if values[0] == {mark} and values[1] == {hang}:
        time.sleep(3600)
    return real_run(self, inputs)


def init(self, path, manifest, **options):
    if pathlib.Path(path).with_name("crash-at-load").exists():
        ctypes.string_at(0)
    if pathlib.Path(path).with_name("hang-at-load").exists():
        time.sleep(3600)
    real_init(self, path, manifest, **options)


backends.LiteRtBackend.run, backends.LiteRtBackend.__init__ = run, init
sys.argv = sys.argv[3:]
sys.exit(worker.main())
'''


def interpreter(folder: Path) -> str:
    """Return what to start in place of Python, so that the worker has this interpreter."""
    path = folder / "poisonous-worker"
    stored = {name: _stored(value) for name, value in (("crash", CRASH), ("hang", HANG))}
    path.write_text(_WORKER.format(python=sys.executable, mark=_stored(MARK), **stored))
    path.chmod(0o755)
    return str(path)


def image(fault: float, number: int = 0) -> NDArray[np.float32]:
    """Return an input with a fault; another `number` is another input."""
    made = np.zeros((1, 8, 8, 1), dtype=np.float32)
    made.ravel()[:3] = MARK, fault, number / 100
    return made


def _stored(value: float) -> int:
    return round(value / 0.003921568859368563) - 128
