"""One small run for all tests that need one; pytest makes it when the first of them asks."""

from tests.small import finished, started

__all__ = ["finished", "started"]
