"""Plans: memory, traffic and time of a run on GPUs, from the configuration and a model's config."""
