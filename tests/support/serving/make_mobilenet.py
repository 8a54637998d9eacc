"""Makes MobileNetV2 0.35, 224 x 224, int8 in and out, with random weights: good for pace only.

python make_mobilenet.py OUT.tflite, in an environment with TensorFlow. Static batch 1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf  # type: ignore[import-not-found,import-untyped,unused-ignore]


def _samples() -> Iterator[list[object]]:
    random = np.random.default_rng(1)
    for _ in range(8):
        yield [random.uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)]


def main() -> None:
    """Write the model."""
    tf.keras.utils.set_random_seed(1)
    image = tf.keras.Input((224, 224, 3), batch_size=1, name="image")
    model = tf.keras.applications.MobileNetV2(
        input_tensor=image, alpha=0.35, weights=None, classes=1000
    )
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = _samples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    Path(sys.argv[1]).write_bytes(converter.convert())


if __name__ == "__main__":
    main()
