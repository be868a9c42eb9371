from pathlib import Path

import pytest

from toril.cli.gateway_address import GatewayAddress, gateway_address

ENVIRONMENT = {"TORIL_URL": "https://toril.example/below/", "TORIL_TOKEN": "from-environment"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "url").write_text("http://127.0.0.1:9090/__toril")
    (tmp_path / "token").write_text("of-dev\n")
    return tmp_path


def test_the_gateways_address_is_read_from_the_environment(folder: Path) -> None:
    address = gateway_address(None, None, ENVIRONMENT, folder)
    assert address == GatewayAddress("https://toril.example/below", "from-environment")
    assert address.socket("/ws/queues/a") == "wss://toril.example/below/ws/queues/a"


def test_options_outdo_the_environment(folder: Path) -> None:
    address = gateway_address("http://[::1]:8080", "given", ENVIRONMENT, folder)
    assert address == GatewayAddress("http://[::1]:8080", "given")
    assert address.socket("/x") == "ws://[::1]:8080/x"


def test_without_options_or_environment_the_address_is_that_of_the_folders_dev(folder: Path) -> None:
    assert gateway_address(None, None, {}, folder) == GatewayAddress("http://127.0.0.1:9090/__toril", "of-dev")


def test_the_token_of_a_dev_is_sent_nowhere_else(folder: Path) -> None:
    with pytest.raises(ValueError, match="there is no token for https://elsewhere"):
        gateway_address("https://elsewhere", None, {}, folder)


@pytest.mark.parametrize(
    "url",
    ["toril.example", "ftp://toril.example", "http://", "http://u:p@toril.example", "http://x/?a=b", "http://x#a"],
)
def test_an_invalid_gateway_url_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="URL of a toril"):
        gateway_address(url, "token", {}, tmp_path)


@pytest.mark.parametrize("token", ["grün", "a\r\nx: y"])
def test_an_invalid_token_is_refused(token: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="visible ASCII"):
        gateway_address("http://x", token, {}, tmp_path)


def test_the_repr_of_an_address_hides_the_token() -> None:
    assert "secret" not in repr(GatewayAddress("http://x", "secret"))
