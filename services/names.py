"""Service names: metadata keys and the secret between the gateway and the deployment, the form of
request ids, and the size of a message.

- What clients must spell alike as well is in `rapo.wire`.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path

from rapo.config import ImageConfig
from rapo.errors import ConfigError

#: Metadata key of the secret, on the way from the gateway to the deployment.
SECRET_KEY = "x-rapo-gateway"

#: Metadata key of the caller's name, on the same way: callers take turns at the decoders.
CALLER_KEY = "x-rapo-caller"

#: Trailing metadata key of the request's field at fault, in an INVALID_ARGUMENT of the deployment.
FIELD_KEY = "rapo-field"

#: The form of a request id: logs and metadata hold it as it is.
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


_SECRET = re.compile(r"[\x21-\x7e]{32,512}")


def request_id_or_new(request_id: str) -> str:
    """The caller's request id if it has the right form, else a new one."""
    return request_id if REQUEST_ID.fullmatch(request_id) else uuid.uuid4().hex


def read_secret(path: Path) -> str:
    """The secret that gateways and replicas share, from a file that Kubernetes or another keeper
    mounts. Raises `ConfigError` where there is none, or one that could be guessed."""
    try:
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the secret file {path} cannot be read as ASCII text: {error}") from error
    if not _SECRET.fullmatch(secret):
        raise ConfigError(
            f"the secret file {path} needs one line of 32 to 512 printable characters without spaces; "
            "`openssl rand -base64 32` prints one"
        )
    return secret


def message_limit(limits: ImageConfig) -> int:
    """Bytes of the largest message that is accepted: an image somewhat over its limit gets an error
    that says so, rather than gRPC's."""
    return 2 * limits.max_bytes + 2**16
