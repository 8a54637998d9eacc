"""The bare interpreter: set, lock, invoke, get, and nothing else.

python raw_call.py MODEL: for each line on standard input, SECONDS, prints the microseconds of one
call as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main() -> None:
    """Measure when asked."""
    interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
    interpreter.allocate_tensors()
    given, gives = interpreter.get_input_details()[0], interpreter.get_output_details()[0]["index"]
    image = np.zeros(given["shape"], dtype=given["dtype"])
    lock = threading.Lock()
    for line in sys.stdin:
        took: list[int] = []
        ends = time.perf_counter() + float(line)
        while time.perf_counter() < ends:
            began = time.perf_counter_ns()
            with lock:
                interpreter.set_tensor(given["index"], image)
                interpreter.invoke()
                interpreter.get_tensor(gives)
            took.append(time.perf_counter_ns() - began)
        took.sort()
        told = {"min_us": took[0] / 1e3, "p50_us": took[len(took) // 2] / 1e3}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
