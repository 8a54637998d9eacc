"""Trust, chunks and releases over HTTP.

Owners sign at home: what comes in here is signed metadata and content-addressed bytes, and the
token only says who may cost us disk.
"""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response, status
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from control_plane.api.auth import Access, Caller, Role
from control_plane.releases.changes import Change
from control_plane.releases.chunk_files import ChunkFiles
from control_plane.releases.online_keys import OnlineKeys
from control_plane.releases.publisher import Publisher
from control_plane.releases.registry import Registry, Release
from control_plane.releases.repository import Bootstrap, ModelsRepository
from control_plane.store.patches import Patches
from firmware_bundles import limits
from firmware_bundles.errors import ChunkMissing, MessageTooLarge, NotFound
from firmware_bundles.trust import keys

_CHUNK_LIFE_S = 365 * 86400
SignedText = Annotated[
    str,
    Field(
        min_length=1,
        max_length=limits.TARGETS_BYTES_MAX,
        description="A file, byte for byte, as text.",
    ),
]


class BootstrapBody(BaseModel):
    """The beginning of trust, signed by the owners."""

    root: SignedText
    targets: SignedText
    director_keys: SignedText
    families: Annotated[dict[str, SignedText], Field(min_length=1, max_length=32)]


class ChangeBody(BaseModel):
    """New versions of roles that the owners signed; what is absent stays."""

    root: SignedText | None = None
    targets: SignedText | None = None
    director_keys: SignedText | None = None
    families: Annotated[dict[str, SignedText], Field(max_length=32)] = {}


class RoleBody(BaseModel):
    """A family's next role, with the same releases."""

    role: SignedText


class ReleaseBody(BaseModel):
    """A release: the family's next role, and the manifest that it adds."""

    role: SignedText
    manifest: SignedText


class ChunksBody(BaseModel):
    """Digests of chunks that somebody wants to upload."""

    digests: Annotated[
        list[str],
        Field(max_length=limits.FILES_PER_BUNDLE_MAX * limits.CHUNKS_PER_FILE_MAX),
    ]


class MissingChunks(BaseModel):
    """Those of them that are not here."""

    missing: list[str]


class PatchAnswer(BaseModel):
    """A patch to a release: from which version, of which file, and its bytes beside the file's."""

    source: str
    file: str
    length: int
    full_length: int
    is_used: bool


class TransferAnswer(BaseModel):
    """What the devices that serve a release said came over the line for it, in sum."""

    devices: int
    chunk_bytes: int
    patch_bytes: int
    saved_bytes: int


class ReleaseAnswer(BaseModel):
    """A release as it stands in the registry."""

    path: str
    family: str
    version: str
    number: int
    digest: str
    length: int
    is_withdrawn: bool
    published: float


class ReleaseDetail(ReleaseAnswer):
    """A release, the patches that lead to it, and what its delivery cost."""

    patches: list[PatchAnswer]
    transfers: TransferAnswer


def router(
    *,
    repository: ModelsRepository,
    registry: Registry,
    patches: Patches,
    chunk_files: ChunkFiles,
    publisher: Publisher,
    online_keys: OnlineKeys,
    access: Access,
    note: Callable[[str, str, str], None] = lambda *_: None,
) -> APIRouter:
    """Return the routes below the API's prefix.

    `note` tells the audit log actor, action and subject of what is in no database.
    """
    routes = APIRouter(tags=["releases"])
    _add_trust(routes, repository, publisher, online_keys, access, note)
    _add_roles(routes, repository, access)
    _add_terms(routes, repository, publisher, access)
    _add_chunks(routes, chunk_files, access)
    _add_releases(routes, repository, registry, publisher, access)
    _add_detail(routes, registry, patches, access)
    return routes


