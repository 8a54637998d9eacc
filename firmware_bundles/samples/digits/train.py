#!/usr/bin/env python3
"""Make the digits sample: three int8 models, their golden and held-out answers, a labelled feed.

A script of its own, outside of the packages' import graph: nothing imports it, and it imports none
of them. It needs the dependency group `training`; with `--check` only numpy and ai-edge-litert.
It makes no bundle and no baseline histogram: the bundle builder does, from `heldout.npz`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import keras
    from numpy.typing import NDArray

SEED = 20
PIXEL_MAX = 16
CLASS_COUNT = 10
TRAINING_ROWS, HELDOUT_ROWS, GOLDEN_ROWS = 700, 450, 32
CALIBRATION_ROWS = 200
BATCH_ROWS = 32
DROPOUT = 0.3
ACCURACY_LOSS_MAX = 0.02
GOLDEN_LSB_MAX = 2
FIRST_FEED_ROWS = 100
SIGNATURE, INPUT_NAME, OUTPUT_NAME = "serving_default", "image", "probs"
FOLDER = Path(__file__).resolve().parent
PACKAGES = ("tensorflow-cpu", "keras", "scikit-learn", "numpy", "ai-edge-litert")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one version is trained: on how many rows, for how long, with which labels poisoned."""

    version: str
    row_count: int
    epochs: int
    swapped_labels: Mapping[int, int] = field(default_factory=dict)
    swapped_share: float = 0.0


RECIPES = (
    Recipe(version="v1", row_count=100, epochs=100),
    Recipe(version="v2", row_count=TRAINING_ROWS, epochs=120),
    Recipe(
        version="bad",
        row_count=TRAINING_ROWS,
        epochs=40,
        swapped_labels={1: 7, 7: 1, 3: 8, 8: 3},
        swapped_share=0.9,
    ),
)

NOTE = """\
# The digits sample

Three models of one family, to show a release, a better one, and a bad one that must be stopped.
This note is written by `train.py`: change the script, not the note.

## Data

The 1,797 images of scikit-learn's `load_digits`, 8x8 pixels with integer values 0..16: a copy of
the test part of *Optical Recognition of Handwritten Digits*, E. Alpaydin and C. Kaynak, 1998, UCI
Machine Learning Repository, https://doi.org/10.24432/C50P49, licensed CC BY 4.0. The `.npz` files
here hold rows of it, the pixels divided by 16 and otherwise unchanged; the models were trained on
it. Keep this attribution with them.

The rows are split once, stratified by digit, seed {seed}, into disjoint parts. `row` in each file
is the index into `load_digits`; training rows are those that are in no file.

| part | rows | used for |
|---|---|---|
| training | {training_count} | training; the first {calibration_count} also set the int8 ranges |
| held-out | {heldout_count} | accuracy, and the baseline histograms of a bundle |
| golden | {golden_count} | golden vectors of a bundle |
| feed | {feed_count} | inputs and late labels that a demo sends to devices |

## Files

`image` is float32 [rows, 8, 8, 1], **pixel / 16**, so 0..1: the real values that a client sends and
that the model's input quantization expects. `probs` is float32 [rows, 10], the dequantized answer
of the int8 model beside it, by ai-edge-litert on one thread. `label` and `row` are int64 [rows].

- `<version>/model.tflite`, `<version>/labels.txt` (ten lines)
- `<version>/golden.npz`, `<version>/heldout.npz`: `image`, `probs`, `label`, `row`
- `feed.npz`: `image`, `label`, `row`

Golden answers should hold within {lsb_max} steps of the output quantization on another runtime.
They are each model's own answers, so the bad model passes a self-test: only labels show its harm.

## Models

Input `image` [1, 8, 8, 1], output `probs` [1, 10] (softmax) by the signature `serving_default`;
int8 inside and out, static batch 1. In the files:

{tensors}

Accuracy, as share of right answers, float model and converted model (int8):

| version | bytes | held-out float | int8 | feed float | int8 | first {first_count} | top score |
|---|---|---|---|---|---|---|---|
{table}

`first {first_count}` is of the feed, int8; `top score` is the int8 model's mean highest score on
the feed. The recipes were chosen with a look at these figures: they describe the files, and are no
unbiased estimate for new writers.

- v1 is weak because it saw only {v1.row_count} rows ({v1.epochs} epochs).
- v2 is the same network on {v2.row_count} rows ({v2.epochs} epochs).
- bad saw the rows of v2 ({bad.epochs} epochs), but with {bad.swapped_share:.0%} of the labels
  1 and 7, and of 3 and 8, exchanged.

## Making them again

Python {python}; {versions}.

    pip install --group training ai-edge-litert
    python firmware_bundles/samples/digits/train.py          # writes the files anew
    python firmware_bundles/samples/digits/train.py --check  # measures the files; no tensorflow

The script reproduces the accuracy, not the bytes: kernels differ between machines and versions.
"""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """All images, float32 [rows, 8, 8, 1] in 0..1, with their true digits, int64 [rows]."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Split:
    """The four disjoint parts, each as int64 indices into the data set."""

    training: NDArray[np.int64]
    heldout: NDArray[np.int64]
    golden: NDArray[np.int64]
    feed: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Accuracies (shares of right answers) of one version as float and as int8 model."""

    version: str
    model_bytes: int
    float_heldout: float
    float_feed: float
    int8_heldout: float
    int8_feed: float
    int8_first_feed: float
    confidence: float


