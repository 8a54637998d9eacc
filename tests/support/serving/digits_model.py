"""What every peer runs: one interpreter behind one lock, copied in and out."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

SHAPE = (1, 8, 8, 1)


class Model:
    """The digits model, int8 in and out."""

    def __init__(self, path: str) -> None:
        self._interpreter = Interpreter(model_path=path, num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._lock = threading.Lock()

    def run(self, image: Any) -> Any:  # noqa: ANN401 - arrays
        """Return the scores of an image."""
        with self._lock:
            self._interpreter.set_tensor(self._input, image)
            self._interpreter.invoke()
            return self._interpreter.get_tensor(self._output)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a request of the Open Inference Protocol, the least that does."""
        values = request["inputs"][0]["data"]
        scores = self.run(np.array(values, dtype=np.int8).reshape(SHAPE))
        data = scores.ravel().tolist()
        output = {"name": "probs", "shape": list(scores.shape), "datatype": "INT8", "data": data}
        return {"model_name": "digits", "outputs": [output]}
