"""The parts of waiting that need no running Ray."""

import time

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

from cluster.remote import waiting
from cluster.remote.waiting import run_limited, to_user_error
from rapo.errors import DataError, ResourceError, RoleError, WeightError


@pytest.fixture(autouse=True)
def logs(monkeypatch):
    monkeypatch.setattr(waiting, "log_folder", lambda: "/logs")


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("generate", "a traceback", cause)


def test_an_error_of_ours_comes_through():
    error = WeightError("checksum of layer 3")
    assert to_user_error(task_error(error), role="rollout worker 1 on n2", timeout_s=5) is error


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (task_error(ValueError("bad shape")), RoleError, ("learner rank 0", "ValueError", "bad shape", "/logs")),
        (task_error(OSError(28, "No space left on device")), ResourceError, ("learner rank 0", "disk is full")),
        (GetTimeoutError("late"), RoleError, ("learner rank 0", "did not answer within 5 s", "/logs")),
        (ActorDiedError(), RoleError, ("learner rank 0", "died", "/logs")),
    ],
)
def test_a_failed_wait_names_role_cause_and_logs(error, kind, words):
    told = to_user_error(error, role="learner rank 0", timeout_s=5)
    assert type(told) is kind
    assert all(word in str(told) for word in words)


def test_limited_work_reports_progress_and_ends():
    done: list[int] = []
    looks: list[int] = []

    def work() -> None:
        time.sleep(0.2)
        done.append(1)

    run_limited(work, role="w", timeout_s=10, meanwhile=lambda: looks.append(len(done)))
    assert done == [1]
    assert looks[-1] == 1


def test_limited_work_that_does_not_end_is_given_up():
    began = time.monotonic()
    with pytest.raises(RoleError, match=r"cold start did not end within 0 s"):
        run_limited(lambda: time.sleep(60), role="cold start", timeout_s=0.1, meanwhile=lambda: None)
    assert time.monotonic() - began < 30


def test_our_own_error_is_found_inside_what_a_library_wraps_it_in():
    inner = DataError("row 7")

    class TrainingFailed(Exception):
        worker_failures = {0: task_error(inner)}  # noqa: RUF012

    def work():
        raise TrainingFailed("training failed")

    with pytest.raises(DataError, match="row 7"):
        run_limited(work, role="cold start", timeout_s=5, meanwhile=lambda: None)


def test_a_strangers_error_is_quoted_with_the_role():
    def work():
        raise RuntimeError("first line\nsecond line")

    with pytest.raises(RoleError, match=r"cold start failed: .*second line"):
        run_limited(work, role="cold start", timeout_s=5, meanwhile=lambda: None)
