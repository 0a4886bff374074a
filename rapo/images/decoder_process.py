"""DecoderProcess: the process in which untrusted images are decoded, and the one that forks it.

- The forking process imports all that decoding needs, once, so that a new decoder costs a few
  milliseconds. It decodes nothing itself.
- A decoder has limits on its memory and, for each image, on its CPU time, which the kernel holds.
  It can write no file, and its environment holds no secret.
- Both end when the process at the other end of their sockets does.

`rapo.images.decoder` is the other end.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress

from PIL import Image

from rapo.config import ImageConfig
from rapo.errors import ImageError
from rapo.images.decode import decode_image

#: As a niceness: only the time that no other process wants (SCHED_IDLE). Others get it at once,
#: where a niceness merely shares it out.
IDLE = 20

#: To the forking process: FORK with the number of images that the decoder is to take and its
#: niceness, or REAP with a decoder to end. Back: the decoder's process, or its wait status.
COMMAND = struct.Struct("<cqi")
FORK, REAP = b"f", b"r"
#: To a decoder: bytes of the image, CPU seconds, bytes of memory beyond those it has.
REQUEST = struct.Struct("<QQQ")
#: From a decoder: width and height, then the pixels, row by row; or zero twice, then a reason and
#: words, each after its length.
REPLY = struct.Struct("<II")
LENGTH = struct.Struct("<I")

_STRIP_ROWS = 256


def receive(connection: socket.socket, size: int) -> bytearray:
    """Exactly `size` bytes. Raises `EOFError` if the other end closes before."""
    data = bytearray(size)
    fill(connection, memoryview(data))
    return data


def fill(connection: socket.socket, view: memoryview) -> None:
    """Receive as many bytes as `view` holds. Raises `EOFError` if the other end closes before."""
    while view:
        if not (got := connection.recv_into(view)):
            raise EOFError
        view = view[got:]


def decode_all(connection: socket.socket, limits: ImageConfig, images: int) -> None:
    """Decode `images` images for the other end, one after the other."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for _ in range(images):
        size, cpu_s, memory = REQUEST.unpack(receive(connection, REQUEST.size))
        data = bytes(receive(connection, size))
        _limit(cpu_s, memory)
        try:
            image = decode_image(data, limits)
        except ImageError as error:
            _refuse(connection, error.reason, str(error))
            continue
        except MemoryError:
            _refuse(connection, "too_complex", "the image needs more memory than a decoder has")
            continue
        del data
        _send(connection, image)


def _limit(cpu_s: int, memory: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
    with open("/proc/self/statm", encoding="ascii") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + memory, resource.RLIM_INFINITY))


def _refuse(connection: socket.socket, reason: str, words: str) -> None:
    texts = (reason.encode(), words.encode())
    connection.sendall(REPLY.pack(0, 0) + b"".join(LENGTH.pack(len(text)) + text for text in texts))


def _send(connection: socket.socket, image: Image.Image) -> None:
    connection.sendall(REPLY.pack(*image.size))
    for top in range(0, image.height, _STRIP_ROWS):  # its bytes at once would take as much memory again
        connection.sendall(image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height))).tobytes())


def fork_all(control: socket.socket, limits: ImageConfig) -> None:
    """Fork decoders as the other end asks for them, until it closes; then end them all."""
    alive: set[int] = set()
    while True:
        command, fds, _, _ = socket.recv_fds(control, COMMAND.size, 1)
        if not command:
            break
        what, value, nice = COMMAND.unpack(command)
        if what == FORK:
            answer = os.fork()
            if answer == 0:
                control.close()
                _be_decoder(socket.socket(fileno=fds[0]), limits, value, nice)
            os.close(fds[0])
            alive.add(answer)
        else:
            answer = _end(value)
            alive.discard(value)
        control.sendall(COMMAND.pack(what, answer, 0))
    for pid in alive:
        _end(pid)


def _end(pid: int) -> int:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _be_decoder(connection: socket.socket, limits: ImageConfig, images: int, nice: int) -> None:
    """Never returns: a forked process must not go on with its parent's work."""
    code = 1
    try:
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        os.nice(nice)
        if nice >= IDLE:
            with suppress(OSError):  # a sandbox may refuse it; the highest niceness stays
                os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        decode_all(connection, limits, images)
        code = 0
    except (EOFError, ConnectionError):
        code = 0
    finally:
        os._exit(code)


def main() -> None:
    """Fork decoders for the process that started this one. Arguments: the control socket's file
    descriptor, and the limits as JSON."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the other end decides
    with socket.socket(fileno=int(sys.argv[1])) as control:
        fork_all(control, ImageConfig.model_validate_json(sys.argv[2]))


if __name__ == "__main__":
    main()
