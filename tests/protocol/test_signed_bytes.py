"""The bytes that are signed, fixed for ever: manifests, assignments, roles."""

from __future__ import annotations

import hashlib

from firmware_bundles import manifest
from firmware_bundles.manifest import (
    Classification,
    FileEntry,
    Golden,
    Manifest,
    Needs,
    Tensor,
)
from firmware_bundles.trust import envelopes, publisher
from firmware_bundles.wire.messages import Arm, Assignment, ModelReference, Order
from support.owners import NOW, Owners, signer

DIGEST = "0f" * 32
EXAMPLE = Manifest(
    family="digits",
    version="1",
    model="model.tflite",
    inputs=(Tensor(name="image", datatype="INT8", shape=(1, 8, 8, 1), scale=0.5, zero_point=-128),),
    outputs=(Tensor(name="probs", datatype="INT8", shape=(1, 2), scale=0.25),),
    files=tuple(
        FileEntry(name=name, length=3, digest=DIGEST, chunks=(DIGEST,))
        for name in ("golden.msgpack", "labels.txt", "model.tflite")
    ),
    golden=Golden(rows=4, runtime="ai-edge-litert"),
    classification=Classification(scores="probs"),
    needs=Needs(operations={"CONV_2D": 3}),
    lineage={"commit": "abc"},
)
EXAMPLE_BYTES = (
    b'{"schema":"1.0","family":"digits","version":"1","model":"model.tflite","inputs":[{"n'
    b'ame":"image","datatype":"INT8","shape":[1,8,8,1],"scale":0.5,"zero_point":-128}],"ou'
    b'tputs":[{"name":"probs","datatype":"INT8","shape":[1,2],"scale":0.25,"zero_point":0}'
    b'],"files":[{"name":"golden.msgpack","length":3,"digest":"0f0f0f0f0f0f0f0f0f0f0f0f0f0'
    b'f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f","chunks":["0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f'
    b'0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"]},{"name":"labels.txt","length":3,"digest":"0f0f0f0f'
    b'0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f","chunks":["0f0f0f0f0f0f0f0'
    b'f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"]},{"name":"model.tflite","length"'
    b':3,"digest":"0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f","chun'
    b'ks":["0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"]}],"golden":'
    b'{"file":"golden.msgpack","rows":4,"runtime":"ai-edge-litert","tolerance_lsb":2.0,"to'
    b'lerance_absolute":0.00001},"baseline":null,"classification":{"scores":"probs","label'
    b's":"labels.txt"},"needs":{"operations":{"CONV_2D":3},"memory_bytes":0,"latency_ms_ma'
    b'x":0.0},"lineage":{"commit":"abc"}}'
)
ASSIGNMENT = Assignment(
    device="dev-1",
    issued=1000.0,
    expires=1600.0,
    orders=(
        Order(
            family="digits",
            generation=8,
            model=ModelReference(path="digits/2/manifest.json", digest="a" * 64, length=900),
            rollout="digits-v2",
            arm=Arm.CANDIDATE,
        ),
    ),
    nonce="cd" * 16,
)
ENVELOPE = (
    b'{"payload":"eyJzY2hlbWEiOiIxLjAiLCJkZXZpY2UiOiJkZXYtMSIsImlzc3VlZCI6MTAwMC4wLCJleHBp'
    b"cmVzIjoxNjAwLjAsIm9yZGVycyI6W3siZmFtaWx5IjoiZGlnaXRzIiwiZ2VuZXJhdGlvbiI6OCwibW9kZWwi"
    b"OnsicGF0aCI6ImRpZ2l0cy8yL21hbmlmZXN0Lmpzb24iLCJkaWdlc3QiOiJhYWFhYWFhYWFhYWFhYWFhYWFh"
    b"YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhIiwibGVuZ3RoIjo5MDB9LCJy"
    b"b2xsb3V0IjoiZGlnaXRzLXYyIiwiYXJtIjoiY2FuZGlkYXRlIiwicG9saWN5Ijp7InByb2JhdGlvbl9zIjo2"
    b"MC4wLCJzZWxmX3Rlc3Rfc19tYXgiOjMwLjAsImF0dGVtcHRzX21heCI6M319XSwibm9uY2UiOiJjZGNkY2Rj"
    b'ZGNkY2RjZGNkY2RjZGNkY2RjZGNkY2RjZCJ9","payloadType":"application/vnd.shoal.assignmen'
    b't+json","signatures":[{"keyid":"9395ce4a652baaed0034911a651a298cabb8f96d398c94ee3964'
    b'4ec5c5d26183","sig":"8iHfVI4TKN+wbBXvWwd2LZdIeAk6nw84kkueqWDWxLU8rTDTGFxXWCcuMdr+jwj'
    b'6SoAS0Z49YY3W0IF5NASfAA=="}]}'
)
ROLE_SHA256 = "4f03bad98aa9ced546da4b5c5f8dfb5db6be9b55506a07176e1c49d0cd5d58dc"


def test_a_manifest_keeps_its_bytes() -> None:
    """The same manifest gives the bytes it always gave, and is read back from them."""
    assert manifest.encode(EXAMPLE) == EXAMPLE_BYTES
    assert manifest.parse(EXAMPLE_BYTES) == EXAMPLE


def test_an_assignments_envelope_keeps_its_bytes() -> None:
    """Ed25519 is deterministic: payload, its type and the signed form (DSSE PAE) are all fixed."""
    director = signer(7)
    assert envelopes.sign(ASSIGNMENT, director) == ENVELOPE
    assert envelopes.open_envelope(Assignment, ENVELOPE, [director.public_key]) == ASSIGNMENT


def test_a_familys_role_keeps_its_bytes() -> None:
    """Releases and floor stand where devices of older releases look for them."""
    owners = Owners(now=NOW)
    owners.publish("1", EXAMPLE_BYTES)
    role = owners.publish("2", b"{}", min_release=1, withdraw=("digits/1/manifest.json",))
    assert hashlib.sha256(role).hexdigest() == ROLE_SHA256
    assert publisher.floor_in(role).withdrawn == ("digits/1/manifest.json",)
