"""Decoder: decodes untrusted images in a process of its own, which can be stopped at any time.

- An image that takes too much CPU time or memory, or crashes its decoder, costs one call. The next
  image gets a new process.
- The pixels are those of `rapo.images.decode.decode_image`, which runs in that process.

`rapo.images.decoder_process` is the other end.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rapo.config import ImageConfig
from rapo.errors import ImageError, RoleError
from rapo.images.decoder_process import COMMAND, FORK, IDLE, LENGTH, REAP, REPLY, REQUEST, fill, receive
from rapo.system_folder import python_path

_HOST_LIMIT_S = 60.0
# Of the environment, what Python and its libraries may need to start; no token or secret.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class DecodeStopped(Exception):
    """The image's caller is gone, and its decoder was stopped."""


class DecodeTimeout(ImageError):
    """The image's decoder did not say anything for as long as it may be silent."""


class DecodeJob:
    """One image to decode, so that exactly this one can be stopped."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stopped = False


@dataclass(frozen=True, slots=True)
class DecoderLimits:
    """What a decoder may take for an image: CPU seconds, bytes of memory, seconds without a word
    from it. It is replaced after `images` images; `nice` is its niceness, or `IDLE`."""

    cpu_s: int
    memory: int
    wait_s: float
    images: int
    nice: int = 0


class DecoderHost:
    """The process that forks decoders. Thread-safe; a new one is started if it dies."""

    def __init__(self, limits: ImageConfig) -> None:
        self._limits = limits.model_dump_json()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        with self._lock:
            self._start()

    def fork(self, limits: DecoderLimits) -> tuple[int, socket.socket]:
        """A new decoder: its process and the socket to it. Raises `RoleError` if there is none to
        be had."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            for _ in range(2):
                try:
                    return self._ask(FORK, limits.images, limits.nice, theirs), ours
                except OSError:
                    self._start()
        ours.close()
        raise RoleError("the process that starts image decoders does not answer")

    def reap(self, process: int) -> int | None:
        """End a decoder. Its wait status, None if it is not known."""
        with self._lock, suppress(OSError):
            return self._ask(REAP, process, 0)
        return None

    def close(self) -> None:
        """End the process, and with it all decoders."""
        with self._lock:
            self._stop()

    def _ask(self, what: bytes, value: int, nice: int, given: socket.socket | None = None) -> int:
        if self._control is None:
            raise BrokenPipeError
        fds = [] if given is None else [given.fileno()]
        socket.send_fds(self._control, [COMMAND.pack(what, value, nice)], fds)
        if len(answer := self._control.recv(COMMAND.size)) < COMMAND.size:
            raise BrokenPipeError
        return int(COMMAND.unpack(answer)[1])

    def _start(self) -> None:
        self._stop()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_HOST_LIMIT_S)
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "rapo.images.decoder_process", str(theirs.fileno()), self._limits],
                env={**kept, **_ONE_THREAD, "PYTHONPATH": python_path(os.environ)},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # the libraries' complaints, which quote the file
            )

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(_HOST_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_HOST_LIMIT_S)
            self._process = None


