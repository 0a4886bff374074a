"""torch: the policy model, its processor, losses, group packing and log-probs."""