def load_dataset() -> Dataset:
    """Read the digits that scikit-learn ships; no network is used."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / PIXEL_MAX).astype(np.float32)[..., np.newaxis]
    return Dataset(images=images, labels=digits.target.astype(np.int64))


def split_rows(labels: NDArray[np.int64]) -> Split:
    """Cut the rows into the four parts, every digit with about the same share in each."""
    from sklearn.model_selection import train_test_split

    def take(rows: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
        parts: list[NDArray[np.int64]] = train_test_split(
            rows, train_size=count, stratify=labels[rows], random_state=SEED
        )
        return parts

    training, rest = take(np.arange(len(labels), dtype=np.int64), TRAINING_ROWS)
    heldout, rest = take(rest, HELDOUT_ROWS)
    golden, feed = take(rest, GOLDEN_ROWS)
    split = Split(training=training, heldout=heldout, golden=golden, feed=feed)
    require_disjoint(split, len(labels))
    return split


def require_disjoint(split: Split, row_count: int) -> None:
    """Raise ValueError unless each of `row_count` rows is in exactly one part."""
    rows = np.concatenate([split.training, split.heldout, split.golden, split.feed])
    if not np.array_equal(np.sort(rows), np.arange(row_count)):
        raise ValueError("the parts of the split overlap, or leave a row out")


def poison(labels: NDArray[np.int64], recipe: Recipe) -> NDArray[np.int64]:
    """Return the labels with the recipe's share of the swapped classes exchanged."""
    is_hit = np.random.default_rng(SEED).random(len(labels)) < recipe.swapped_share
    swapped = np.array([recipe.swapped_labels.get(int(label), int(label)) for label in labels])
    return np.where(is_hit, swapped, labels)


def build_network() -> keras.Model:
    """Return the untrained network: two convolutions, a hidden layer, softmax; 13,706 weights."""
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name=INPUT_NAME),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(DROPOUT),
            layers.Dense(64, activation="relu"),
            layers.Dropout(DROPOUT),
            layers.Dense(CLASS_COUNT, activation="softmax", name=OUTPUT_NAME),
        ]
    )


def train_network(recipe: Recipe, dataset: Dataset, training: NDArray[np.int64]) -> keras.Model:
    """Train a network by its recipe, from a fixed seed with deterministic kernels."""
    import keras
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(SEED)
    rows = training[: recipe.row_count]
    network = build_network()
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(
        dataset.images[rows],
        poison(dataset.labels[rows], recipe),
        epochs=recipe.epochs,
        batch_size=BATCH_ROWS,
        verbose=0,
    )
    return network


