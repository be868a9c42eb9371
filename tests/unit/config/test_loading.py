from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from toril.config.loading import load
from toril.config.settings import Settings
from toril.config.table import SETTINGS
from toril.core.errors import ConfigInvalid
from toril.proxy.settings import PROXY_SETTINGS
from toril.redis.policy import RedisAddress

SECRET = "hunter2-the-secret"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "toril.yaml"


def written(file: Path, document: Any) -> Path:
    file.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return file


def faults_of(environment: dict[str, str], file: Path | None = None) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        load(environment, file)
    return caught.value.faults


def value_of(settings: Settings, target: str) -> Any:
    found: Any = settings
    for part in target.split("."):
        found = getattr(found, part)
    return found


def test_without_file_and_environment_the_settings_are_the_defaults() -> None:
    assert load({}) == Settings()


def test_an_empty_file_is_the_defaults(file: Path) -> None:
    assert load({}, written(file, "# nothing yet\n")) == Settings()


# reference/bullmq-proxy.txt, "Configuration": each variable, its default, and what a value does.
BULLMQ_PROXY = [
    ("PORT", "port", 8080, "9090", 9090),
    ("REDIS_URL", "redis", RedisAddress(), "redis://u:p@h/2", RedisAddress(host="h", db=2, username="u", password="p")),
    ("REDIS_HOST", "redis.host", "localhost", "store.example", "store.example"),
    ("REDIS_PORT", "redis.port", 6379, "6380", 6380),
    ("REDIS_USERNAME", "redis.username", None, "toril", "toril"),
    ("REDIS_PASSWORD", "redis.password", None, SECRET, SECRET),
    ("REDIS_TLS", "redis.tls", False, "true", True),
    ("AUTH_TOKENS", "gateway.auth_tokens", (), "one,two", ("one", "two")),
    ("QUEUE_PREFIX", "store.queue_prefix", "bull", "mine", "mine"),
    ("QUEUE_CACHE_SIZE", "store.queue_cache_size", 10_000, "7", 7),
    ("DEBUG", "log.level", "info", "true", "debug"),
    ("MIN_QUEUE_NAME_LENGTH", "gateway.min_queue_name_length", 3, "1", 1),
    ("MAX_QUEUE_NAME_LENGTH", "gateway.max_queue_name_length", 100, "50", 50),
    ("WORKER_METADATA_KEY", "store.worker_hash", "bmqp:w:meta", "w:meta", "w:meta"),
    ("WORKER_METADATA_STREAM", "store.worker_stream", "bmpq:w:stream", "w:stream", "w:stream"),
    ("MAX_LEN_WORKER_METADATA_STREAM", "store.worker_stream_max_len", 100, "1000", 1000),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "target", "default", "text", "value"), BULLMQ_PROXY, ids=[row[0] for row in BULLMQ_PROXY]
)
def test_a_variable_of_bullmq_proxy_is_honoured(name: str, target: str, default: Any, text: str, value: Any) -> None:
    assert value_of(load({}), target) == default
    assert value_of(load({name: text}), target) == value
    assert value_of(load({name: ""}), target) == default, "an empty variable counts as not set"


def test_the_environment_beats_the_file(file: Path) -> None:
    written(file, {"port": 1, "host": "a", "log": {"level": "error"}, "redis": {"host": "a", "port": 5}})
    settings = load({"PORT": "2", "TORIL_LOG_LEVEL": "warning", "REDIS_PORT": "6"}, file)
    assert (settings.port, settings.host, settings.log.level) == (2, "a", "warning")
    assert (settings.redis.host, settings.redis.port) == ("a", 6)


def test_a_redis_url_beats_the_single_redis_settings(file: Path) -> None:
    environment = {"REDIS_URL": "redis://a:1", "REDIS_HOST": "b", "REDIS_PORT": "2", "REDIS_PASSWORD": SECRET}
    assert load(environment).redis == RedisAddress(host="a", port=1)
    assert load({"REDIS_HOST": "b"}, written(file, {"redis": {"url": "redis://a:1"}})).redis.host == "a"


