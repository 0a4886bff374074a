"""Policy: the model in torch, its processor, losses, group packing, training and weights."""
