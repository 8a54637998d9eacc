"""`shoal-agent trust` over one folder, run in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent import cli
from support.tuf_repository import TufRepository


class Tool:
    """The command over one folder, and the repository it looks at."""

    def __init__(
        self, repository: TufRepository, url: str, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.repository = repository
        self.url = url
        self.metadata = folder / "metadata"
        self.targets = folder / "targets"
        self.root_file = folder / "first-root"
        self.root_file.write_bytes(repository.first_root)
        self._capsys = capsys
        self.said = ""

    def init(self) -> int:
        """Run `init`."""
        return self._run("init", str(self.root_file))

    def refresh(self) -> int:
        """Run `refresh`."""
        return self._run("--metadata-url", f"{self.url}/metadata", "refresh")

    def download(self, *names: str) -> int:
        """Run `download`."""
        options = [part for name in names for part in ("--target-name", name)]
        options += ["--target-dir", str(self.targets), "--target-base-url", f"{self.url}/targets"]
        return self._run("--metadata-url", f"{self.url}/metadata", *options, "download")

    def _run(self, *arguments: str) -> int:
        try:
            status = cli.main(["trust", "--metadata-dir", str(self.metadata), *arguments])
        except SystemExit as ended:
            status = int(ended.code or 0)
        self.said = self._capsys.readouterr().err
        assert (status, self.said.count("\n")) in {(0, 0), (1, 1)}
        return status

    def versions(self) -> dict[str, int]:
        """Return what is trusted, by role."""
        return {
            path.stem: json.loads(path.read_bytes())["signed"]["version"]
            for path in sorted(self.metadata.rglob("*.json"))
        }

    def stored(self) -> list[str]:
        """Return the names in the targets' folder."""
        return sorted(path.name for path in self.targets.rglob("*"))