def test_the_redis_url_is_read_under_either_name() -> None:
    assert load({"REDIS_URI": "redis://a"}).redis.host == "a"
    assert load({"REDIS_URI": "redis://b", "REDIS_URL": "redis://a"}).redis.host == "a"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", RedisAddress()),
        ("redis://a", RedisAddress(host="a")),
        ("redis://a:7/3", RedisAddress(host="a", port=7, db=3)),
        ("redis://a?db=3", RedisAddress(host="a", db=3)),
        ("redis://:p%40ss@a", RedisAddress(host="a", password="p@ss")),
        ("redis://user:p%3Aw@a", RedisAddress(host="a", username="user", password="p:w")),
        ("rediss://a", RedisAddress(host="a", tls=True)),
        ("rediss://a?ssl_cert_reqs=none", RedisAddress(host="a", tls=True, verify=False)),
        ("unix:///run/redis.sock?db=1", RedisAddress(path="/run/redis.sock", db=1)),
        ("redis://[::1]:7", RedisAddress(host="::1", port=7)),
    ],
)
def test_a_redis_url_is_read(url: str, address: RedisAddress) -> None:
    assert load({"REDIS_URL": url}).redis == address


@pytest.mark.parametrize(
    "url",
    [
        "http://a",
        "a:6379",
        "redis//a",
        "redis://a:x",
        "redis://a:99999",
        "redis://a?db=x",
        "redis://a/-1",
        "redis://[::1",
        f"postgres://u:{SECRET}@a",
        f"redis://u:{SECRET}@a:x",
        f"redis://u:{SECRET}#@a:x",
    ],
)
def test_an_invalid_redis_url_is_a_fault_and_not_repeated(url: str) -> None:
    (fault,) = faults_of({"REDIS_URL": url})
    assert fault.startswith("the environment variable REDIS_URL: ")
    assert SECRET not in fault


def test_every_fault_is_named_at_once(file: Path) -> None:
    written(file, {"prot": 1, "log": {"level": "loud"}, "engine": {"lock": 30, "grase": "1s"}, "max_body_bytes": 0})
    faults = faults_of(
        {"PORT": "x", "REDIS_TLS": "perhaps", "TORIL_GRACE": "1 s", "MIN_QUEUE_NAME_LENGTH": "200"}, file
    )
    assert sorted(faults) == sorted(
        [
            f"{file} has an unknown key prot; did you mean port?",
            f"log.level in {file}: 'loud' is none of debug, info, warning, error",
            f"engine.lock in {file}: 30 is not a duration such as 30s, 1h30m or 30d",
            f"{file} has an unknown key engine.grase; did you mean engine.grace?",
            f"max_body_bytes in {file}: 0 is not a whole number of at least 1",
            "the environment variable PORT: 'x' is not a whole number from 0 to 65535",
            "the environment variable REDIS_TLS: 'perhaps' is neither true nor false",
            "the environment variable TORIL_GRACE: '1 s' is not a duration such as 30s, 1h30m or 30d",
            "min_queue_name_length is greater than max_queue_name_length",
        ]
    )


def test_an_unknown_key_similar_to_none_gets_no_suggestion(file: Path) -> None:
    assert faults_of({}, written(file, {"xyzzy": 1})) == [f"{file} has an unknown key xyzzy"]


def test_a_key_with_a_dot_may_be_written_flat(file: Path) -> None:
    assert load({}, written(file, "redis.host: a\nengine:\n  grace: 5s\n")).redis.host == "a"


@pytest.mark.parametrize("section", ["engine", "log", "workers"])
def test_a_section_that_is_no_mapping_is_unknown(file: Path, section: str) -> None:
    (fault,) = faults_of({}, written(file, {section: SECRET}))
    assert fault.startswith(f"{file} has an unknown key {section}")
    assert SECRET not in fault


