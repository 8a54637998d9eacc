"""What is said over MQTT, as frozen values. How they become bytes is the codec's affair.

Every message carries `schema`, MAJOR.MINOR: fields that a newer minor added are ignored by an older
reader, a newer major is refused. A field that came after the first release is absent, not null,
where it has nothing to say. Times are Unix seconds unless the name says otherwise.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from firmware_bundles import limits
from firmware_bundles.identifiers import (
    DeviceId,
    Digest,
    Family,
    FileName,
    Incarnation,
    ModelVersion,
    Nonce,
    RolloutId,
    TargetPath,
)

SCHEMA = "1.0"
# A message that carries a retirement says so: an older reader ignores it, and stays as it is.
SCHEMA_OF_RETIREMENT = "1.1"
_INDEX_CHUNKS_MAX = limits.TARGETS_BYTES_MAX // limits.CHUNK_BYTES_MAX + 1

Text = Annotated[str, Meta(max_length=limits.TEXT_CHARS_MAX)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Ordinal = Annotated[int, Meta(ge=1, lt=2**53)]
Generations = Annotated[dict[Family, Count], Meta(max_length=limits.FAMILIES_PER_DEVICE_MAX)]
_DAY = "(?:mon|tue|wed|thu|fri|sat|sun)"
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
WINDOW_PATTERN = rf"\A(?:{_DAY}(?:,{_DAY})* )?{_TIME}-{_TIME}\Z"
CAPTURE_FIELDS_MAX = limits.CAPTURE_FIELDS_MAX
FieldName = Annotated[str, Meta(min_length=1, max_length=limits.FIELD_CHARS_MAX)]
Facts = Annotated[dict[Text, str | int | float | bool], Meta(max_length=limits.INVENTORY_FACTS_MAX)]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What all messages share."""

    schema: str = SCHEMA


class Presence(Message, frozen=True, kw_only=True):
    """A device's connection is there or gone; retained, also the last will."""

    online: bool
    connection: Nonce


class Hello(Message, frozen=True, kw_only=True):
    """Said on every connect and change of state: asks for the device's assignment."""

    nonce: Nonce
    incarnation: Incarnation
    agent_version: Text
    generations: Generations
    inventory_digest: Digest


class RepositoryHint(Message, frozen=True, kw_only=True):
    """Which files of the models repository are retained now.

    Those in `indexed` are larger than one message: what is retained under their names is an index.
    Unsigned: a false one delays, it never weakens.
    """

    root: Ordinal
    files: Annotated[tuple[Text, ...], Meta(max_length=limits.REPOSITORY_FILES_MAX)]
    indexed: (
        Annotated[tuple[Text, ...], Meta(max_length=limits.REPOSITORY_FILES_MAX)] | UnsetType
    ) = UNSET


class FileIndex(Message, frozen=True, kw_only=True):
    """Which chunks make a repository file that is larger than one message. Unsigned as the hint."""

    length: Annotated[int, Meta(ge=1, le=limits.TARGETS_BYTES_MAX)]
    chunks: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=_INDEX_CHUNKS_MAX)]


class Arm(StrEnum):
    """Which side of a comparison a deployment stands on."""

    CANDIDATE = "candidate"
    CONTROL = "control"
    ROLLBACK = "rollback"


class Budgets(msgspec.Struct, frozen=True, kw_only=True):
    """What a model may take in probation: the mean latency of its answers, the worker's memory.

    0 sets no limit; for the latency the manifest's own counts then.
    """

    latency_ms_max: Annotated[float, Meta(ge=0, le=3_600_000)] = 0.0
    memory_bytes_max: Count = 0


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """When an update may use a device, and how much of it; what is None does not matter.

    Bytes are those of models in one local day. `window` names days (none: all) and a span in the
    device's own time zone, as in `sat,sun 22:00-05:00`.
    """

    model_bytes_per_day_max: Count | None = None
    metered_bytes_per_day_max: Count | None = None
    written_bytes_per_day_max: Count | None = None
    window: Annotated[str, Meta(pattern=WINDOW_PATTERN)] | None = None
    battery_percent_min: Annotated[float, Meta(ge=0, le=100)] | None = None
    is_mains_needed: bool = False
    temperature_c_max: Annotated[float, Meta(ge=-50, le=150)] | None = None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """How slow a download may be, and when a device may be used for it.

    `download_s_max` is time with a connection; a source that stays below `rate_bytes_per_s_min` for
    a minute is left for the next one.
    """

    download_s_max: Annotated[float, Meta(gt=0, le=30 * 86400)] = limits.DOWNLOAD_S_DEFAULT
    rate_bytes_per_s_min: Count = limits.RATE_BYTES_PER_S_DEFAULT
    conditions: Conditions = Conditions()


