"""proxq's configuration file means here what it means there, and every fault is named at once."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from toril.config.loading import config_file, load
from toril.config.settings import Settings
from toril.core.errors import ConfigInvalid
from toril.core.group_limits import GroupDefault, GroupRate
from toril.core.times import parse_duration_s
from toril.proxy.rules.grouping import GroupBy
from toril.proxy.rules.upstream import DEFAULT_KEY_EXCLUDES, Upstream
from toril.proxy.settings import PROXY_SETTINGS
from toril.proxy.upstream_settings import UPSTREAM_KEYS

API = {"prefix": "/api", "url": "http://api:3000"}
GROUPED = API | {"groupBy": "header:X-Tenant"}
LIMIT = {"max": 10, "duration": "1m30s"}
ALL = {"prefix": "/", "url": "http://all"}
BILLING = {"billing": {"url": "http://billing"}}
DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "proxy.md"

PROXQ_YAML = """
listenAddress: "0.0.0.0:9090"
redis:
  addr: "redis:6380"
  password: "pw"
  db: 3
queue: "jobs"
concurrency: 25
jobsPath: "/q/__jobs"
taskRetention: "2h30m"
cache:
  mode: "redis"
  ttl: "10m"
  maxEntries: 5
  redisKeyPrefix: "px:"
upstreams:
  - prefix: "/api"
    url: "http://api:3000"
    timeout: "1m30s"
    maxRetries: 3
    retryDelay: "500ms"
    maxBodySize: 100
    directProxyThreshold: 50
    directProxyMode: "redirect"
    cacheKeyExcludeHeaders: ["Authorization", "X-Trace-ID"]
    pathFilter:
      mode: "whitelist"
      patterns: ["^/api/slow"]
  - prefix: "/ml"
    url: "http://ml-service:8080/"
"""


def read(tmp_path: Path, document: Any, environment: dict[str, str] | None = None) -> Settings:
    file = tmp_path / "proxq.yaml"
    file.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return load(environment or {}, file)


def faults_of(tmp_path: Path, document: Any) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        read(tmp_path, document)
    return caught.value.faults


def test_proxqs_file_is_read_as_it_is(tmp_path: Path) -> None:
    settings = read(tmp_path, PROXQ_YAML)
    assert (settings.host, settings.port) == ("0.0.0.0", 9090)
    redis = settings.redis
    assert (redis.host, redis.port, redis.password, redis.db) == ("redis", 6380, "pw", 3)
    proxy = settings.proxy
    assert (proxy.queue, proxy.concurrency, proxy.jobs_path, proxy.retention_s) == ("jobs", 25, "/q/__jobs", 9000)
    assert (proxy.cache.mode, proxy.cache.ttl_s, proxy.cache.max_entries) == ("redis", 600, 5)
    assert proxy.cache.redis_key_prefix == "px:"
    first, second = proxy.upstreams
    assert (first.timeout_s, first.max_retries, first.retry_delay_s) == (90, 3, 0.5)
    assert (first.max_body_bytes, first.direct_threshold_bytes, first.direct_mode) == (100, 50, "redirect")
    assert first.cache_key_excludes == {b"authorization", b"x-trace-id"}
    assert first.path_filter.mode == "whitelist"
    assert [pattern.pattern for pattern in first.path_filter.patterns] == ["^/api/slow"]
    assert second == Upstream(prefix="/ml", url="http://ml-service:8080/")
    assert second.cache_key_excludes == DEFAULT_KEY_EXCLUDES
    assert (second.timeout_s, second.max_body_bytes, second.direct_threshold_bytes) == (300, 10485760, 10485760)


def test_a_number_where_proxq_takes_a_text_is_the_text_that_is_written(tmp_path: Path) -> None:
    """As Go's YAML reads one: with every digit."""
    settings = read(
        tmp_path,
        """
        queue: 0123
        redis: {username: 12, password: 0x1F}
        cache: {redisKeyPrefix: 1_000}
        auth_tokens: [1234]
        upstreams:
          - {prefix: /api, url: "http://api:3000", cacheKeyExcludeHeaders: [1], pathFilter: {patterns: [007]}}
        """,
    )
    assert (settings.proxy.queue, settings.proxy.cache.redis_key_prefix) == ("0123", "1_000")
    assert (settings.redis.username, settings.redis.password) == ("12", "0x1F")
    assert settings.gateway.auth_tokens == ("1234",)
    (upstream,) = settings.proxy.upstreams
    assert upstream.cache_key_excludes == {b"1"}
    assert [pattern.pattern for pattern in upstream.path_filter.patterns] == ["007"]


