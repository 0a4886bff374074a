"""How long tests wait for what the machine's speed decides."""

#: Seconds for something that another process does: the start of a run, a step, a replacement. Only
#: what hangs reaches it. A run that takes one minute here took four on a busy machine.
PATIENCE_S = 900.0