class Shadowing(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is mirrored before it serves, and the previous one while it is on probation.

    A `share` of the live inputs, until `rows_min` of them were compared (0: no number suffices) or
    `duration_s` is over. With `is_held` it goes on until a newer order comes, and nothing switches.
    """

    share: Annotated[float, Meta(gt=0, le=1)]
    rows_min: Count = 0
    duration_s: Annotated[float, Meta(gt=0, le=30 * 86400)] = 3600.0
    is_held: bool | UnsetType = UNSET


class Capture(msgspec.Struct, frozen=True, kw_only=True):
    """Which live inputs a device keeps as samples for retraining, and sends: those any rule names.

    A `share` of all, chosen by chance; those answered with a confidence below `confidence_below`;
    with `is_out_of_range` those of which a kept or watched value is missing or outside the
    baseline's range; those of which one of the `drifted` features lies in the baseline's first or
    last bin, or outside. `fields` are the values that are kept: whole input tensors (`image`), or
    single ones (`image[21]`). What the samples of one local day hold has at most
    `bytes_per_day_max` bytes, before compression.
    """

    fields: Annotated[tuple[FieldName, ...], Meta(min_length=1, max_length=CAPTURE_FIELDS_MAX)]
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    confidence_below: Annotated[float, Meta(ge=0, le=1)] = 0.0
    is_out_of_range: bool = False
    drifted: Annotated[tuple[FieldName, ...], Meta(max_length=CAPTURE_FIELDS_MAX)] = ()
    bytes_per_day_max: Count = 1024 * 1024


class Uploading(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a family's predictions leaves a device; windows and labels always do.

    Single predictions are sampled by `predictions_share`, and what they stand for is counted.
    `bytes_per_day_max` is of all telemetry in one local day; None sets no limit.
    """

    predictions_share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    bytes_per_day_max: Count | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How a device carries a deployment out; copied into its record when it begins."""

    probation_s: Annotated[float, Meta(ge=0, le=30 * 86400)] = 60.0
    self_test_s_max: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    attempts_max: Annotated[int, Meta(ge=1, le=10)] = 3
    delivery: Delivery | UnsetType = UNSET
    budgets: Budgets | UnsetType = UNSET
    shadow: Shadowing | UnsetType = UNSET
    capture: Capture | UnsetType = UNSET
    upload: Uploading | UnsetType = UNSET


class ModelReference(msgspec.Struct, frozen=True, kw_only=True):
    """A release, by the owners' path and by the digest and length of its manifest."""

    path: TargetPath
    digest: Digest
    length: Annotated[int, Meta(ge=1, le=limits.MANIFEST_BYTES_MAX)]


class PatchReference(msgspec.Struct, frozen=True, kw_only=True):
    """A patch that makes a file of the release from one that the device has.

    `source` is the digest of the file that it needs, `length` the bytes of the patch. `content` is
    the digest of the patch where it fits one chunk, else of the index of its chunks. Signed by the
    director only: what it makes is verified against the manifest.
    """

    file: FileName
    source: Digest
    length: Annotated[int, Meta(ge=1, le=limits.FILE_BYTES_MAX)]
    content: Digest


Patches = Annotated[tuple[PatchReference, ...], Meta(max_length=limits.PATCHES_PER_ORDER_MAX)]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One family's part of an assignment."""

    family: Family
    generation: Ordinal
    model: ModelReference
    rollout: RolloutId
    arm: Arm
    policy: Policy = Policy()
    patches: Patches | UnsetType = UNSET


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """The order to a retired device: stop serving, and erase all models and predictions.

    `generation` is newer with every retirement. `is_confirmed` is the last word: the control plane
    has stored the device's report of it, and the device forgets who it is, too.
    """

    generation: Ordinal
    is_confirmed: bool = False


class Assignment(Message, frozen=True, kw_only=True):
    """What a device shall run, signed by the director; `nonce` echoes the hello it answers.

    Families that are not listed stay as they are. An empty list still tells the time. With
    `erase` (since 1.1) the device is retired, and there are no orders.
    """

    device: DeviceId
    issued: float
    expires: float
    orders: Annotated[tuple[Order, ...], Meta(max_length=limits.FAMILIES_PER_DEVICE_MAX)]
    nonce: Nonce | None = None
    erase: Erasure | msgspec.UnsetType = msgspec.UNSET


class DeploymentState(StrEnum):
    """The states of one deployment on one device, in order; the last three are terminal."""

    FETCHING = "fetching"
    STAGING = "staging"
    SELF_TESTING = "self_testing"
    SHADOWING = "shadowing"
    SWITCHING = "switching"
    PROBATION = "probation"
    COMMITTING = "committing"
    ROLLING_BACK = "rolling_back"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """An error as told to somebody else: the stable code and the sentence."""

    code: Text
    message: Text


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine used, in as many seconds as its platform told it; never a model alone."""

    joules: Count = 0
    seconds: Count = 0


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """The model that answers now.

    `delegate` is the accelerator's name or `cpu`, `delegate_reason` what it took of the model, or
    why a configured one does not serve. `answered` and `failed` (by the model's or worker's fault,
    no client's) count since `since`, `deaths` those of the worker while the agent knows this model,
    `energy` what the machine used meanwhile, left out where its platform does not tell.
    """

    digest: Digest
    version: ModelVersion
    runtime: Text
    delegate: Text
    since: float
    answered: Count
    delegate_reason: Text | UnsetType = UNSET
    failed: Count | UnsetType = UNSET
    deaths: Count | UnsetType = UNSET
    energy: Energy | UnsetType = UNSET


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """What came over the line for one deployment, as content: whole chunks, and patches.

    `saved_bytes` is what the patches made beyond their own size. An attempt that a restart of the
    agent interrupted is not in it.
    """

    chunk_bytes: Count = 0
    patch_bytes: Count = 0
    saved_bytes: Count = 0


class FamilyReport(msgspec.Struct, frozen=True, kw_only=True):
    """The truth about one family on this device.

    `state` is of the deployment with `generation`, if any, `arm` as its order had it; `waits_for`
    says what holds it up.
    """

    family: Family
    generation: Count
    state: DeploymentState | None = None
    rollout: RolloutId | None = None
    serving: Serving | None = None
    fault: Fault | None = None
    waits_for: Text | UnsetType = UNSET
    transfer: Transfer | UnsetType = UNSET
    arm: Arm | UnsetType = UNSET


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """Something refused, with how often and when last."""

    code: Text
    message: Text
    count: Ordinal
    last: float


class ChunkRequest(Message, frozen=True, kw_only=True):
    """Asks the control plane for chunks that the broker does not have; it answers with each."""

    digests: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=limits.CHUNK_WINDOW_MAX)]


class BufferFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How full the device's buffer is, what was refused for ever, and what it had to drop.

    `rows_dropped` counts predictions and labels, `windows_dropped` whole windows, `samples_dropped`
    inputs that were to be captured, and were not kept or not sent.
    """

    segments: Count = 0
    bytes: Count = 0
    rows_dropped: Count = 0
    samples_dropped: Count | UnsetType = UNSET
    segments_parked: Count | UnsetType = UNSET
    windows_dropped: Count | UnsetType = UNSET


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What a retired device ordered by `generation` has erased, and when it had.

    `segments` counts what was recorded, and had not been delivered.
    """

    generation: Ordinal
    time: float
    segments: Count = 0


class Report(Message, frozen=True, kw_only=True):
    """The device's signed statement: the only signal of success.

    `erased` (since 1.1) is there once a retired device has nothing left.
    """

    device: DeviceId
    incarnation: Incarnation
    counter: Ordinal
    time: float
    agent_version: Text
    families: Annotated[tuple[FamilyReport, ...], Meta(max_length=limits.FAMILIES_PER_DEVICE_MAX)]
    detected: Annotated[
        tuple[Detection, ...], Meta(max_length=limits.DETECTIONS_PER_REPORT_MAX)
    ] = ()
    inventory: Facts = msgspec.field(default_factory=dict)
    buffer: BufferFacts = BufferFacts()
    erased: Erased | msgspec.UnsetType = msgspec.UNSET


class SegmentKind(StrEnum):
    """What a segment of the buffer holds; `shadow`: mirrored answers, numbered as the live ones.

    `samples`: inputs that were captured, numbered as their predictions.
    """

    PREDICTIONS = "predictions"
    LABELS = "labels"
    WINDOW = "window"
    SHADOW = "shadow"
    SAMPLES = "samples"


class SegmentKey(msgspec.Struct, frozen=True, kw_only=True):
    """Names one sealed segment for ever: its device is the topic's."""

    incarnation: Incarnation
    kind: SegmentKind
    first: Ordinal
    last: Ordinal


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """All predictions that a segment stands for, those too that the policy kept from it.

    `log_latency` adds rint(1024 * ln(1 + us)) of each latency, `log_latency2` the squares of that.
    """

    answered: Ordinal
    latency_us: Count
    log_latency: Count
    log_latency2: Count


class Segment(Message, frozen=True, kw_only=True):
    """A sealed, immutable run of rows `first..last` of one incarnation and kind, all of one model.

    `rows` counts them; `body` is compressed by the codec of its kind (see
    `firmware_bundles.wire.columns` and `firmware_bundles.sketches.codec`). `totals` is there where
    predictions are a sample: then `first..last` spans all that were answered.
    """

    key: SegmentKey
    family: Family
    model: Digest
    rows: Ordinal
    started: float
    ended: float
    body: bytes
    totals: Totals | UnsetType = UNSET


class Acknowledgement(Message, frozen=True, kw_only=True):
    """The control plane stored a segment for good, or says why it never will."""

    key: SegmentKey
    fault: Fault | None = None


def inventory_digest_input(facts: dict[str, Any]) -> bytes:
    """Return the bytes whose SHA-256 is the inventory digest of a hello."""
    return msgspec.json.encode(facts, order="sorted")