@pytest.mark.parametrize(
    "document", ["queue: 1.50", "queue: true", "redis: {password: 1.0}", "redis: {password: yes}", "auth_tokens: [1.0]"]
)
def test_a_fraction_or_a_truth_value_is_no_text(tmp_path: Path, document: str) -> None:
    (fault,) = faults_of(tmp_path, document + "\nupstreams: [{prefix: /api, url: 'http://api:3000'}]\n")
    assert fault.startswith(document.partition(":")[0])


def test_a_pattern_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, {"upstreams": [API | {"pathFilter": {"patterns": [b"x"]}}]})
    assert fault.endswith("pathFilter.patterns: b'x' is not a regular expression")


def test_a_zero_or_empty_setting_means_the_default(tmp_path: Path) -> None:
    zero = {
        "listenAddress": "", "redis": {"addr": "", "password": "", "db": 0}, "queue": "", "concurrency": 0,
        "jobsPath": "", "taskRetention": "0", "cache": {"mode": "", "ttl": 0, "maxEntries": 0, "redisKeyPrefix": ""},
        "upstreams": [API | {"timeout": "0", "maxRetries": 0, "retryDelay": "", "maxBodySize": 0, "directProxyMode": "",
                             "cacheKeyExcludeHeaders": [], "pathFilter": {}}],
    }  # fmt: skip
    assert read(tmp_path, zero) == read(tmp_path, {"upstreams": [API]})
    assert (
        read(tmp_path, "cache:\nredis:\nupstreams: [{prefix: /api, url: http://api:3000}]\n").proxy.cache.mode == "none"
    )


def test_every_key_that_is_left_empty_is_the_default(tmp_path: Path) -> None:
    keys = [setting.key for setting in PROXY_SETTINGS if setting.key != "upstreams"]
    flat = "\n".join(f"{key}:" for key in [*keys, "redis.password", "redis.db"])
    inner = "".join(f"\n    {key}:" for key in UPSTREAM_KEYS if key not in ("prefix", "url") and "." not in key)
    entry = f"upstreams:\n  - prefix: /api\n    url: http://api:3000{inner}\n    pathFilter: {{mode: , patterns: }}\n"
    usual = read(tmp_path, {"upstreams": [API]})
    assert read(tmp_path, f"{flat}\n{entry}") == usual
    texts = read(tmp_path, {"redis": {"password": "", "db": ""}, "upstreams": [API]})
    assert (texts.redis.password, texts.redis.db) == (None, 0)


def test_a_database_and_a_password_of_the_environment_win_over_the_file(tmp_path: Path) -> None:
    document = {"redis": {"password": "", "db": 3}, "upstreams": [API]}
    redis = read(tmp_path, document, {"REDIS_DB": "0", "REDIS_PASSWORD": "pw"}).redis
    assert (redis.db, redis.password) == (0, "pw")


def test_a_threshold_of_zero_means_that_no_body_is_too_large_for_the_queue(tmp_path: Path) -> None:
    (upstream,) = read(tmp_path, {"upstreams": [API | {"directProxyThreshold": 0}]}).proxy.upstreams
    assert upstream.direct_threshold_bytes is None


def test_a_proxy_listens_on_this_machine_only_until_told_otherwise(tmp_path: Path) -> None:
    document = {"upstreams": [API]}
    assert (read(tmp_path, document).host, read(tmp_path, document).port) == ("127.0.0.1", 8080)
    assert read(tmp_path, document | {"listenAddress": ":81"}).host == "::"
    assert read(tmp_path, document | {"listenAddress": "[::1]:81"}).host == "::1"
    assert read(tmp_path, document | {"listenAddress": ":81"}, {"PORT": "82"}).port == 82


