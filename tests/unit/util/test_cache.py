import pytest

from rapo.util.cache import BytesLRU


def test_makes_each_value_once_while_it_is_kept():
    made: list[str] = []
    cache: BytesLRU[bytes] = BytesLRU(10, len)

    def make(key: str) -> bytes:
        made.append(key)
        return key.encode() * 4

    for key in "aabba":
        assert cache.get(key, lambda key=key: make(key)) == key.encode() * 4
    assert made == ["a", "b"]
    assert cache.nbytes == 8


def test_drops_the_least_recently_used_first():
    cache: BytesLRU[bytes] = BytesLRU(8, len)
    for key in ("a", "b", "a", "c"):
        cache.get(key, lambda key=key: key.encode() * 4)
    assert cache.nbytes == 8
    assert cache.get("a", lambda: b"new!") == b"aaaa"
    assert cache.get("b", lambda: b"new!") == b"new!"


def test_a_value_over_the_limit_is_handed_out_but_not_kept():
    cache: BytesLRU[bytes] = BytesLRU(3, len)
    assert cache.get("a", lambda: b"large") == b"large"
    assert len(cache) == cache.nbytes == 0


def test_a_failure_keeps_nothing():
    cache: BytesLRU[bytes] = BytesLRU(3, len)
    with pytest.raises(KeyError):
        cache.get("a", lambda: {}["missing"])
    assert cache.get("a", lambda: b"ok") == b"ok"
