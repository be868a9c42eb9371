import hashlib
import io
from pathlib import Path

import pytest
import yaml

from toril.cli import main
from toril.config.tokens import grants
from toril.core.policy import Role

SECRET = "hunter2-the-secret"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTH_TOKENS", "REDIS_URL", "PORT"):
        monkeypatch.delenv(name, raising=False)


def test_a_token_is_shown_once_with_the_line_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    secrets = set()
    for _ in range(2):
        assert main(["token", "--name", "shop", "--allow", "jobs:add", "*:read", "--queues", "orders-*", "x"]) == 0
        printed = capsys.readouterr().out
        (secret,) = (line.strip() for line in printed.splitlines() if line.startswith("  toril_"))
        (grant,) = grants(yaml.safe_load(printed[printed.index("tokens:") :])["tokens"])
        assert grant.sha256 == hashlib.sha256(secret.encode()).digest()
        assert grant.caller.name == "shop"
        assert [grant.caller.sees(queue) for queue in ("orders-eu", "x", "invoices")] == [True, True, False]
        secrets.add(secret)
    assert len(secrets) == 2
    assert all(len(secret) > 40 for secret in secrets)


def test_a_token_that_reads_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--name", "board"]) == 0
    printed = capsys.readouterr().out
    (grant,) = grants(yaml.safe_load(printed[printed.index("tokens:") :])["tokens"])
    assert all(right.endswith(":read") for right in grant.caller.rights)
    assert grant.caller.rights


def test_a_token_of_ones_own_is_hashed_and_not_repeated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(SECRET + "\n"))
    assert main(["token", "--name", "shop", "--stdin"]) == 0
    printed = capsys.readouterr().out
    assert SECRET not in printed
    (grant,) = grants(yaml.safe_load(printed))
    assert grant.sha256 == hashlib.sha256(SECRET.encode()).digest()


@pytest.mark.parametrize("given", ["", "\n", "grün", "a\x00b"])
def test_what_can_be_no_token_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    assert main(["token", "--name", "shop", "--stdin"]) == 1
    assert capsys.readouterr() == ("", "toril: a token holds visible ASCII characters only, at least one\n")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--name", "a b"], "toril: name: it must be 1 to 64"),
        (["--name", "shop", "--allow", "jobs:ad"], "toril: allow: 'jobs:ad' is no right"),
        (["--name", "shop", "--queues", ""], "toril: queues: it must be a list of queues"),
    ],
)
def test_a_line_that_would_not_be_accepted_is_a_fault(
    capsys: pytest.CaptureFixture[str], arguments: list[str], fault: str
) -> None:
    assert main(["token", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(fault)


def checked(capsys: pytest.CaptureFixture[str], file: Path, document: object) -> list[str]:
    file.write_text(yaml.safe_dump(document))
    assert main(["check-config", "--config", str(file)]) == 0
    return capsys.readouterr().out.splitlines()[1:]


def test_check_config_says_how_many_tokens_there_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "toril.yaml"
    tokens = [
        {"name": name, "sha256": digit * 64, "allow": ["*"], "queues": ["*"]}
        for name, digit in (("a", "a"), ("b", "b"))
    ]
    tokens[0]["expires"] = "2020-01-01T00:00:00Z"
    assert checked(capsys, file, {"auth_tokens": ["one"], "tokens": tokens}) == [
        "API tokens: 1 with all rights, 2 with rights of their own (1 expired)."
    ]
    nobody = "No API token is valid (AUTH_TOKENS, tokens): every request would be refused."
    assert checked(capsys, file, {"tokens": tokens[:1]})[1:] == [nobody]
    assert checked(capsys, file, {}) == ["API tokens: 0 with all rights, 0 with rights of their own.", nobody]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--role", "worker", "--targets", "biling"], "--targets: no target is called 'biling'; did you mean billing?"),
        (["--targets", "billing,zzz"], "--targets: no target is called 'zzz'"),
        (["--role", "gateway", "--targets", "billing"], "--targets: a gateway delivers to none"),
    ],
)
def test_a_role_that_cannot_be_is_a_fault(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], fault: str
) -> None:
    file = tmp_path / "toril.yaml"
    file.write_text(yaml.safe_dump({"targets": {"billing": {"url": "http://127.0.0.1:9"}}}))
    assert main(["serve", "--config", str(file), *arguments]) == 1
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[1:]) == ("", [f"  - {fault}"])


BOTH = ("billing", "email")


@pytest.mark.parametrize(
    ("role", "answers", "works", "targets"),
    [
        (Role(), True, True, BOTH),
        (Role(name="gateway"), True, False, ()),
        (Role(name="worker"), False, True, BOTH),
        (Role(name="worker", targets=("billing",)), False, False, ("billing",)),
        (Role(name="worker", targets=()), False, True, ()),
        (Role(name="all", targets=("email",)), True, False, ("email",)),
    ],
)
def test_a_role_says_what_a_process_does(role: Role, answers: bool, works: bool, targets: tuple[str, ...]) -> None:
    assert (role.answers, role.works) == (answers, works)
    assert tuple(name for name in BOTH if role.delivers_to(name)) == targets
