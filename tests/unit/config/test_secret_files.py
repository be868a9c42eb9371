from pathlib import Path

import pytest

from toril.config.secret_files import SecretFiles, state_of

SECRET = "hunter2-the-secret"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f" {SECRET}\n")
    return path


def test_a_file_is_read_without_the_white_space_around_it(file: Path) -> None:
    assert SecretFiles().read(file) == SECRET


def test_a_missing_file_is_a_fault_if_it_was_never_read(tmp_path: Path) -> None:
    files = SecretFiles()
    with pytest.raises(ValueError, match="nothing cannot be read: No such file"):
        files.read(tmp_path / "nothing")
    assert files.seen == {tmp_path / "nothing": None}
    assert files.vanished == set()


@pytest.mark.parametrize("gone", ["removed", "a folder now"])
def test_a_file_that_is_gone_keeps_what_it_held_for_as_long_as_it_is_gone(file: Path, gone: str) -> None:
    first = SecretFiles()
    first.read(file)
    file.unlink()
    if gone == "a folder now":
        file.mkdir()
    second = SecretFiles(first)
    third = SecretFiles(second)
    assert [second.read(file), third.read(file)] == [SECRET, SECRET]
    assert third.vanished == {file}
    if gone == "a folder now":
        file.rmdir()
    file.write_text("another")
    back = SecretFiles(third)
    assert (back.read(file), back.vanished) == ("another", set())


def test_secrets_read_only_before_the_last_configuration_are_forgotten(file: Path) -> None:
    first = SecretFiles()
    first.read(file)
    file.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        SecretFiles(SecretFiles(first)).read(file)


def test_a_secret_file_that_is_no_longer_text_is_a_fault(file: Path) -> None:
    first = SecretFiles()
    first.read(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="holds no text"):
        SecretFiles(first).read(file)


def test_the_swap_of_a_folder_behind_links_is_seen(tmp_path: Path) -> None:
    """As Kubernetes updates a mounted secret: key → ..data/key, and ..data → ..2026, replaced in one step."""
    for version in ("..one", "..two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "key").write_text(version)
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "key").symlink_to("..data/key")
    before = state_of(tmp_path / "key")
    (tmp_path / "..new").symlink_to("..two")
    (tmp_path / "..new").replace(tmp_path / "..data")
    assert state_of(tmp_path / "key") != before
    assert SecretFiles().read(tmp_path / "key") == "..two"