def test_redis_is_a_section_or_the_word_none(file: Path) -> None:
    (fault,) = faults_of({}, written(file, {"redis": SECRET}))
    assert fault.startswith(f"redis in {file}: it must be a section (url, host and so on), or the word none")
    assert SECRET not in fault
    document = {"redis": "none", "targets": {"a": {"url": "http://a/"}}, "ledger": {"url": "postgresql://db/toril"}}
    settings = load({"REDIS_URL": "redis://elsewhere"}, written(file, document))
    assert settings.without_redis
    del document["redis"]
    assert load({"TORIL_REDIS": "none"}, written(file, document)).without_redis
    grouped = {"url": "http://a/", "group_by": "labels.tenant", "group": {"concurrency": 1}}
    assert load({"TORIL_REDIS": "none"}, written(file, document | {"targets": {"a": grouped}})).without_redis
    document["upstreams"] = [{"url": "http://b/", "prefix": "/b"}]
    (fault,) = faults_of({"TORIL_REDIS": "none"}, written(file, document))
    assert fault == "redis: none goes with targets alone: upstreams need Redis"


@pytest.mark.parametrize("content", ["- a\n- b\n", "text", "5", "true"])
def test_a_file_that_is_no_mapping_is_a_fault(file: Path, content: str) -> None:
    assert faults_of({}, written(file, content)) == [f"{file} must hold a mapping of settings"]


def test_a_file_that_is_not_there_is_a_fault(file: Path) -> None:
    (fault,) = faults_of({}, file)
    assert fault.startswith(f"{file} cannot be read: ")


def test_a_file_that_is_not_text_is_a_fault(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    (fault,) = faults_of({}, file)
    assert fault.startswith(f"{file} cannot be read: ")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("port: 1\nhost: a\nport: 2\n", "line 3: the key port is given twice, first on line 1"),
        (
            "targets:\n  a: {url: 'http://a'}\n  'a': {url: 'http://b'}\n",
            "line 3: the key a is given twice, first on line 2",
        ),
        ("targets: {no: {url: 'http://a'}}", "line 1: YAML reads the key no as true or false; put it in quotes"),
        ("log:\n  on: x", "line 2: YAML reads the key on as true or false; put it in quotes"),
        ("1: x", "line 1: a key must be a text; put it in quotes"),
        ("null: x", "line 1: a key must be a text; put it in quotes"),
        ("? [a]: b", "line 1: a key must be a text; put it in quotes"),
    ],
)
def test_a_key_that_is_given_twice_or_is_no_text_is_a_fault(file: Path, content: str, fault: str) -> None:
    assert faults_of({}, written(file, content)) == [f"{file}, {fault}"]


def test_a_merged_key_may_be_given_again(file: Path) -> None:
    content = "targets:\n  a: &a {url: 'http://a', concurrency: 1}\n  b: {<<: *a, concurrency: 2}\n  c: {<<: *a}\n"
    settings = load({}, written(file, content))
    assert {target.name: target.concurrency for target in settings.targets} == {"a": 1, "b": 2, "c": 1}


def test_a_file_that_is_empty_when_it_is_read_again_is_a_fault(file: Path) -> None:
    for content in ("", "# nothing\n", "---\n"):
        with pytest.raises(ConfigInvalid) as caught:
            load({}, written(file, content), again=True)
        assert caught.value.faults == [f"{file} is empty; to run without its settings, restart without the file"]


@pytest.mark.parametrize("content", ["a: [", "a: b: c", "\tx", "a: !!python/object:os.system x"])
def test_a_file_that_is_not_yaml_is_a_fault_of_one_line(file: Path, content: str) -> None:
    (fault,) = faults_of({}, written(file, content))
    assert fault.startswith(f"{file} is not YAML: ")
    assert "\n" not in fault


