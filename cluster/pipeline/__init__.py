"""Pipeline: runs the stages of a run in order."""
