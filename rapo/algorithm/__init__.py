"""Algorithm: RAPO without any framework: rewards, batches, alerts."""
