#!/usr/bin/env python3
"""Trains the pairs of models that patches are measured with: a base, its new head, and it tuned.

    pip install --group training ai-edge-litert
    python firmware_bundles/samples/digits/tune.py FOLDER    # tests/vectors/patches holds 'small'

`base` is trained as v2 is. `head` is `base` with only its last layer trained on, `tuned` with all
layers trained on gently; both on the training rows and 300 rows of the feed. `small` is the network
of the samples (21 kB), `wide` the same with more channels (647 kB).
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import train

BASE_EPOCHS = {"small": 120, "wide": 40}
MORE_ROWS = 300


def wide_network() -> keras.Model:
    """Return an untrained network of 0.6 million weights."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name=train.INPUT_NAME),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(128, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(train.DROPOUT),
            layers.Dense(1024, activation="relu"),
            layers.Dropout(train.DROPOUT),
            layers.Dense(train.CLASS_COUNT, activation="softmax", name=train.OUTPUT_NAME),
        ]
    )


def fit(network: keras.Model, dataset: train.Dataset, rows: np.ndarray, epochs: int, rate: float):  # noqa: ANN201
    """Train on these rows."""
    network.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    network.fit(
        dataset.images[rows],
        dataset.labels[rows],
        epochs=epochs,
        batch_size=train.BATCH_ROWS,
        verbose=0,
    )


def make(name: str, network: keras.Model, folder: Path) -> None:
    """Write the three models of one network."""
    dataset = train.load_dataset()
    split = train.split_rows(dataset.labels)
    more = np.concatenate([split.training, split.feed[:MORE_ROWS]])
    calibration = dataset.images[split.training[:200]]
    fit(network, dataset, split.training, BASE_EPOCHS[name], 1e-3)
    weights = network.get_weights()
    (folder / f"{name}-base.tflite").write_bytes(train.convert_int8(network, calibration))
    for kind, frozen, epochs, rate in (("head", -1, 20, 1e-3), ("tuned", 0, 3, 1e-4)):
        network.set_weights(weights)
        for layer in network.layers:
            layer.trainable = True
        for layer in network.layers[:frozen]:
            layer.trainable = False
        fit(network, dataset, more, epochs, rate)
        converted = train.convert_int8(network, calibration)
        (folder / f"{name}-{kind}.tflite").write_bytes(converted)


def main() -> int:
    """Make both networks' models in the folder given."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in (("small", train.build_network), ("wide", wide_network)):
        keras.utils.set_random_seed(train.SEED)
        make(name, build(), folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
