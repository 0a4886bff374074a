"""Remote calls: waits with a limit, faults, heartbeats, weight versions and the Ray session."""
