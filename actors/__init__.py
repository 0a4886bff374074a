"""Ray actors, one role a file: placement, lifecycle and calls. The mathematics is in `rapo`."""
