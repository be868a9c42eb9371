"""How many processes `--processes auto` starts, by cores, limits of containers and where Redis is."""

import os
from pathlib import Path

import pytest

from toril.redis.policy import RedisAddress
from toril.server.cores import cpu_limit, processes_for, usable_cores

ELSEWHERE = RedisAddress(host="valkey.example.internal")
UNLIMITED = float("inf")


@pytest.mark.parametrize(
    ("cores", "redis", "processes"),
    [
        (1, ELSEWHERE, 1),
        (1, RedisAddress(host="localhost"), 1),
        (2, RedisAddress(host="127.0.0.1"), 1),
        (2, ELSEWHERE, 2),
        (4, RedisAddress(host="::1"), 3),
        (4, RedisAddress(path="/run/redis.sock", host="valkey.example.internal"), 3),
        (4, RedisAddress(host="10.0.0.7"), 4),
        (64, ELSEWHERE, 8),
    ],
)
def test_there_is_a_process_for_each_core_that_redis_leaves(cores: int, redis: RedisAddress, processes: int) -> None:
    assert processes_for(cores, redis) == processes


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    (tmp_path / "fs" / "pods" / "toril").mkdir(parents=True)
    (tmp_path / "own").write_text("0::/pods/toril\n")
    return tmp_path


def limit(groups: Path) -> float:
    return cpu_limit(groups / "fs", groups / "own")


def test_without_a_limit_all_cores_are_usable(groups: Path) -> None:
    assert limit(groups) == UNLIMITED
    (groups / "fs" / "pods" / "cpu.max").write_text("max 100000\n")
    assert limit(groups) == UNLIMITED
    assert usable_cores(groups / "fs", groups / "own") == len(os.sched_getaffinity(0))


def test_the_lowest_limit_of_a_group_and_those_above_it_counts(groups: Path) -> None:
    (groups / "fs" / "pods" / "cpu.max").write_text("150000 100000\n")
    assert limit(groups) == 1.5
    (groups / "fs" / "pods" / "toril" / "cpu.max").write_text("400000 100000\n")
    assert limit(groups) == 1.5
    assert usable_cores(groups / "fs", groups / "own") == 1, "whole cores"


def test_half_a_core_is_enough_for_one_process(groups: Path) -> None:
    (groups / "fs" / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(groups / "fs", groups / "own") == 1


def test_a_container_that_sees_only_its_own_group_has_its_limit(groups: Path) -> None:
    (groups / "own").write_text("0::/../../system.slice/docker-1a2b.scope\n")
    (groups / "fs" / "cpu.max").write_text("200000 100000\n")
    assert limit(groups) == 2.0


def test_limits_of_the_first_version_of_control_groups_count_too(groups: Path) -> None:
    (groups / "own").write_text("4:memory:/docker/1a2b\n3:cpu,cpuacct:/docker/1a2b\n")
    folder = groups / "fs" / "cpu"
    folder.mkdir()
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert limit(groups) == UNLIMITED
    (folder / "cpu.cfs_quota_us").write_text("300000\n")
    assert limit(groups) == 3.0


def test_a_system_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path / "fs", tmp_path / "own") == UNLIMITED