class Decoder:
    """One decoder, and its successors. `decode` belongs to one thread, `stop` may come from any."""

    def __init__(self, host: DecoderHost, limits: DecoderLimits) -> None:
        self._host = host
        self._limits = limits
        self._lock = threading.Lock()
        self._job: DecodeJob | None = None
        self._process: _Process | None = None
        self._start()

    def decode(self, job: DecodeJob) -> NDArray[np.uint8]:
        """The pixels `(height, width, 3)` of the image as `decode_image` gives it.

        Raises `ImageError`, also for an image that is beyond the limits or that ended its decoder;
        `DecodeStopped`; and `RoleError` if the decoder was lost for another reason.
        """
        process = self._process or self._start()
        with self._lock:
            if job.stopped:
                raise DecodeStopped
            self._job = job
        try:
            pixels = process.decode(job.data, self._limits)
        except TimeoutError as error:
            self._discard()
            raise DecodeTimeout(
                f"the image was not decoded within {self._limits.wait_s:g} s", reason="too_complex"
            ) from error
        except (EOFError, ConnectionError) as error:
            status = self._discard()
            if job.stopped:
                raise DecodeStopped from error
            raise _loss(status, self._limits) from error
        except ImageError:
            raise
        except BaseException:  # the process has more to say, and the next image's caller would get it
            self._discard()
            raise
        finally:
            with self._lock:
                self._job = None
            if process.left == 0:
                self._discard()
        if job.stopped:  # after its last byte had come; its process may be killed
            self._discard()
            raise DecodeStopped
        return pixels

    def stop(self, job: DecodeJob) -> None:
        """Stop decoding this image, now or before it begins. Returns at once."""
        with self._lock:
            job.stopped = True
            if self._job is job and self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process, whatever it does."""
        with self._lock:
            if self._job is not None and self._process is not None:
                self._process.kill()  # the thread that waits for it closes its sockets
                return
        self._discard()

    def _start(self) -> _Process:
        self._process = _Process(*self._host.fork(self._limits), self._limits.images)
        self._process.connection.settimeout(self._limits.wait_s)
        return self._process

    def _discard(self) -> int | None:
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return None
        process.close()
        return self._host.reap(process.id)


class PatientDecoder:
    """A decoder that leaves the processors to others for as long as it can.

    An image is decoded in the time that nobody wants. Where there is none, it is begun anew after
    `patience_s` seconds at the niceness of `limits`, so that it ends on a busy machine as well.
    """

    def __init__(self, host: DecoderHost, limits: DecoderLimits, patience_s: float) -> None:
        waits = min(patience_s, limits.wait_s)
        self._idle = Decoder(host, replace(limits, nice=IDLE, wait_s=waits))
        self._pressing = Decoder(host, limits)

    def decode(self, job: DecodeJob) -> NDArray[np.uint8]:
        """See `Decoder.decode`."""
        with suppress(DecodeTimeout):
            return self._idle.decode(job)
        return self._pressing.decode(job)

    def stop(self, job: DecodeJob) -> None:
        """See `Decoder.stop`."""
        self._idle.stop(job)
        self._pressing.stop(job)

    def close(self) -> None:
        """End both processes."""
        self._idle.close()
        self._pressing.close()


class _Process:
    def __init__(self, process: int, connection: socket.socket, images: int) -> None:
        self.id = process
        self.connection = connection
        self.left = images
        # Unlike the number, this never means another process.
        self._handle = os.pidfd_open(process)

    def decode(self, data: bytes, limits: DecoderLimits) -> NDArray[np.uint8]:
        self.left -= 1
        self.connection.sendall(REQUEST.pack(len(data), limits.cpu_s, limits.memory + 2 * len(data)))
        self.connection.sendall(data)
        width, height = REPLY.unpack(receive(self.connection, REPLY.size))
        if not width:
            reason, words = self._text(), self._text()
            raise ImageError(words, reason=reason)
        pixels = np.empty((height, width, 3), np.uint8)
        fill(self.connection, pixels.data.cast("B"))
        return pixels

    def _text(self) -> str:
        return receive(self.connection, LENGTH.unpack(receive(self.connection, LENGTH.size))[0]).decode()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def close(self) -> None:
        self.connection.close()
        os.close(self._handle)


def _loss(status: int | None, limits: DecoderLimits) -> Exception:
    """Why a decoder ended by itself."""
    number = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None
    if number == signal.SIGXCPU:
        return ImageError(f"the image takes more than {limits.cpu_s} s of CPU time to decode", reason="too_complex")
    if status is None or number == signal.SIGKILL:  # the system needed memory, or a person did it
        return RoleError("the image's decoder was lost")
    return ImageError("the image ended its decoder", reason="too_complex")
