"""Algorithm: RAPO's rewards, batches and alerts, without any framework."""
