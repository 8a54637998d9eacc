"""Every size, count and time that device and control plane share, with its unit in the name.

What only one side uses stands in that side's `config.py`.
"""

from __future__ import annotations

from typing import Final

# Bundles. A chunk's PUBLISH fits the 64 KB of the narrowest managed broker known.
CHUNK_BYTES_MAX: Final = 60 * 1024
MANIFEST_BYTES_MAX: Final = 60 * 1024
FILE_BYTES_MAX: Final = 48 * 1024 * 1024
FILES_PER_BUNDLE_MAX: Final = 16
CHUNKS_PER_FILE_MAX: Final = FILE_BYTES_MAX // CHUNK_BYTES_MAX + 1
TENSORS_MAX: Final = 64
TENSOR_RANK_MAX: Final = 8
TOP_K_MAX: Final = 64
COLUMNS_MAX: Final = 4096
BINS_MAX: Final = 64
PATCHES_PER_ORDER_MAX: Final = 4
PATCHES_PER_ASSIGNMENT_MAX: Final = 16

# Transport.
CHUNK_WINDOW_DEFAULT: Final = 8
CHUNK_WINDOW_MAX: Final = 16
FILTERS_PER_SUBSCRIBE_MAX: Final = 8
DOWNLOAD_S_DEFAULT: Final = 86_400.0
RATE_BYTES_PER_S_DEFAULT: Final = 128
REPOSITORY_FILE_BYTES_MAX: Final = 60 * 1024
REPOSITORY_FILES_MAX: Final = 64
# What tells of a larger file, and the most that a role may have (as for python-tuf's client).
INDEX_BYTES_MAX: Final = 8 * 1024
ROOT_BYTES_MAX: Final = 512_000
TIMESTAMP_BYTES_MAX: Final = 16_384
SNAPSHOT_BYTES_MAX: Final = 2_000_000
TARGETS_BYTES_MAX: Final = 5_000_000
# All files of a repository: a device verifies them in one request to a task.
REPOSITORY_BYTES_MAX: Final = 10_000_000

# Messages, whole payload.
ASSIGNMENT_BYTES_MAX: Final = 16 * 1024
REPORT_BYTES_MAX: Final = 32 * 1024
HELLO_BYTES_MAX: Final = 8 * 1024
PRESENCE_BYTES_MAX: Final = 1024
REQUEST_BYTES_MAX: Final = 4 * 1024
ACKNOWLEDGEMENT_BYTES_MAX: Final = 4 * 1024
TELEMETRY_BYTES_MAX: Final = 60 * 1024
TELEMETRY_INFLATED_BYTES_MAX: Final = 1024 * 1024
HINT_BYTES_MAX: Final = 8 * 1024
FAMILIES_PER_DEVICE_MAX: Final = 16
DETECTIONS_PER_REPORT_MAX: Final = 32
INVENTORY_FACTS_MAX: Final = 64
ROWS_PER_SEGMENT_MAX: Final = 1024
# Parts of the traffic, and named business values, that a baseline may declare; a business value
# saturates at so many quanta of its scale.
TRAFFIC_SEGMENTS_MAX: Final = 64
VALUES_MAX: Final = 64
VALUES_PER_SEGMENT_MAX: Final = 4096
QUANTUM_MAX: Final = 2**18
# What a policy may name to be captured, and what a segment of samples may hold, uncompressed.
CAPTURE_FIELDS_MAX: Final = 64
FIELD_CHARS_MAX: Final = 128
SAMPLES_BYTES_MAX: Final = 56 * 1024
SCALE_BITS_MAX: Final = 100
TEXT_CHARS_MAX: Final = 512
SPEED_CLASS_MAX: Final = 40  # 2^40 million operations a second: no device of these decades

# Trust.
ASSIGNMENT_LIFE_S: Final = 600
# Generations follow the time in seconds; one years ahead would leave no room for a newer one.
GENERATION_AHEAD_S_MAX: Final = 366 * 86400
CLOCK_SKEW_S_MAX: Final = 300
