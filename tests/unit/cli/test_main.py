import hashlib
import io
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from toril.cli.dev.gateway import _token
from toril.cli.main import COMMANDS, main
from toril.config.rollout import AT_ONCE
from toril.config.settings import Role
from toril.config.tokens import grants
from toril.delivery.rules import target_rollout

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


def test_the_token_command_makes_a_read_only_token_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--name", "board"]) == 0
    printed = capsys.readouterr().out
    (grant,) = grants(yaml.safe_load(printed[printed.index("tokens:") :])["tokens"])
    assert all(right.endswith(":read") for right in grant.caller.rights)
    assert grant.caller.rights


def test_a_given_token_is_hashed_and_not_repeated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(SECRET + "\n"))
    assert main(["token", "--name", "shop", "--stdin"]) == 0
    printed = capsys.readouterr().out
    assert SECRET not in printed
    (grant,) = grants(yaml.safe_load(printed))
    assert grant.sha256 == hashlib.sha256(SECRET.encode()).digest()


@pytest.mark.parametrize("given", ["", "\n", "grün", "a\x00b"])
def test_an_invalid_token_is_refused(
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
def test_an_impossible_role_is_a_fault(
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


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments, "--help"]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_help_of_serve_names_what_a_reload_applies(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys, "serve")
    for name in (*AT_ONCE, *target_rollout.AT_ONCE, "secret files"):
        assert name in shown


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys)
    for command in COMMANDS:
        assert f" {command} " in shown
        assert help_of(capsys, command).startswith(f"Usage: toril {command} ")


OPTIONS = {
    "serve": ["--config FILE", "--host HOST", "--port PORT", "--role", "--targets NAMES", "--processes N"],
    "dev": ["--host HOST", "--port PORT", "--data FOLDER", "--config FILE"],
    "listen": ["--to URL", "--url URL", "--token TOKEN", "--concurrency N", "--filter name=NAME", "--worker FILE"],
    "demo": ["--jobs N", "--keep"],
    "check-config": ["--config FILE"],
    "migrate": ["--config FILE", "--plan"],
    "recover": ["--config FILE"],
    "token": ["--name NAME", "--allow RIGHT", "--queues GLOB", "--stdin"],
}


@pytest.mark.parametrize("command", OPTIONS)
def test_the_help_of_a_command_names_its_options(capsys: pytest.CaptureFixture[str], command: str) -> None:
    shown = help_of(capsys, command)
    for option in (*OPTIONS[command], "-h, --help"):
        assert f" {option} " in shown


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["serv"], "no command is called 'serv'; did you mean serve?"),
        (["serve", "--prot", "1"], "No such option '--prot'"),
        (["serve", "extra"], "unexpected extra argument"),
        (["demo", "--jobs", "3", "--keep"], "--keep is not allowed with --jobs"),
        (["token", "--name", "a", "--allow"], "'--allow' requires an argument"),
        (["token", "--name", "a", "--allow", "--queues", "x"], "'--allow' requires an argument"),
        (["token", "--name", "a", "stray"], "unexpected extra argument"),
        (["listen", "orders", "--to", "http://x", "--filter", "charge"], "charge is not of the form name=NAME"),
        ([], "Usage: toril"),
    ],
)
def test_wrong_arguments_are_named_and_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], fault: str
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert fault in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_a_shell_asks_toril(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert main(["completion", shell]) == 0
    assert f"_TORIL_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_commands_and_options_are_completed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_TORIL_COMPLETE", "bash_complete")

    def completed(words: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        with pytest.raises(SystemExit):
            main([])
        return capsys.readouterr().out.split()

    assert completed("toril se") == ["plain,serve"]
    assert completed("toril serve --po") == ["plain,--port"]


HEAVY = ("rich", "uvloop", "starlette", "redis", "asyncpg", "obstore", "bullmq", "websockets")


def imported(*arguments: str) -> set[str]:
    """The heavy packages that a command has imported when it ends."""
    program = f"import sys; from toril.cli.main import main; main({arguments!r}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stderr.split()) & set(HEAVY)


def test_the_help_imports_no_command() -> None:
    assert imported("--help") == set()
    assert imported("--version") == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--port", "65536"],
        ["serve", "--port", "\u0668\u0660"],
        ["serve", "--processes", "0"],
        ["serve", "--processes", "1.5"],
        ["demo", "--jobs", "-1"],
    ],
)
def test_an_invalid_number_argument_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 2
    assert f"{arguments[2]} is not a" in capsys.readouterr().err


def test_a_token_file_that_a_crash_left_empty_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch()
    made = _token(file)
    assert len(made) >= 32
    assert (_token(file), file.read_text(), file.stat().st_mode & 0o777) == (made, made, 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["token"]
