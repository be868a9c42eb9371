import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from toril.config import reloading
from toril.config.reloading import ConfigFile, Reloading
from toril.config.rollout import Plan
from toril.config.settings import Settings
from toril.core.errors import BlobsUnavailable, ConfigInvalid
from toril.core.rollout import Rollout

PATIENCE_S = 60.0


def document(*names: str) -> str:
    """A file with a token for each name."""
    return "tokens:\n" + "".join(
        f'  - {{name: {name}, sha256: "{hashlib.sha256(name.encode()).hexdigest()}", allow: ["*"], queues: ["*"]}}\n'
        for name in names
    )


class Followed:
    """What a followed configuration was found to hold, in order."""

    def __init__(self, config: ConfigFile) -> None:
        self.config = config
        self.applied: list[Settings] = []
        self.spread = 0
        self._came = asyncio.Event()
        self.reloading = Reloading(config, config.read(), self._apply, self._spread)

    def _spread(self) -> None:
        self.spread += 1

    def _apply(self, plan: Plan) -> None:
        self.applied.append(plan.settings)
        self._came.set()

    async def next(self) -> Settings:
        """What is applied next."""
        async with asyncio.timeout(PATIENCE_S):
            await self._came.wait()
        self._came.clear()
        return self.applied[-1]

    async def names(self) -> list[str]:
        """The names of the tokens that are applied next."""
        return [grant.caller.name for grant in (await self.next()).gateway.tokens]

    @property
    def rollout(self) -> Rollout:
        return self.reloading.rollout