def test_the_api_moves_below_its_path_and_is_off_where_an_upstream_takes_every_path(tmp_path: Path) -> None:
    assert read(tmp_path, {"upstreams": [API]}).proxy.api_path == "/__toril"
    everything = {"upstreams": [{"prefix": "/", "url": "http://api"}]}
    assert read(tmp_path, everything).proxy.api_path is None
    assert read(tmp_path, everything | {"apiPath": "/__q"}).proxy.api_path == "/__q"
    assert read(tmp_path, {"upstreams": [API], "apiPath": "/"}).proxy.api_path == "/"
    assert read(tmp_path, {"upstreams": [API], "apiPath": "off"}).proxy.api_path is None


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"upstreams": []}, ["at least one upstream"]),
        ({"jobsPath": "/x"}, ["at least one upstream"]),
        ({"upstreams": [{"url": "http://a"}]}, ["prefix is missing"]),
        ({"upstreams": [{"prefix": "/api"}]}, ["/api", "url is missing"]),
        ({"upstreams": [{"prefix": "/", "url": "http://a"}, API]}, ["/ takes every path"]),
        ({"upstreams": [API, API]}, ["/api and /api"]),
        ({"upstreams": [API, API | {"prefix": "/api/v2"}]}, ["/api and /api/v2"]),
        ({"upstreams": [API], "jobsPath": "/api"}, ["/api", "jobsPath"]),
        ({"upstreams": [API], "jobsPath": "/api/jobs"}, ["/api", "jobsPath /api/jobs"]),
        ({"upstreams": [API | {"prefix": "/j/x"}], "jobsPath": "/j"}, ["/j/x", "jobsPath /j"]),
        ({"upstreams": [API], "apiPath": "/api/x"}, ["/api", "apiPath /api/x"]),
        ({"upstreams": [ALL], "apiPath": "/"}, ["the prefix /", "apiPath puts at /"]),
        ({"upstreams": [API], "jobsPath": "/jobs", "apiPath": "/"}, ["jobsPath /jobs", "apiPath puts at /"]),
        ({"upstreams": [API], "jobsPath": "/api/jobs", "apiPath": "/"}, ["/api", "jobsPath /api/jobs"]),
        ({"upstreams": [API | {"prefix": "/queues/x"}], "apiPath": "/"}, ["/queues/x", "apiPath puts at /"]),
        ({"upstreams": [API], "apiPath": "/__jobs/x"}, ["jobsPath /__jobs", "apiPath /__jobs/x"]),
        ({"upstreams": [ALL], "targets": BILLING}, ["targets (billing)", "the prefix / (http://all)", "apiPath"]),
        ({"upstreams": [ALL], "targets": BILLING, "apiPath": "off"}, ["targets (billing)", "the prefix / (http://all)"]),
        ({"upstreams": [API | {"pathFilter": {"patterns": ["(["]}}]}, ["'(['"]),
        ({"upstreams": [API | {"pathFilter": {"mode": "grey"}}]}, ["'grey'"]),
        ({"upstreams": [API | {"timeout": "5 parsecs"}]}, ["timeout", "'5 parsecs'"]),
        ({"upstreams": [API | {"timeout": 30}]}, ["timeout: 30 is not"]),
        ({"upstreams": [API | {"maxRetries": "many"}]}, ["maxRetries", "'many'"]),
        ({"upstreams": [API | {"maxRetires": 1}]}, ["maxRetires", "maxRetries"]),
        ({"upstreams": [API | {"pathFilter": {"pattern": []}}]}, ["pathFilter: unknown key pattern", "patterns"]),
        ({"upstreams": [API | {"groupBy": "tenant"}]}, ["groupBy: 'tenant' is none of header:NAME"]),
        ({"upstreams": [API | {"groupBy": 7}]}, ["groupBy: 7 is none of header:NAME"]),
        ({"upstreams": [API | {"groupConcurrency": 1}]}, ["/api", "groupConcurrency: it needs groupBy"]),
        ({"upstreams": [API | {"groupLimit": LIMIT}]}, ["/api", "groupLimit: it needs groupBy"]),
        ({"upstreams": [GROUPED | {"groupConcurrency": -1}]}, ["groupConcurrency: -1"]),
        ({"upstreams": [GROUPED | {"groupLimit": {"max": 1}}]}, ["groupLimit: duration is missing"]),
        ({"upstreams": [GROUPED | {"groupLimit": LIMIT | {"max": 0}}]}, ["groupLimit.max: 0"]),
        ({"upstreams": [GROUPED | {"groupLimit": LIMIT | {"duration": 1000}}]}, ["groupLimit.duration: 1000"]),
        ({"upstreams": [GROUPED | {"groupLimit": LIMIT | {"per": "1s"}}]}, ["groupLimit: unknown key per"]),
        ({"upstreams": [API | {"url": "api:3000"}]}, ["url", "api:3000"]),
        ({"upstreams": [API | {"directProxyMode": "tunnel"}]}, ["directProxyMode", "'tunnel'"]),
        ({"upstreams": [API], "taskRetention": "1 hour"}, ["taskRetention", "'1 hour'"]),
        ({"upstreams": [API], "concurrency": "ten"}, ["concurrency", "'ten'"]),
        ({"upstreams": [API], "cache": {"mode": "disk"}}, ["cache.mode", "'disk'"]),
        ({"upstreams": [API], "cache": {"maxentries": 3}}, ["cache.maxentries", "cache.maxEntries"]),
        ({"upstreams": [API], "listenAdress": "x"}, ["listenAdress", "listenAddress"]),
        ({"upstreams": [API], "listenAddress": "8080"}, ["listenAddress", "'8080'"]),
        ({"upstreams": {"prefix": "/"}}, ["must be a list"]),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_what_is_wrong(tmp_path: Path, document: Any, named: list[str]) -> None:
    (fault,) = faults_of(tmp_path, document)
    for part in named:
        assert part in fault