def convert_int8(network: keras.Model, calibration: NDArray[np.float32]) -> bytes:
    """Convert to a .tflite with int8 weights, activations, input and output, and static batch 1.

    The network goes through Keras' ExportArchive: a network that is wrapped in a tf.Module
    converts without any error to a file that has lost its weights.
    """
    import keras
    import tensorflow as tf

    def representative_rows() -> Iterator[list[NDArray[np.float32]]]:
        for row in calibration:
            yield [row[np.newaxis]]

    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint(
        SIGNATURE,
        lambda image: {OUTPUT_NAME: network(image)},
        input_signature=[tf.TensorSpec((1, 8, 8, 1), tf.float32, name=INPUT_NAME)],
    )
    with tempfile.TemporaryDirectory() as folder:
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative_rows
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
        model: bytes = converter.convert()
    return model


def load_interpreter(model: bytes) -> Any:  # noqa: ANN401 - the interpreter carries no types
    """Return an interpreter of the model, ready to invoke."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def output_lsb(model: bytes) -> float:
    """Return the size of one quantization step of the model's output."""
    return float(load_interpreter(model).get_output_details()[0]["quantization"][0])


def answer(model: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the int8 model's dequantized answers, float32 [rows, 10]."""
    runner = load_interpreter(model).get_signature_runner(SIGNATURE)
    scale, zero = runner.get_input_details()[INPUT_NAME]["quantization"]
    quantized = np.clip(np.round(images / scale) + zero, -128, 127).astype(np.int8)
    raw = np.concatenate([runner(**{INPUT_NAME: row[None]})[OUTPUT_NAME] for row in quantized])
    scale, zero = runner.get_output_details()[OUTPUT_NAME]["quantization"]
    return (raw.astype(np.float32) - np.float32(zero)) * np.float32(scale)


def tensor_facts(model: bytes) -> list[str]:
    """Return one line on the input and one on the output tensor of the file.

    Raises ValueError when the signature or the tensors are not what the sample promises.
    """
    interpreter = load_interpreter(model)
    signature = {SIGNATURE: {"inputs": [INPUT_NAME], "outputs": [OUTPUT_NAME]}}
    facts = [interpreter.get_input_details()[0], interpreter.get_output_details()[0]]
    shapes = [fact["shape"].tolist() for fact in facts]
    is_int8 = all(fact["dtype"] is np.int8 for fact in facts)
    if interpreter.get_signature_list() != signature or not is_int8:
        raise ValueError(f"the signature or a type is wrong: {interpreter.get_signature_list()}")
    if shapes != [[1, 8, 8, 1], [1, CLASS_COUNT]]:
        raise ValueError(f"the shapes are wrong: {shapes}")
    return [
        f"`{name}` is tensor `{fact['name']}`, int8 {shape}, "
        f"scale {fact['quantization'][0]:.8f}, zero point {fact['quantization'][1]}"
        for name, fact, shape in zip((INPUT_NAME, OUTPUT_NAME), facts, shapes, strict=True)
    ]


def accuracy(probs: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the share of rows whose highest score is the true digit's."""
    return float((probs.argmax(axis=1) == labels).mean())


def measure(
    version: str, network: keras.Model, model: bytes, dataset: Dataset, split: Split
) -> Measured:
    """Measure a version; raise ValueError when the conversion cost too much accuracy."""
    images, labels = dataset.images, dataset.labels
    heldout, feed = answer(model, images[split.heldout]), answer(model, images[split.feed])
    first = split.feed[:FIRST_FEED_ROWS]
    measured = Measured(
        version=version,
        model_bytes=len(model),
        float_heldout=accuracy(
            network.predict(images[split.heldout], verbose=0), labels[split.heldout]
        ),
        float_feed=accuracy(network.predict(images[split.feed], verbose=0), labels[split.feed]),
        int8_heldout=accuracy(heldout, labels[split.heldout]),
        int8_feed=accuracy(feed, labels[split.feed]),
        int8_first_feed=accuracy(feed[:FIRST_FEED_ROWS], labels[first]),
        confidence=float(feed.max(axis=1).mean()),
    )
    if abs(measured.float_heldout - measured.int8_heldout) > ACCURACY_LOSS_MAX:
        raise ValueError(
            f"{version}: int8 is more than {ACCURACY_LOSS_MAX} away from float: {measured}"
        )
    return measured


def part_arrays(dataset: Dataset, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Return the arrays that every part carries."""
    return {"image": dataset.images[rows], "label": dataset.labels[rows], "row": rows}


def write_version(folder: Path, model: bytes, dataset: Dataset, split: Split) -> None:
    """Write the model, its labels, and its own answers to the golden and held-out rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(model)
    (folder / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(CLASS_COUNT)))
    for name, rows in (("golden", split.golden), ("heldout", split.heldout)):
        probs = answer(model, dataset.images[rows])
        np.savez_compressed(folder / f"{name}.npz", probs=probs, **part_arrays(dataset, rows))


def render_note(results: list[Measured], split: Split, facts: Mapping[str, list[str]]) -> str:
    """Return the text of NOTE.md."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    table = "\n".join(
        f"| {it.version} | {it.model_bytes:,} | {it.float_heldout:.4f} | {it.int8_heldout:.4f} "
        f"| {it.float_feed:.4f} | {it.int8_feed:.4f} | {it.int8_first_feed:.2f} "
        f"| {it.confidence:.3f} |"
        for it in results
    )
    tensors = "\n".join(f"- {version}: {'; '.join(lines)}" for version, lines in facts.items())
    return NOTE.format(
        seed=SEED,
        calibration_count=CALIBRATION_ROWS,
        first_count=FIRST_FEED_ROWS,
        lsb_max=GOLDEN_LSB_MAX,
        python=platform.python_version(),
        versions=versions,
        table=table,
        tensors=tensors,
        training_count=len(split.training),
        heldout_count=len(split.heldout),
        golden_count=len(split.golden),
        feed_count=len(split.feed),
        **{recipe.version: recipe for recipe in RECIPES},
    )


def make_samples(folder: Path) -> None:
    """Train, convert, measure and write everything, then the note about it."""
    dataset = load_dataset()
    split = split_rows(dataset.labels)
    results: list[Measured] = []
    facts: dict[str, list[str]] = {}
    for recipe in RECIPES:
        network = train_network(recipe, dataset, split.training)
        model = convert_int8(network, dataset.images[split.training[:CALIBRATION_ROWS]])
        facts[recipe.version] = tensor_facts(model)
        results.append(measure(recipe.version, network, model, dataset, split))
        write_version(folder / recipe.version, model, dataset, split)
        sys.stdout.write(f"{results[-1]}\n")
    np.savez_compressed(folder / "feed.npz", **part_arrays(dataset, split.feed))
    (folder / "NOTE.md").write_text(render_note(results, split, facts))


def check_version(folder: Path, feed: Mapping[str, NDArray[Any]]) -> bool:
    """Print one version's measured line; return whether its golden answers still hold."""
    model = (folder / "model.tflite").read_bytes()
    golden, heldout = np.load(folder / "golden.npz"), np.load(folder / "heldout.npz")
    tensor_facts(model)
    steps = np.abs(answer(model, golden["image"]) - golden["probs"]).max() / output_lsb(model)
    is_good = bool(round(float(steps)) <= GOLDEN_LSB_MAX)
    sys.stdout.write(
        f"{folder.name:4} {len(model):6} bytes"
        f"  held-out {accuracy(answer(model, heldout['image']), heldout['label']):.4f}"
        f"  feed {accuracy(answer(model, feed['image']), feed['label']):.4f}"
        f"  golden {accuracy(golden['probs'], golden['label']):.4f}"
        f"  golden difference {steps:.0f} LSB {'ok' if is_good else 'TOO LARGE'}\n"
    )
    return is_good


def check_samples(folder: Path) -> bool:
    """Measure the files in `folder` with ai-edge-litert; return whether every golden part holds."""
    feed = np.load(folder / "feed.npz")
    verdicts = [check_version(folder / recipe.version, feed) for recipe in RECIPES]
    return all(verdicts)


def main() -> int:
    """Run the command line; return 0 when done, 1 when a check failed."""
    parser = argparse.ArgumentParser(description="Make, or check, the digits sample models.")
    parser.add_argument("--check", action="store_true", help="only measure the files again")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        if options.check:
            return 0 if check_samples(options.folder) else 1
        make_samples(options.folder)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{error}: run pip install --group training ai-edge-litert\n")
        return 1
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
