"""Calls, with a context that notices what gRPC would refuse."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from services.gateway import rpc as module
from services.gateway.metrics import Metrics
from services.gateway.rpc import Call, Calls
from services.statuses import Refusal, Refused

VIOLATION = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "no", "repeated_id", "request_id")


class Context:
    """One message takes `seconds`, and may not meet another one. `overtaken` is whether a status
    was sent while one was on its way."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.writing = False
        self.aborted: grpc.StatusCode | None = None
        self.overtaken = False
        self.begun = 0

    def time_remaining(self) -> None:
        return None

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    async def send_initial_metadata(self, metadata: tuple[()]) -> None:
        self.begun += 1

    async def write(self, message: bytes) -> None:
        assert not self.writing, "gRPC takes one message at a time"
        assert self.begun == 1, "gRPC would send the headers with the message, and again with a status"
        self.writing = True
        await asyncio.sleep(self.seconds)
        self.writing = False

    async def abort(self, code: grpc.StatusCode, details: str, trailing: object) -> None:
        self.aborted, self.overtaken = code, self.writing


async def violating(call: Call, _: object) -> None:
    """A body that gives up on a message in flight and refuses the call."""
    writing = asyncio.create_task(call.write(b"result", limit_s=10))
    await asyncio.sleep(0.01)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    raise Refused(VIOLATION)


async def handled(context: Context) -> None:
    await Calls(Metrics(), 10).handler("ScoreStream", violating, lambda handle: handle)(None, context)


def test_a_status_waits_for_the_message_on_its_way() -> None:
    context = Context(0.1)
    asyncio.run(handled(context))
    assert (context.aborted, context.overtaken) == (grpc.StatusCode.INVALID_ARGUMENT, False)


def test_a_caller_that_takes_nothing_gets_a_status_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SETTLE_S", 0.05)
    context = Context(30)
    asyncio.run(handled(context))
    assert (context.aborted, context.overtaken) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_after_a_message_that_was_given_up_on_no_other_is_begun() -> None:
    """Two tasks write. The one that waits for its turn gets it a moment before it is cancelled."""

    async def main() -> list[object]:
        call = Call("ScoreStream", Context(30), "web", 0.0)
        return await asyncio.gather(*(call.write(b"x", limit_s=0.02) for _ in range(3)), return_exceptions=True)

    assert [type(result) for result in asyncio.run(main())] == [TimeoutError] * 3


def test_a_message_has_a_time_limit() -> None:
    async def slow() -> None:
        await Call("Explain", Context(30), "web", 0.0).write(b"x", limit_s=0.02)

    with pytest.raises(TimeoutError):
        asyncio.run(slow())


@pytest.mark.parametrize("together", range(6))
def test_a_cancellation_that_meets_the_end_of_a_message_counts(together: int) -> None:
    """`asyncio.wait_for` of Python 3.11 would return the result and forget it."""

    async def cancelled() -> bool:
        context = Context(0.0)
        task = asyncio.create_task(Call("Explain", context, "web", 0.0).write(b"x", limit_s=10))
        for _ in range(together):
            await asyncio.sleep(0)
        if task.done():
            return True
        task.cancel()
        return (await asyncio.gather(task, return_exceptions=True))[0] is not None

    assert asyncio.run(cancelled())


def test_an_unforeseen_error_is_internal_and_reveals_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(call: Call, _: object) -> None:
        raise LookupError("/srv/secret")

    context = Context(0.0)
    asyncio.run(Calls(Metrics(), 10).handler("Score", broken, lambda handle: handle)(None, context))
    assert context.aborted == grpc.StatusCode.INTERNAL
    assert "/srv/secret" in caplog.text