def test_groups_of_an_upstream_have_limits(tmp_path: Path) -> None:
    (one,) = read(tmp_path, {"upstreams": [GROUPED | {"groupConcurrency": 2, "groupLimit": LIMIT}]}).proxy.upstreams
    assert one.group_by == GroupBy("header", b"x-tenant")
    assert one.group == GroupDefault(2, GroupRate(10, 90_000))
    (plain,) = read(tmp_path, {"upstreams": [GROUPED | {"groupConcurrency": 0, "groupLimit": {}}]}).proxy.upstreams
    assert plain.group is None


def test_similar_prefixes_that_are_not_nested_are_fine(tmp_path: Path) -> None:
    assert len(read(tmp_path, {"upstreams": [API, API | {"prefix": "/api2"}]}).proxy.upstreams) == 2
    assert read(tmp_path, {"upstreams": [{"prefix": "/", "url": "http://a"}], "jobsPath": "/x"}).proxy.jobs_path == "/x"


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    faults = faults_of(
        tmp_path,
        {"concurrency": "ten", "taskRetention": "x", "upstreams": [{"prefix": "api", "timeout": "y"}, {"url": "z"}]},
    )
    assert len(faults) == 7


def test_the_configuration_file_is_the_given_one_or_proxqs_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "config.yaml"
    assert config_file(None, {}) is None
    here.write_text("database: mine\n")
    assert config_file(None, {}) is None
    here.write_text("upstreams:\n  - prefix: /\n")
    assert config_file(None, {}) == Path("config.yaml")
    assert config_file(None, {"PROXQ_CONFIG": "/x.yaml"}) == Path("/x.yaml")
    assert config_file(Path("/y.yaml"), {"PROXQ_CONFIG": "/x.yaml"}) == Path("/y.yaml")


def test_a_file_that_proxq_config_names_needs_upstreams(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("")
    assert load({}, file).proxy.upstreams == ()
    with pytest.raises(ConfigInvalid, match="at least one upstream"):
        load({"PROXQ_CONFIG": str(file)}, file)


def test_the_document_lists_every_key_with_its_default() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    documented = {key: default.strip("` ") for key, default in rows}
    keys = [setting.key for setting in PROXY_SETTINGS]
    inner = [f"upstreams[].{key}" for key in UPSTREAM_KEYS]
    assert [key for key in documented if key in keys or key.startswith("upstreams[]")] == [
        key for key in documented if key in {*keys, *inner}
    ]
    assert {*keys, *inner} <= documented.keys()
    for setting in PROXY_SETTINGS:
        value: Any = Settings().proxy
        if not setting.target.startswith("proxy."):
            continue
        for part in setting.target.split(".")[1:]:
            value = getattr(value, part)
        shown = documented[setting.key]
        if isinstance(value, bool):
            assert shown == str(value).lower()
        elif isinstance(value, float):
            assert parse_duration_s(shown) == value
        elif setting.key not in ("upstreams", "apiPath", "callback.secrets", "callback.outbound"):
            assert shown == str(value)


def test_clients_that_are_redirected_would_have_no_access_token(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cr3t")
    auth = {"scheme": "oauth2", "token_url": "http://l/t", "client_id": "c", "secret_file": str(tmp_path / "secret")}
    (fault,) = faults_of(tmp_path, {"upstreams": [API | {"auth": auth, "directProxyMode": "redirect"}]})
    assert fault.endswith("directProxyMode: redirect sends clients to the upstream without the access token of auth")
    assert read(tmp_path, {"upstreams": [API | {"auth": auth}]}).proxy.upstreams[0].direct_mode == "proxy"
