"""How large the chaos is, and the settings of the run that it happens to.

The short form happens to the small run of the integration tests, whose model hardly learns
anything; the long one to a run like the demo's, so that what it has learned can be compared.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

from rapo.config import load_config
from tests.limits import PATIENCE_S
from tests.small import SMALL

_DEMO = Path(__file__).resolve().parents[2] / "configs" / "cpu.toml"


def _demo() -> Iterator[str]:
    """Overrides that make the small configuration the demo's."""
    whole = load_config(_DEMO)
    for name in (override.split("=")[0] for override in SMALL):
        yield f"{name}={reduce(getattr, name.split('.'), whole)}"

    def leaves(table: dict[str, Any], above: str) -> Iterator[str]:
        for key, value in table.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{above}{key}.")
            else:
                yield f"{above}{key}={str(value).lower() if isinstance(value, bool) else value}"

    yield from leaves(tomllib.loads(_DEMO.read_text(encoding="utf-8")), "")


FAULTS = int(os.environ.get("RAPO_CHAOS_FAULTS", "6"))
LONG = FAULTS > 12
#: The run has to miss what a strike took before the next one comes, and short steps are quick.
STEPS = (4 if LONG else 6) * FAULTS
BATCH, NODE_CPUS = (32 if LONG else 8), 2
LIMIT_S = PATIENCE_S if not LONG else 240 * FAULTS
#: Seconds after a fault in which the run has to make a step again.
STEP_LIMIT_S = 300

OVERRIDES = (
    *(_demo() if LONG else ()),
    f"rapo.steps={STEPS}",
    "rapo.max_staleness=1",
    "rapo.checkpoint_every=3",
    f"rapo.evaluate_every={20 if LONG else STEPS}",
    "rapo.select=last",
    *(() if LONG else ("rapo.learning_rate=1e-4",)),
    "rollout.workers=2",
    "rollout.heartbeat_s=1",
    "rollout.hang_timeout_s=15",
    "learner.cpus=0.5",
)
