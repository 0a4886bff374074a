"""What arranges actors and services: commands, pipeline, controller, fleet, weights,
checkpoints."""
