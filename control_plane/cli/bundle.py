"""`shoal bundle`: from a model to a bundle folder; a server only tells what its fleet can run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from msgspec import UNSET

from control_plane.cli import baseline as baselines
from control_plane.cli import output, runtimes, trial
from firmware_bundles import build, conversion
from firmware_bundles.errors import InputError, RuntimeUnsupported
from firmware_bundles.limits import SPEED_CLASS_MAX
from firmware_bundles.manifest import Needs, Tensor

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.command()(baselines.baseline)

FloatModel = Annotated[
    Path | None, typer.Option(help="The .tflite file before quantization: compare accuracy.")
]
AccuracyDropMax = Annotated[
    float, typer.Option(help="Share of rows that quantization may turn wrong.", min=0, max=1)
]
FleetRuntimes = Annotated[
    list[str] | None,
    typer.Option(
        help="A runtime of the fleet that has to run it; may be repeated. Without it and with a "
        "token the server is asked which devices cannot."
    ),
]
BaselineFile = Annotated[
    Path | None, typer.Option(help="A file of `shoal bundle baseline`, instead of --heldout.")
]
LabelsFile = Annotated[
    Path | None, typer.Option(help="Class names, one a line, in the order of the scores.")
]
HeldOutFile = Annotated[
    Path | None, typer.Option(help="Held-out rows for the baseline: .npz as --golden.")
]
Scores = Annotated[
    str | None, typer.Option(help="Output that holds the scores, if there are several.")
]
Activation = Annotated[
    str | None, typer.Option(help="What makes scores of the output: softmax or sigmoid.")
]
Threshold = Annotated[float | None, typer.Option(help="Below this score devices name no class.")]
TopK = Annotated[int | None, typer.Option(help="How many classes devices name, the best first.")]
Accelerator = Annotated[
    str | None,
    typer.Option(help="An accelerator without which it is of no use, as inference.toml names it."),
]
SpeedClassMin = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=SPEED_CLASS_MAX,
        help="The slowest devices that may have it, by fact/speed_class.",
    ),
]
Lineage = Annotated[list[str] | None, typer.Option(help="KEY=VALUE to remember, may be repeated.")]
BundleFolder = Annotated[Path, typer.Argument(help="A bundle folder.", show_default=False)]


@app.command("build")
def build_bundle(
    *,
    family: Annotated[str, typer.Option(help="Model family, for instance digits.")],
    version: Annotated[str, typer.Option(help="Version of the model, for instance 1.")],
    model: Annotated[Path, typer.Option(help="The .tflite file, with static shapes.")],
    golden: Annotated[
        Path, typer.Option(help="Golden vectors: .npz with an array for each tensor, and 'label'.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist yet.")],
    labels: LabelsFile = None,
    heldout: HeldOutFile = None,
    baseline: BaselineFile = None,
    scores: Scores = None,
    activation: Activation = None,
    threshold: Threshold = None,
    top_k: TopK = None,
    runtime: Annotated[
        str, typer.Option(help="Runtime that gave the golden answers.")
    ] = build.RUNTIME_DEFAULT,
    float_model: FloatModel = None,
    accuracy_drop_max: AccuracyDropMax = conversion.ACCURACY_DROP_MAX,
    fleet_runtime: FleetRuntimes = None,
    accelerator: Accelerator = None,
    speed_class_min: SpeedClassMin = None,
    lineage: Lineage = None,
) -> None:
    """Build a bundle from a model and what its owner knows about it.

    \b
    Example:
      shoal bundle build --family digits --version 1 --model model.tflite --labels labels.txt \\
          --golden golden.npz --heldout heldout.npz --out digits-1
    \b
    The model runs on its golden vectors. What quantization cost, and that old devices can run it:
      shoal bundle build ... --float-model float.tflite --accuracy-drop-max 0.01 \\
          --fleet-runtime "tflite-runtime 2.14.0"
    \b
    Only for devices with an accelerator, or fast enough:
      shoal bundle build ... --accelerator edgetpu --speed-class-min 12
    """
    settings = build.Settings(
        family=family,
        version=version,
        model=model,
        golden=golden,
        labels=labels,
        heldout=heldout,
        baseline=baseline,
        scores=scores,
        activation=activation,
        threshold=threshold,
        top_k=top_k,
        runtime=runtime,
        lineage=dict(_pair(text) for text in lineage or ()),
        float_model=float_model,
        accuracy_drop_max=accuracy_drop_max,
        runtimes=tuple(fleet_runtime or ()),
        accelerator=accelerator,
        speed_class_min=speed_class_min,
    )
    output.show_one(_facts(_built(settings, out)))


@app.command()
def inspect(folder: BundleFolder) -> None:
    """Show what a bundle's manifest says.

    \b
    Example:
      shoal bundle inspect digits-1
    """
    output.show_one(_facts(build.read_bundle(folder)))


@app.command()
def verify(folder: BundleFolder) -> None:
    """Check a bundle's files against its manifest and against each other.

    \b
    Example:
      shoal bundle verify digits-1 && echo good
    """
    output.show_one(_facts(build.verify_bundle(folder)) | {"verified": True})


def _built(settings: build.Settings, out: Path) -> build.Bundle:
    """Build, and say which devices cannot run it unless the runtimes were named."""
    made = _tried(settings, out)
    if not settings.runtimes:
        runtimes.tell(made.manifest.needs)
    return made


def _tried(settings: build.Settings, out: Path) -> build.Bundle:
    """Build with a trial run; where no interpreter is installed, say that there was none."""
    if trial.is_possible():
        return build.build(settings, out, trial.run)
    if settings.float_model:
        raise RuntimeUnsupported(
            "--float-model needs an interpreter on this machine", hint="Install shoal[agent]."
        )
    output.note("the golden vectors were not tried: install shoal[agent] to run the model here")
    return build.build(settings, out)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InputError(f"--lineage {text!r:.80} is not KEY=VALUE")
    return key, value


def _facts(bundle: build.Bundle) -> dict[str, object]:
    document = bundle.manifest
    return {
        "family": document.family,
        "version": document.version,
        "digest": bundle.digest,
        "inputs": [_tensor(tensor) for tensor in document.inputs],
        "outputs": [_tensor(tensor) for tensor in document.outputs],
        "operations": document.needs.operations,
        "memory_bytes": document.needs.memory_bytes,
        **_asked(document.needs),
        "golden_rows": document.golden.rows,
        "has_baseline": document.baseline is not None,
        "lineage": document.lineage,
        "files": {entry.name: entry.length for entry in document.files},
        "chunks": len(document.chunks()),
    }


def _asked(needs: Needs) -> dict[str, object]:
    """Return the needs that only some models have."""
    found = {"accelerator": needs.accelerator, "speed_class_min": needs.speed_class_min}
    return {name: value for name, value in found.items() if value is not UNSET}


def _tensor(tensor: Tensor) -> str:
    shape = "x".join(str(extent) for extent in tensor.shape)
    return f"{tensor.name} {tensor.datatype} {shape}"
