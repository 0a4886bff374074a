"""Prepares the environment before any test module imports ray, as the integration tests do."""

import tests.integration.conftest  # noqa: F401
