"""Hello: said when asked, repeated while unanswered, silent once answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent.config import Config
from agent.hellos import Hellos
from firmware_bundles.wire import codec
from firmware_bundles.wire.messages import Hello


class Peer:
    """Hears hellos; answers when told to."""

    def __init__(self, *, answers: bool, is_up: bool = True, hello_s: float = 3600.0) -> None:
        folder = Path("/nonexistent")
        config = Config(
            state_dir=folder,
            run_dir=folder,
            hello_jitter_s=0.0,
            hello_retry_s=0.05,
            hello_s=hello_s,
        )
        self.hellos = Hellos("d1", "0" * 16, config)
        self.heard: list[Hello] = []
        self._answers = answers
        self._is_up = is_up

    def send(self, _topic: str, payload: bytes) -> bool:
        """Take a hello, unless the line is down."""
        if not self._is_up:
            return False
        hello = codec.decode(Hello, payload)
        self.heard.append(hello)
        if self._answers:
            asyncio.get_running_loop().call_soon(self.hellos.answered, hello.nonce)
        return True

    async def listen(self, s: float, asks: int = 1) -> list[Hello]:
        """Ask so often, spread over the time, and return what was heard."""

        async def generations() -> dict[str, int]:
            return {"digits": 7}

        task = asyncio.create_task(self.hellos.run(generations, self.send))
        for _ in range(asks):
            self.hellos.ask()
            await asyncio.sleep(s / asks)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return self.heard


def test_an_answered_hello_is_said_once() -> None:
    """It tells the newest generations, and asks for nothing more."""
    heard = asyncio.run(Peer(answers=True).listen(0.3))
    assert [hello.generations for hello in heard] == [{"digits": 7}]


def test_each_hello_has_a_nonce_of_its_own() -> None:
    """An answer to an older one is a replay."""
    heard = asyncio.run(Peer(answers=True).listen(0.3, asks=3))
    assert len({hello.nonce for hello in heard}) == 3


def test_an_unanswered_hello_waits_before_it_is_repeated() -> None:
    """A second one at once would turn the first one's answer into a replay."""
    heard = asyncio.run(Peer(answers=False).listen(0.3, asks=2))
    assert len(heard) == 1


def test_nothing_is_repeated_while_the_line_is_down() -> None:
    """The next connect asks anew."""
    peer = Peer(answers=False, is_up=False)
    assert asyncio.run(peer.listen(0.3)) == []
    assert peer.hellos.nonce is not None


def test_a_push_answers_no_hello() -> None:
    """Only the echoed nonce does."""
    hellos = Peer(answers=False).hellos
    hellos.answered(None)
    hellos.answered("1" * 32)
    assert hellos.nonce is None


def test_a_hello_is_said_unasked_now_and_then() -> None:
    """A push that was lost or kept back is asked for, and the repository looked at."""
    heard = asyncio.run(Peer(answers=True, hello_s=0.1).listen(0.5))
    assert len(heard) > 3
    assert len({hello.nonce for hello in heard}) == len(heard)