async def until(fact: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not fact():
            await asyncio.sleep(0.01)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(reloading, "POLL_S", 0.01)
    monkeypatch.setattr(reloading, "_SETTLED_S", 0.03)
    path = tmp_path / "toril.yaml"
    path.write_text(document("one"))
    return path


@pytest.fixture
def secret(tmp_path: Path, file: Path) -> Path:
    """The secret file of the one target in the configuration."""
    path = tmp_path / "secret"
    path.write_text("first")
    file.write_text(with_target(path))
    return path


def with_target(secret: Path, **more: str) -> str:
    lines = [f"  billing: {{url: 'http://127.0.0.1:9', auth: {{scheme: bearer, secret_file: '{secret}'}}"]
    lines += [f", {key}: {value}" for key, value in more.items()]
    return "targets:\n" + "".join(lines) + "}\n"


@asynccontextmanager
async def following(file: Path) -> AsyncIterator[Followed]:
    followed = Followed(ConfigFile({}, file))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(followed.reloading.run())
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
        assert await followed.names() == ["one", "two"]
        write(file, document("two"))
        assert await followed.names() == ["two"]
        assert followed.rollout.generation == 3


async def test_a_file_that_stays_the_same_is_not_read_again_but_for_asking(file: Path) -> None:
    with capture_logs() as logs:
        async with following(file) as followed:
            await asyncio.sleep(0.2)
            assert logs == []
            followed.config.ask()
            await until(lambda: logs)
            assert followed.applied == []
    assert logs == [{"event": "config.reloaded", "log_level": "info", "generation": 1, "applied": []}]


async def test_a_replaced_file_of_the_same_size_and_time_is_read_again(file: Path) -> None:
    async with following(file) as followed:
        before = file.stat()
        other = file.with_suffix(".new")
        other.write_text(document("two"))
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(file)
        assert file.stat().st_size == before.st_size
        assert await followed.names() == ["two"]


async def test_a_change_between_reading_and_following_is_seen(file: Path) -> None:
    followed = Followed(ConfigFile({}, file))
    renamed_over(file, document("late"))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(followed.reloading.run())
        assert await followed.names() == ["late"]
        task.cancel()


@pytest.mark.parametrize("broken", ["tokens: [", "tokens: 5", "port: x\n" + document("two"), "\x00", "[" * 5000])
async def test_a_broken_file_changes_nothing_and_one_line_says_why(file: Path, broken: str) -> None:
    with capture_logs() as logs:
        async with following(file) as followed:
            renamed_over(file, broken)
            await until(lambda: logs)
            await asyncio.sleep(0.1)
            assert followed.applied == []
            assert [(line["event"], line["log_level"]) for line in logs] == [("config.kept", "error")]
            assert str(file) in str(logs[0]["faults"])
            renamed_over(file, document("mended"))
            assert await followed.names() == ["mended"]
    assert logs[1:] == [{"event": "config.reloaded", "log_level": "info", "generation": 2, "applied": ["tokens"]}]


@pytest.mark.parametrize("nothing", ["", "# tokens: []\n"])
async def test_a_file_that_has_become_empty_changes_nothing(file: Path, nothing: str) -> None:
    with capture_logs() as logs:
        async with following(file) as followed:
            file.write_text(nothing)
            await until(lambda: logs)
            assert followed.applied == []
            file.write_text(document("back"))
            assert await followed.names() == ["back"]
    assert logs[0]["faults"] == [f"{file} is empty; to run without its settings, restart without the file"]


async def test_settings_that_cannot_be_applied_change_nothing_and_are_retried_at_the_next_reload(file: Path) -> None:
    config = ConfigFile({}, file)
    applied: list[Settings] = []
    faults = [BlobsUnavailable("the folder is read-only")]

    def apply(plan: Plan) -> None:
        if faults:
            raise faults.pop()
        applied.append(plan.settings)

    reloading = Reloading(config, config.read(), apply)
    file.write_text(document("two"))
    with pytest.raises(ConfigInvalid) as caught:
        await reloading.reload()
    assert caught.value.faults == ["the folder is read-only"]
    assert reloading.rollout == Rollout()
    assert (await reloading.reload()).applied == ("tokens",)
    assert [grant.caller.name for grant in applied[0].gateway.tokens] == ["two"]


async def test_a_file_that_is_gone_changes_nothing(file: Path) -> None:
    with capture_logs() as logs:
        async with following(file) as followed:
            file.unlink()
            await until(lambda: logs)
            assert followed.applied == []
            file.write_text(document("back"))
            assert await followed.names() == ["back"]
    assert logs[0]["event"] == "config.kept"


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
        assert await followed.names() == ["one", "two", "three"]
        assert len(followed.applied) == 1


async def test_a_pending_rollout_is_reported_once_and_cleared_by_reverting_the_edit(file: Path) -> None:
    with capture_logs() as logs:
        async with following(file) as followed:
            file.write_text("port: 1\n" + document("two"))
            assert await followed.names() == ["two"]
            await until(lambda: followed.rollout.pending)
            assert followed.rollout == Rollout(generation=2, applied=("tokens",), pending=("port",))
            file.write_text("port: 1\n" + document("three"))
            assert await followed.names() == ["three"]
            file.write_text(document("three"))
            await until(lambda: not followed.rollout.pending)
            assert followed.rollout == Rollout(generation=4)
    assert [line["keys"] for line in logs if line["event"] == "config.pending_rollout"] == [["port"]]
    assert {settings.port for settings in followed.applied} == {8080}


class TestSecretFiles:
    async def test_a_secret_that_changes_is_read_again(self, file: Path, secret: Path) -> None:
        async with following(file) as followed:
            renamed_over(secret, "second")
            assert (await followed.next()).targets[0].auth.secret == "second"
            await until(lambda: followed.rollout.applied)
            assert followed.rollout == Rollout(generation=2, applied=("targets.billing.auth.secret_file",))

    async def test_a_secret_file_that_vanishes_keeps_the_last_secret_and_is_logged_once(
        self, file: Path, secret: Path
    ) -> None:
        with capture_logs() as logs:
            async with following(file) as followed:
                secret.unlink()
                await until(lambda: followed.rollout.secrets_kept)
                assert followed.rollout == Rollout(secrets_kept=(str(secret),))
                file.write_text(with_target(secret, retry="{max_attempts: 3}"))
                settings = await followed.next()
                assert (settings.targets[0].auth.secret, settings.targets[0].retry.max_attempts) == ("first", 3)
                secret.write_text("second")
                assert (await followed.next()).targets[0].auth.secret == "second"
                await until(lambda: not followed.rollout.secrets_kept)
        assert [line["files"] for line in logs if line["event"] == "secret.vanished"] == [[str(secret)]]

    async def test_a_missing_secret_file_of_a_new_configuration_is_a_fault_until_it_exists(
        self, file: Path, secret: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        with capture_logs() as logs:
            async with following(file) as followed:
                file.write_text(with_target(other))
                await until(lambda: logs)
                assert followed.applied == []
                other.write_text("third")
                assert (await followed.next()).targets[0].auth.secret == "third"
        assert logs[0]["event"] == "config.kept"
        assert str(other) in logs[0]["faults"][0]

    async def test_a_secret_file_with_an_invalid_secret_changes_nothing(self, file: Path, secret: Path) -> None:
        with capture_logs() as logs:
            async with following(file) as followed:
                renamed_over(secret, "two words")
                await until(lambda: logs)
                assert followed.applied == []
                await asyncio.sleep(0.1)
        assert [line["event"] for line in logs] == ["config.kept"]
        assert "two words" not in str(logs)


class TestAskingForIt:
    async def test_a_reload_reports_its_result_and_reaches_the_other_processes(self, file: Path) -> None:
        followed = Followed(ConfigFile({}, file))
        file.write_text("port: 1\n" + document("two"))
        assert await followed.reloading.reload() == Rollout(generation=2, applied=("tokens",), pending=("port",))
        assert await followed.reloading.reload() == Rollout(generation=2, pending=("port",))
        assert followed.spread == 2

    async def test_every_fault_is_told_and_the_others_are_left_alone(self, file: Path) -> None:
        followed = Followed(ConfigFile({}, file))
        file.write_text("port: x\ntokens: 5\n")
        with pytest.raises(ConfigInvalid) as caught:
            await followed.reloading.reload()
        assert len(caught.value.faults) == 2
        assert (followed.spread, followed.applied, followed.rollout) == (0, [], Rollout())

    async def test_configurations_are_applied_in_the_order_they_were_read(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        followed = Followed(ConfigFile({}, file))
        first, second, reading, go_on = document("first"), document("second"), threading.Event(), threading.Event()
        original, calls = ConfigFile.read, []

        def slow(config: ConfigFile) -> Settings:
            calls.append(config)
            settings = original(config)
            if len(calls) == 1:
                reading.set()
                assert go_on.wait(PATIENCE_S)
            return settings

        monkeypatch.setattr(ConfigFile, "read", slow)
        file.write_text(first)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(followed.reloading.reload())
            await asyncio.to_thread(reading.wait, PATIENCE_S)
            file.write_text(second)
            tasks.create_task(followed.reloading.reload())
            await asyncio.sleep(0.05)
            go_on.set()
        assert [settings.gateway.tokens[0].caller.name for settings in followed.applied] == ["first", "second"]


async def test_command_line_settings_survive_a_reload(file: Path) -> None:
    followed = Followed(ConfigFile({}, file, lambda settings: replace(settings, port=7)))
    file.write_text("port: 8\n" + document("two"))
    assert await followed.reloading.reload() == Rollout(generation=2, applied=("tokens",))
    assert followed.applied[-1].port == 7


async def test_without_a_file_the_environment_is_read() -> None:
    config = ConfigFile({"AUTH_TOKENS": "one"}, None)
    assert config.read().gateway.auth_tokens == ("one",)


def test_reading_a_broken_file_at_the_start_says_so(file: Path) -> None:
    file.write_text("tokens: 5")
    with pytest.raises(ConfigInvalid):
        ConfigFile({}, file).read()
