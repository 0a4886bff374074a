"""What is said of a process that could not say it itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

_PROGRAM = """
import os, signal, sys
from cluster.remote.exit_watchdog import exit_watchdog
with exit_watchdog("it is gone", sys.stderr):
    exec(sys.argv[1])
"""


def said(statement: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, statement], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("statement", ["pass", "sys.exit(2)", "raise SystemExit(0)"])
def test_nothing_is_said_of_who_ends_by_himself(statement):
    assert "it is gone" not in said(statement)[1]


def test_an_exception_speaks_for_itself():
    code, text = said("raise ValueError('why')")
    assert code == 1
    assert "ValueError: why" in text
    assert "it is gone" not in text


@pytest.mark.parametrize("statement", ["os._exit(1)", f"os.kill(os.getpid(), {int(signal.SIGKILL)})", "os.abort()"])
def test_who_is_ended_is_spoken_for(statement):
    code, text = said(statement)
    assert code != 0
    assert text.rstrip().endswith("it is gone")


def test_what_ends_the_group_does_not_end_the_word():
    program = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, "print('here', flush=True); import time; time.sleep(60)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "here\n"
    os.killpg(program.pid, signal.SIGKILL)
    assert "it is gone" in program.communicate(timeout=60)[1]
