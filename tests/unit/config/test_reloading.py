import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from toril.config import reloading
from toril.config.reloading import ConfigFile
from toril.core.errors import ConfigInvalid
from toril.core.policy import GatewayPolicy


def document(*names: str) -> str:
    """A file with a token for each name."""
    return "tokens:\n" + "".join(
        f'  - {{name: {name}, sha256: "{hashlib.sha256(name.encode()).hexdigest()}", allow: ["*"], queues: ["*"]}}\n'
        for name in names
    )


class Followed:
    """What a followed file was found to hold, in order."""

    def __init__(self, config: ConfigFile) -> None:
        self.config = config
        self.applied: list[list[str]] = []
        self._came = asyncio.Event()

    def apply(self, policy: GatewayPolicy) -> None:
        self.applied.append([grant.caller.name for grant in policy.tokens])
        self._came.set()

    async def next(self) -> list[str]:
        """What is found next."""
        async with asyncio.timeout(10):
            await self._came.wait()
        self._came.clear()
        return self.applied[-1]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(reloading, "POLL_S", 0.01)
    monkeypatch.setattr(reloading, "_SETTLED_S", 0.03)
    path = tmp_path / "toril.yaml"
    path.write_text(document("one"))
    return path


@asynccontextmanager
async def following(file: Path) -> AsyncIterator[Followed]:
    config = ConfigFile({}, file)
    config.read()
    followed = Followed(config)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(config.follow(followed.apply))
        yield followed
        task.cancel()


def renamed_over(file: Path, text: str) -> None:
    other = file.with_suffix(".new")
    other.write_text(text)
    other.replace(file)


@pytest.mark.parametrize("write", [renamed_over, Path.write_text], ids=["renamed", "in place"])
async def test_a_file_that_changes_is_read_again(file: Path, write: Callable[[Path, str], None]) -> None:
    async with following(file) as followed:
        write(file, document("one", "two"))
        assert await followed.next() == ["one", "two"]
        write(file, document("two"))
        assert await followed.next() == ["two"]


async def test_a_file_that_stays_the_same_is_not_read_again_but_for_asking(file: Path) -> None:
    async with following(file) as followed:
        await asyncio.sleep(0.2)
        assert followed.applied == []
        followed.config.ask()
        assert await followed.next() == ["one"]


async def test_what_has_the_same_size_and_time_is_another_file_all_the_same(file: Path) -> None:
    async with following(file) as followed:
        before = file.stat()
        other = file.with_suffix(".new")
        other.write_text(document("two"))
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(file)
        assert file.stat().st_size == before.st_size
        assert await followed.next() == ["two"]


async def test_a_change_between_reading_and_following_is_seen(file: Path) -> None:
    config = ConfigFile({}, file)
    config.read()
    renamed_over(file, document("late"))
    followed = Followed(config)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(config.follow(followed.apply))
        assert await followed.next() == ["late"]
        task.cancel()


@pytest.mark.parametrize("broken", ["tokens: [", "tokens: 5", "port: x\n" + document("two"), "\x00", "[" * 5000])
async def test_a_broken_file_changes_nothing_and_one_line_says_why(file: Path, broken: str) -> None:
    with capture_logs() as logs:
        async with following(file) as followed:
            renamed_over(file, broken)
            async with asyncio.timeout(10):
                while not logs:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert followed.applied == []
            assert [(line["event"], line["log_level"]) for line in logs] == [("tokens.kept", "error")]
            assert str(file) in str(logs[0]["faults"])
            renamed_over(file, document("mended"))
            assert await followed.next() == ["mended"]
    assert logs[1:] == [{"event": "tokens.reloaded", "log_level": "info", "tokens": 1, "auth_tokens": 0}]


async def test_a_file_that_is_gone_changes_nothing(file: Path) -> None:
    with capture_logs() as logs:
        async with following(file) as followed:
            file.unlink()
            async with asyncio.timeout(10):
                while not logs:
                    await asyncio.sleep(0.01)
            assert followed.applied == []
            file.write_text(document("back"))
            assert await followed.next() == ["back"]
    assert logs[0]["event"] == "tokens.kept"


async def test_a_file_that_is_being_written_is_not_read_before_it_is_whole(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "_SETTLED_S", 0.5)
    async with following(file) as followed:
        with file.open("w") as writing:
            for name in ("one", "two", "three"):
                writing.write(document(name).removeprefix("tokens:\n") if name != "one" else document(name))
                writing.flush()
                await asyncio.sleep(0.01)
        assert await followed.next() == ["one", "two", "three"]
        assert len(followed.applied) == 1


async def test_without_a_file_asking_reads_the_environment_again() -> None:
    config = ConfigFile({"AUTH_TOKENS": "one"}, None)
    assert config.read().gateway.auth_tokens == ("one",)


def test_reading_a_broken_file_at_the_start_says_so(file: Path) -> None:
    file.write_text("tokens: 5")
    with pytest.raises(ConfigInvalid):
        ConfigFile({}, file).read()
