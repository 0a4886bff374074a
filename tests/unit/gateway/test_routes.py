"""Routes: versions and the applications that answer for them."""

from __future__ import annotations

import pytest

from services.gateway.routes import Routes


def test_the_default_answers_if_no_version_is_named() -> None:
    routes = Routes("v2", {"v1": "app-1", "v2": "app-2", "v3": "app-3"})
    assert (routes.resolve(""), routes.resolve("v1"), routes.resolve("v9")) == ("app-2", "app-1", None)
    assert routes.versions() == ["v2", "v1", "v3"]


def test_replacing_changes_all_at_once() -> None:
    applications = {"v1": "app-1"}
    routes = Routes("v1", applications)
    applications["v9"] = "later"
    routes.replace("v2", {"v2": "app-2"})
    assert (routes.resolve(""), routes.resolve("v1"), routes.resolve("v9")) == ("app-2", None, None)
    assert routes.versions() == ["v2"]


def test_without_a_default_every_call_names_its_version() -> None:
    routes = Routes(None, {"v2": "app-2", "v1": "app-1"})
    assert (routes.resolve(""), routes.resolve("v1")) == (None, "app-1")
    assert routes.versions() == ["v1", "v2"]
    assert Routes().versions() == []


@pytest.mark.parametrize(("default", "applications"), [("v1", {}), ("v2", {"v1": "a"}), ("", {"": "a"})])
def test_a_default_without_an_application_is_refused(default: str, applications: dict[str, str]) -> None:
    routes = Routes("v1", {"v1": "app-1"})
    with pytest.raises(ValueError, match="default"):
        routes.replace(default, applications)
    assert routes.resolve("") == "app-1"
