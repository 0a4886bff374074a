"""How large the chaos is, and the settings of the run that it happens to."""

from __future__ import annotations

import os

FAULTS = int(os.environ.get("RAPO_CHAOS_FAULTS", "6"))
LONG = FAULTS > 12
STEPS = 4 * FAULTS
BATCH, NODE_CPUS = 8, 2
LIMIT_S = 420 if not LONG else 240 * FAULTS
#: Seconds after a fault in which the run has to make a step again.
STEP_LIMIT_S = 180

OVERRIDES = (
    f"rapo.steps={STEPS}",
    "rapo.max_staleness=1",
    "rapo.checkpoint_every=3",
    f"rapo.evaluate_every={STEPS}",
    "rapo.select=last",
    "rapo.learning_rate=1e-4",
    "rollout.workers=2",
    "rollout.heartbeat_s=1",
    "rollout.hang_timeout_s=15",
    "learner.cpus=0.5",
)