# Whatever is wrong with a secret, or near it, its text is in no error.
@pytest.mark.parametrize(
    "document",
    [
        f"auth_tokens: [{SECRET}",
        f"auth_tokens: [{SECRET}, 5]",
        f'auth_tokens: "{SECRET}',
        f"auth_tokens: {{{SECRET}: 1}}",
        f"auth_tokens: [{SECRET}\u00e9]",
        f"auth_tokens: [{SECRET}]\n  port: 5",
        f"redis:\n  password: {SECRET}\n port: 5",
        f"redis:\n  password: [{SECRET}]",
        f"redis:\n  password: @{SECRET}",
        f"redis: redis://:{SECRET}@a",
        f"redis:\n  url: [redis://:{SECRET}@a]",
        f"redis:\n  url: {{redis://:{SECRET}@a: 1}}",
        f"redis:\n  url: http://:{SECRET}@a",
        f"redis:\n  uri: redis://:{SECRET}@a",
        f"redis.password: {SECRET}\nredis:\n  passwort: {SECRET}",
    ],
)
def test_no_fault_of_a_file_repeats_a_secret(file: Path, document: str) -> None:
    try:
        load({}, written(file, document))
    except ConfigInvalid as exc:
        faults = exc.faults
    else:
        faults = []
    assert [fault for fault in faults if SECRET in fault] == []


@pytest.mark.parametrize(
    "environment",
    [
        {"AUTH_TOKENS": f"{SECRET},\x7f"},
        {"AUTH_TOKENS": f"{SECRET}ü"},
        {"REDIS_URL": f"redis://:{SECRET}@a:b"},
        {"REDIS_URI": f"{SECRET}"},
        {"REDIS_PASSWORD": SECRET, "REDIS_PORT": "x"},
    ],
)
def test_no_fault_of_the_environment_repeats_a_secret(environment: dict[str, str]) -> None:
    assert [fault for fault in faults_of(environment) if SECRET in fault] == []


def test_an_address_is_shown_without_its_secrets() -> None:
    settings = load({"REDIS_URL": f"redis://user:{SECRET}@a:7/2"})
    assert str(settings.redis) == "redis://a:7/2"


@pytest.mark.parametrize("text", ["one,two", ",one,,two,"])
def test_tokens_come_as_a_list_with_commas(text: str) -> None:
    assert load({"AUTH_TOKENS": text}).gateway.auth_tokens == ("one", "two")


def test_tokens_in_the_file_come_as_a_list_or_a_text(file: Path) -> None:
    assert load({}, written(file, {"auth_tokens": ["one", "two"]})).gateway.auth_tokens == ("one", "two")
    assert load({}, written(file, {"auth_tokens": "one,two"})).gateway.auth_tokens == ("one", "two")


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("TRUE", True), ("1", True), ("false", False), ("0", False), ("False", False)]
)
def test_a_boolean_variable_is_read(text: str, value: bool) -> None:
    assert load({"REDIS_TLS": text}).redis.tls is value


def test_debug_gives_way_to_a_log_level() -> None:
    assert load({"DEBUG": "true", "TORIL_LOG_LEVEL": "error"}).log.level == "error"
    assert load({"DEBUG": "false"}).log.level == "info"


@pytest.mark.parametrize("name", ["ca_file", "cert_file", "key_file"])
def test_a_file_that_tls_needs_must_be_there(tmp_path: Path, name: str) -> None:
    missing = tmp_path / "missing.pem"
    variable = f"REDIS_{name.upper()}"
    assert faults_of({variable: str(missing)}) == [f"redis.{name}: {missing} is not a file"]
    missing.touch()
    assert value_of(load({variable: str(missing)}), f"redis.{name}") == str(missing)


def test_the_hash_and_the_stream_cannot_be_one_key() -> None:
    (fault,) = faults_of({"WORKER_METADATA_KEY": "same", "WORKER_METADATA_STREAM": "same"})
    assert "the same Redis key" in fault


