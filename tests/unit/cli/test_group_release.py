"""What `toril groups release` says where a toril still works on the queue."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from toril.cli.main import main
from toril.cli.operate import group_release
from toril.config.settings import Settings


class _HeldAgain:
    """Groups whose jobs are held again in part."""

    def __init__(self) -> None:
        self._held = [5, 3]

    async def held(self, queue: str) -> int:
        return self._held.pop(0)

    async def release(self, queue: str, told: Callable[[int], object]) -> int:
        told(5)
        return 5


def test_jobs_that_are_held_again_are_told_and_the_command_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @asynccontextmanager
    async def groups_of(settings: Settings) -> AsyncIterator[_HeldAgain]:
        yield _HeldAgain()

    monkeypatch.setattr(group_release, "groups_of", groups_of)
    assert main(["groups", "release", "orders"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "5 jobs released\n"
    assert "3 jobs are held again: a toril works on orders; stop it first" in printed.err


def test_there_is_nothing_to_release_without_redis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "toril.yaml"
    file.write_text(
        "redis: none\nledger: {url: postgresql://localhost/toril}\ntargets: {crm: {url: https://crm.example}}\n"
    )
    assert main(["groups", "release", "orders", "--config", str(file)]) == 1
    assert "redis: none, so there is nothing that another program could work on" in capsys.readouterr().err
