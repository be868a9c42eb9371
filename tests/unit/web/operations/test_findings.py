import pytest

from toril.web.operations.findings import about_clock, about_descriptors, about_egress, about_redis

HEALTHY = {
    "redis_version": "7.2.4",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "maxmemory": "0",
    "used_memory": "1048576",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
}


def states(**info: str) -> dict[str, str]:
    return {finding.about: finding.state for finding in about_redis(HEALTHY | info, "redis://r:6379/0")}


def test_a_healthy_redis_is_ok() -> None:
    assert set(states().values()) == {"ok"}
    assert states(redis_version="7.2.4", valkey_version="9.1.2")["redis.version"] == "ok"


@pytest.mark.parametrize(
    ("info", "about", "state"),
    [
        ({"redis_version": "6.0.16"}, "redis.version", "fail"),
        ({"redis_version": "6.2.0"}, "redis.version", "ok"),
        ({"redis_version": "10.0.0"}, "redis.version", "ok"),
        ({"role": "slave"}, "redis.role", "fail"),
        ({"maxmemory_policy": "allkeys-lru"}, "redis.eviction", "fail"),
        ({"maxmemory": "1048576"}, "redis.memory", "warn"),
        ({"maxmemory": "104857600"}, "redis.memory", "ok"),
        ({"aof_last_write_status": "err"}, "redis.persistence", "fail"),
        ({"aof_enabled": "0"}, "redis.persistence", "warn"),
        ({"aof_enabled": "0", "rdb_last_bgsave_status": "err"}, "redis.persistence", "fail"),
    ],
)
def test_what_is_wrong_with_redis_is_found(info: dict[str, str], about: str, state: str) -> None:
    assert states(**info)[about] == state


def test_every_fault_has_a_remedy() -> None:
    sick = {"redis_version": "5.0.0", "role": "slave", "maxmemory_policy": "volatile-ttl", "aof_enabled": "0"}
    found = list(about_redis(HEALTHY | sick, "redis://r:6379/0"))
    assert all(finding.remedy for finding in found if finding.state != "ok")


def test_a_clock_that_is_off_is_a_warning_with_the_direction() -> None:
    assert about_clock(0.4).state == about_clock(-0.4).state == "ok"
    assert "5.0 s ahead of" in about_clock(5.0).text
    assert "5.0 s behind" in about_clock(-5.0).text


def test_few_descriptors_are_a_warning() -> None:
    assert about_descriptors(1024, 30).state == "warn"
    assert about_descriptors(65536, 30).state == "ok"


def test_internal_addresses_are_a_warning_where_strangers_register_workers() -> None:
    assert about_egress("internal", strangers=True).state == "warn"
    assert about_egress("internal", strangers=False).state == "ok"
    assert about_egress("public", strangers=True).state == "ok"
