"""Whether one root of trust follows from another: what makes two anchors the same fleet's.

The rule is TUF's own (specification 1.0, 5.3): each next version is signed by enough keys of its
predecessor and by enough of its own. Where roots come from and what is kept is not decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from securesystemslib.exceptions import Error as SignatureError
from tuf.api.exceptions import RepositoryError
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from firmware_bundles.errors import TrustError
from firmware_bundles.trust import publisher
from firmware_bundles.trust.updater import count_each_key_once

if TYPE_CHECKING:
    from collections.abc import Iterable


def leads_to(root: bytes, wanted: bytes, between: Iterable[bytes] = ()) -> bool:
    """Whether `wanted` is `root`, or follows from it through some of `between`, in any order."""
    return wanted in _chain(root, (*between, wanted))


def newest(root: bytes, successors: Iterable[bytes]) -> bytes:
    """Return the last root that follows from `root` through `successors`, in any order."""
    return _chain(root, successors)[-1]


def _chain(root: bytes, successors: Iterable[bytes]) -> list[bytes]:
    """Return the roots from `root` on, as far as signatures lead; the last of a number counts."""
    found = [root]
    numbered = {_version(each): each for each in successors}
    try:
        trusted = TrustedMetadataSet(root, EnvelopeType.METADATA)
        while (following := numbered.get(trusted.root.version + 1)) is not None:
            count_each_key_once(trusted.root.roles.values(), trusted.root.keys)
            trusted.update_root(following)
            found.append(following)
    except (RepositoryError, SignatureError, ValueError, RecursionError):
        return found
    return found


def _version(root: bytes) -> int:
    """Return the number of a root; 0, which none has, of what is no role."""
    try:
        return publisher.describe(root).version
    except TrustError:
        return 0