def test_a_cluster_keeps_its_workers_in_one_slot() -> None:
    assert any("hash tag" in fault for fault in faults_of({"REDIS_CLUSTER": "true"}))
    tagged = {"WORKER_METADATA_KEY": "{bmqp}:w:meta", "WORKER_METADATA_STREAM": "{bmqp}:w:stream"}
    assert load({"REDIS_CLUSTER": "true", "REDIS_URL": "redis://a"} | tagged).redis == RedisAddress(
        host="a", cluster=True
    )
    assert any("database" in fault for fault in faults_of({"REDIS_CLUSTER": "true", "REDIS_DB": "1"} | tagged))


@pytest.mark.parametrize(
    "url", ["u:SECRET/x@h/db", "u:SECRET#x@h/db", "u:SECRET?x@h/db", "h:SECRET/db", "[::1]:SECRET/db"]
)
def test_a_ledger_url_that_cannot_be_read_is_a_fault_that_repeats_nothing(url: str) -> None:
    (fault,) = faults_of({"TORIL_LEDGER_URL": f"postgresql://{url}"})
    assert "a port of it is no number" in fault
    assert "SECRET" not in fault


@pytest.mark.parametrize(
    "url", ["h/db", "u:p%2F@h:5432/db", "/db?host=/run", "a:1,b:2/db", "u@[::1]:5432/db", "u:p:q@h/d"]
)
def test_every_kind_of_ledger_url_that_libpq_takes_is_taken(url: str) -> None:
    assert load({"TORIL_LEDGER_URL": f"postgresql://{url}"}).ledger.url == f"postgresql://{url}"


TOKEN = {"name": "shop", "sha256": "ab" * 32, "allow": ["*"], "queues": ["*"]}
TARGETS = {"billing": {"url": "http://billing.internal"}}
URLS = ["redis://a", "s3://bucket/prefix", "http://s3.internal", "postgresql://ledger"]
VALUES = [
    "queue.stuck",
    "data.card.*",
    [TOKEN],
    [{"hosts": ["*"], "proxy": {"url": "http://proxy:3128"}}],
    TARGETS,
    *URLS,
    1,
    2,
    7,
    4096,
    "text",
    "/path",
    "5s",
    "90s",
    "1",
    True,
    False,
    "true",
    "debug",
    "json",
    "a,b",
    "public",
]


NOT_OF_THE_PROXY = [setting for setting in SETTINGS if setting not in PROXY_SETTINGS]


@pytest.mark.parametrize("setting", NOT_OF_THE_PROXY, ids=lambda setting: setting.key)
def test_a_setting_means_the_same_in_the_file_and_in_the_environment(tmp_path: Path, setting: Any) -> None:
    """Whatever both take, both read alike; every setting takes something, and changes something."""
    changed = False
    for value in VALUES:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        section, dot, name = setting.key.rpartition(".")
        document = {section: {name: value}} if dot else {name: value}
        try:
            from_file = load({}, written(tmp_path / "toril.yaml", document))
            for variable in setting.env:
                assert load({variable: text}) == from_file
        except ConfigInvalid:
            continue
        changed |= from_file != Settings()
    assert changed or setting.key in {
        "redis.ca_file", "redis.cert_file", "redis.key_file", "redis.cluster", "events.target",
        "redis.sentinels", "redis.sentinel_master", "redis", "acknowledge",
    }  # fmt: skip


@given(st.dictionaries(st.sampled_from([name for setting in SETTINGS for name in setting.env]), st.text(max_size=8)))
def test_any_environment_is_read_or_refused(environment: dict[str, str]) -> None:
    try:
        load(environment)
    except ConfigInvalid as exc:
        assert exc.faults  # noqa: PT017 - that there is one is the point


def test_every_target_is_a_field_of_the_settings() -> None:
    for setting in NOT_OF_THE_PROXY:
        value_of(Settings(), setting.target)


def test_no_two_settings_share_a_name() -> None:
    keys = [setting.key for setting in SETTINGS]
    variables = [name for setting in SETTINGS for name in setting.env]
    assert len(set(keys)) == len(keys)
    assert len(set(variables)) == len(variables)


