"""What bad memory, a bad disk or an attacker makes of a file, as data: one small damage each."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

Mutation = Callable[[bytearray, Random], bytearray]

_BLOCK_BYTES_MAX: Final = 256


def bits(data: bytearray, random: Random) -> bytearray:
    """One bit is another."""
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return data


def byte(data: bytearray, random: Random) -> bytearray:
    """One byte is any other."""
    data[random.randrange(len(data))] ^= random.randrange(1, 256)
    return data


def word(data: bytearray, random: Random) -> bytearray:
    """An aligned word is an extreme or any other: lengths and offsets are words."""
    place = 4 * random.randrange(len(data) // 4)
    value = random.choice((0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, random.getrandbits(32)))
    data[place : place + 4] = value.to_bytes(4, "little")
    return data


def block(data: bytearray, random: Random) -> bytearray:
    """A run of bytes is zero, random, or what lies elsewhere in the file."""
    size = random.randrange(8, _BLOCK_BYTES_MAX)
    place, other = random.randrange(len(data) - size), random.randrange(len(data) - size)
    filling = (bytes(size), random.randbytes(size), bytes(data[other : other + size]))
    data[place : place + size] = random.choice(filling)
    return data


def truncation(data: bytearray, random: Random) -> bytearray:
    """The end is missing."""
    return data[: random.randrange(1, len(data))]


MUTATIONS: Final[tuple[Mutation, ...]] = (bits, byte, word, block, truncation)


def mutant(original: bytes, mutation: Mutation, number: int) -> bytes:
    """Return the mutant of this number; the same for everyone who asks."""
    return bytes(mutation(bytearray(original), Random(f"{mutation.__name__} {number}")))
