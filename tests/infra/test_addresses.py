"""How addresses are read, and what of them may be shown."""

import pytest

from infra.addresses import hide_password, split_address


@pytest.mark.parametrize(
    ("address", "host", "port"), [("kafka:9092", "kafka", 9092), ("[::1]:9092", "[::1]", 9092), ("h:65535", "h", 65535)]
)
def test_an_address_is_a_host_and_a_port(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)


@pytest.mark.parametrize(
    "address",
    ["", "kafka", ":9092", "kafka:", "kafka:0", "kafka:-1", "kafka:65536", "kafka:²", "redis://redis:1", "u:p@redis:1"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_address(address)


@pytest.mark.parametrize(
    ("store", "shown"),
    [
        ("", ""),
        ("redis:6379", "redis:6379"),
        ("redis:6379,db=1,username=u,ssl=true", "redis:6379,db=1,username=u,ssl=true"),
        ("redis:6379,db=1,password=hunter2", "redis:6379,db=1,password=***"),
        ("redis:6379,password=hunter2,db=1", "redis:6379,password=***,db=1"),
        ("redis:6379,password=a,hunter2", "redis:6379,password=***,***"),
        ("redis:6379,password=a,hunter2=", "redis:6379,password=***,***"),
        ("redis:6379,pasword=hunter2", "redis:6379,***"),
        ("password=hunter2,redis:6379", "***,***"),
        ("redis://u:hunter2@redis:6379", "***"),
    ],
)
def test_of_a_stores_address_all_is_shown_but_what_may_be_its_password(store: str, shown: str) -> None:
    assert hide_password(store) == shown
