"""Refusals on the way: the other side cannot be reached, or what came is not whole; retry."""

from __future__ import annotations

from firmware_bundles.errors.root import ShoalError


class TransferError(ShoalError):
    """Something could not be sent or fetched."""

    code = "transfer.failed"
    default_hint = "This is tried again by itself."


class BrokerUnreachable(TransferError):
    """The broker does not answer, does not start or does not keep up."""

    code = "transfer.broker_unreachable"


class ServerUnreachable(TransferError):
    """The control plane does not answer, or something else answers at its address."""

    code = "transfer.server_unreachable"


class ChunkMissing(TransferError):
    """A chunk that a manifest lists is not there."""

    code = "transfer.chunk_missing"


class ChunkCorrupt(TransferError):
    """A chunk arrived with other bytes than its name promises."""

    code = "transfer.chunk_corrupt"


class TransferTooSlow(TransferError):
    """A download was slower than its policy allows, from every source.

    Look at the device's link; another order may give it more time.
    """

    code = "transfer.too_slow"
    default_hint = "Look at the device's link, or give the rollout's policy more time."


class PatchRefused(TransferError):
    """A patch cannot be applied, or does not make the file that the owners signed.

    The device fetches the whole file instead; a patch that keeps failing is worth a look.
    """

    code = "transfer.patch_refused"


class MetadataMissing(TransferError):
    """The device has not collected all files of the models repository."""

    code = "transfer.metadata_missing"