def _add_trust(
    routes: APIRouter,
    repository: ModelsRepository,
    publisher: Publisher,
    online_keys: OnlineKeys,
    access: Access,
    note: Callable[[str, str, str], None],
) -> None:
    viewer, admin = Depends(access.require(Role.VIEWER)), access.require(Role.ADMIN)

    @routes.get("/trust/online-keys", dependencies=[viewer])
    def read_online_keys() -> dict[str, Any]:
        """Return the public keys that the owners delegate to: snapshot, timestamp, director."""
        return online_keys.public_document()

    @routes.post("/trust/bootstrap", status_code=status.HTTP_201_CREATED)
    def begin(
        body: BootstrapBody, caller: Annotated[Caller, Depends(admin)]
    ) -> dict[str, list[str]]:
        """Lay the root of trust. It can be done once."""
        repository.begin(
            Bootstrap(
                root=body.root.encode(),
                targets=body.targets.encode(),
                director_keys=body.director_keys.encode(),
                families={name: text.encode() for name, text in body.families.items()},
            ),
            caller.actor,
        )
        publisher.announce_changes()
        return {"families": sorted(body.families)}

    @routes.post("/trust/changes")
    def change(body: ChangeBody, caller: Annotated[Caller, Depends(admin)]) -> dict[str, bool]:
        """Take the next version of root, targets or families: all at once, or nothing."""
        repository.advance(
            Change(
                root=_bytes(body.root),
                targets=_bytes(body.targets),
                director_keys=_bytes(body.director_keys),
                families={name: text.encode() for name, text in body.families.items()},
            ),
            caller.actor,
        )
        publisher.announce_changes()
        return {"accepted": True}

    @routes.post("/trust/online-keys/{role}/next")
    def prepare_online_key(role: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Make a successor for an online key; it signs as soon as the owners name it."""
        note(caller.actor, "online_key.prepared", f"online_key/{role}")
        return keys.encode_public(online_keys.prepare(role))


def _add_roles(routes: APIRouter, repository: ModelsRepository, access: Access) -> None:
    viewer = Depends(access.require(Role.VIEWER))

    @routes.get("/trust/targets", dependencies=[viewer], response_class=Response)
    def read_targets() -> Response:
        """Return the present list of families, byte for byte."""
        return _signed(repository.targets_role())

    @routes.get("/trust/director-keys", dependencies=[viewer], response_class=Response)
    def read_director_keys() -> Response:
        """Return the list of director keys, byte for byte."""
        return _signed(repository.director_keys())

    @routes.get("/trust/root", dependencies=[viewer], response_class=Response)
    def read_root() -> Response:
        """Return the newest root, byte for byte."""
        return _signed(repository.root())

    @routes.get("/trust/roles/{family}", dependencies=[viewer], response_class=Response)
    def read_role(family: str) -> Response:
        """Return a family's present role, byte for byte, for its owners to extend."""
        return _signed(repository.family_role(family))


def _add_terms(
    routes: APIRouter, repository: ModelsRepository, publisher: Publisher, access: Access
) -> None:
    operator = access.require(Role.OPERATOR)

    @routes.post("/trust/roles/{family}")
    def take_role(
        family: str, body: RoleBody, caller: Annotated[Caller, Depends(operator)]
    ) -> dict[str, bool]:
        """Take a family's next role, which withdraws releases or raises the floor."""
        repository.advance(Change(families={family: body.role.encode()}), caller.actor)
        publisher.announce_changes()
        return {"accepted": True}


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _add_chunks(routes: APIRouter, chunk_files: ChunkFiles, access: Access) -> None:
    operator = Depends(access.require(Role.OPERATOR))

    @routes.post("/chunks/missing", dependencies=[operator])
    def list_missing(body: ChunksBody) -> MissingChunks:
        """Return which chunks would have to be uploaded."""
        return MissingChunks(missing=chunk_files.missing(body.digests))

    @routes.put("/chunks/{digest}", dependencies=[operator])
    async def put_chunk(digest: str, request: Request) -> dict[str, bool]:
        """Store a chunk; doing it twice changes nothing."""
        data = await _body(request, limits.CHUNK_BYTES_MAX)
        return {"created": await run_in_threadpool(chunk_files.put, digest, data)}

    @routes.get("/chunks/{digest}", response_class=Response)
    def get_chunk(digest: str) -> Response:
        """Return a chunk. Anybody may: who knows the digest knows what the bytes must be."""
        try:
            data = chunk_files.get(digest)
        except ChunkMissing as error:
            raise NotFound(error.message) from error
        return Response(
            data,
            media_type="application/octet-stream",
            headers={"Cache-Control": f"public, max-age={_CHUNK_LIFE_S}, immutable"},
        )


def _add_releases(
    routes: APIRouter,
    repository: ModelsRepository,
    registry: Registry,
    publisher: Publisher,
    access: Access,
) -> None:
    viewer, operator = Depends(access.require(Role.VIEWER)), access.require(Role.OPERATOR)

    @routes.post("/releases", status_code=status.HTTP_201_CREATED)
    def publish(body: ReleaseBody, caller: Annotated[Caller, Depends(operator)]) -> ReleaseAnswer:
        """Publish a signed release whose chunks are all here."""
        row = repository.accept(body.role.encode(), body.manifest.encode(), caller.actor)
        publisher.announce_changes()
        return _answer(registry.get(row.path))

    @routes.get("/releases", dependencies=[viewer])
    def list_releases(family: str | None = None) -> list[ReleaseAnswer]:
        """Return releases by family, oldest first."""
        return [_answer(release) for release in registry.list(family)]


def _add_detail(routes: APIRouter, registry: Registry, patches: Patches, access: Access) -> None:
    viewer = Depends(access.require(Role.VIEWER))

    @routes.get("/releases/{family}/{version}", dependencies=[viewer])
    def read_release(family: str, version: str) -> ReleaseDetail:
        """Return one release, the patches that lead to it, and what its delivery cost."""
        release = registry.find(family, version)
        versions = {each.digest: each.version for each in registry.list(family)}
        return ReleaseDetail(
            **release._asdict(),
            patches=[
                PatchAnswer(
                    source=versions.get(row.source, row.source),
                    file=row.file,
                    length=row.length,
                    full_length=row.full_length,
                    is_used=row.content is not None,
                )
                for row in patches.rows(release.digest)
            ],
            transfers=TransferAnswer(**patches.transfers(release.digest)._asdict()),
        )


def _answer(release: Release) -> ReleaseAnswer:
    return ReleaseAnswer.model_validate(release._asdict())


def _signed(data: bytes) -> Response:
    return Response(data, media_type="application/json", headers={"Cache-Control": "no-store"})


async def _body(request: Request, bytes_max: int) -> bytes:
    """Return the body as it is. Raises MessageTooLarge as soon as it is."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > bytes_max:
            raise MessageTooLarge(f"the body is larger than {bytes_max} bytes")
    return bytes(data)
