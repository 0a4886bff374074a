from functools import partial

import pytest
from cachetools import LRUCache

from rapo.util.cache import get_or_make, keep


def fourfold(key: str) -> bytes:
    return key.encode() * 4


def test_makes_each_value_once_while_it_is_kept():
    made: list[str] = []
    cache: LRUCache[str, bytes] = LRUCache(10, len)

    def make(key: str) -> bytes:
        made.append(key)
        return fourfold(key)

    for key in "aabba":
        assert get_or_make(cache, key, partial(make, key)) == key.encode() * 4
    assert made == ["a", "b"]
    assert cache.currsize == 8


def test_drops_the_least_recently_used_first():
    cache: LRUCache[str, bytes] = LRUCache(8, len)
    for key in ("a", "b", "a", "c"):
        get_or_make(cache, key, partial(fourfold, key))
    assert cache.currsize == 8
    assert get_or_make(cache, "a", lambda: b"new!") == b"aaaa"
    assert get_or_make(cache, "b", lambda: b"new!") == b"new!"


def test_a_value_over_the_limit_is_used_but_not_kept():
    cache: LRUCache[str, bytes] = LRUCache(3, len)
    assert get_or_make(cache, "a", lambda: b"large") == b"large"
    keep(cache, "a", b"large")
    assert len(cache) == cache.currsize == 0


def test_a_failure_keeps_nothing():
    cache: LRUCache[str, bytes] = LRUCache(3, len)
    nothing: dict[str, bytes] = {}
    with pytest.raises(KeyError):
        get_or_make(cache, "a", lambda: nothing["missing"])
    assert get_or_make(cache, "a", lambda: b"ok") == b"ok"