def test_a_setting_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "toril.yaml"
    file.write_text("redis.port: 1\nredis: {port: 2}\n")
    with pytest.raises(ConfigInvalid) as caught:
        load({}, file)
    assert caught.value.faults == [f"redis.port in {file} is given twice, in its section and as one key"]


def test_the_file_that_proxq_names_needs_upstreams_however_its_path_is_written(tmp_path: Path) -> None:
    file = tmp_path / "proxq.yaml"
    file.write_text("port: 81\n")
    with pytest.raises(ConfigInvalid, match="has no upstreams"):
        load({"PROXQ_CONFIG": f"{tmp_path}/./proxq.yaml"}, file)


SENTINELS = RedisAddress(
    host="",
    db=2,
    username="u",
    password="p:w",
    sentinels=(("one", 26379), ("2001:db8::1", 26380)),
    sentinel_master="orders",
    sentinel_password="theirs",
)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis+sentinel://u:p%3Aw@one,[2001:db8::1]:26380/orders/2?sentinel_password=theirs", SENTINELS),
        ("rediss+sentinel://a:1/m", RedisAddress(
            host="", tls=True, sentinels=(("a", 1),), sentinel_master="m", sentinel_tls=True,
        )),
        ("rediss+sentinel://a:1/m?sentinel_tls=false&ssl_cert_reqs=none", RedisAddress(
            host="", tls=True, verify=False, sentinels=(("a", 1),), sentinel_master="m",
        )),
    ],
)  # fmt: skip
def test_a_url_may_name_sentinels(url: str, address: RedisAddress) -> None:
    assert load({"REDIS_URL": url}).redis == address
    assert "p:w" not in str(address)
    assert str(SENTINELS) == "redis+sentinel://one:26379,2001:db8::1:26380/orders/2"


def test_sentinels_may_be_settings_of_their_own(file: Path) -> None:
    redis = {"sentinels": ["one", "[2001:db8::1]:26380"], "sentinel_master": "orders", "sentinel_password": "theirs"}
    redis |= {"username": "u", "password": "p:w", "db": 2}
    assert load({}, written(file, {"redis": redis})).redis == SENTINELS
    env = {"REDIS_SENTINELS": "one, [2001:db8::1]:26380", "REDIS_SENTINEL_MASTER": "orders"}
    assert load(env).redis.sentinels == SENTINELS.sentinels


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"REDIS_URL": "redis+sentinel://u:hunter2-the-secret@a:1"}, "names no master"),
        ({"REDIS_URL": "redis+sentinel:///m"}, "is not the host:port of a Sentinel"),
        ({"REDIS_URL": "redis+sentinel://a:70000/m"}, "'a:70000' is not the host:port"),
        ({"REDIS_URL": "redis+sentinel://a/m/-1"}, "the number of a database"),
        ({"REDIS_URL": "redis+sentinel://a/m/x"}, "the number of a database"),
        ({"REDIS_SENTINELS": "a:1,,b"}, "'' is not the host:port of a Sentinel"),
        ({"REDIS_SENTINELS": "a:1"}, "redis.sentinels need redis.sentinel_master"),
        ({"REDIS_SENTINEL_MASTER": "orders"}, "redis.sentinel_master needs redis.sentinels"),
        ({"REDIS_SENTINELS": "a:1", "REDIS_SENTINEL_MASTER": "m", "REDIS_URL": "redis://b"}, "both say where Redis is"),
        ({"REDIS_SENTINELS": "a:1", "REDIS_SENTINEL_MASTER": "m", "REDIS_CLUSTER": "true",
          "WORKER_METADATA_KEY": "{w}:m", "WORKER_METADATA_STREAM": "{w}:s"}, "exclude each other"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_about_sentinels_is_a_fault(environment: dict[str, str], said: str) -> None:
    faults = faults_of(environment)
    assert any(said in fault for fault in faults), faults
    assert SECRET not in str(faults)
