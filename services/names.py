"""Service names: metadata keys between the gateway and the deployment, and the form of request
ids.

- What clients must spell alike as well is in `rapo.wire`.
"""

from __future__ import annotations

import re
import uuid

#: Metadata key of the secret, on the way from the gateway to the deployment.
SECRET_KEY = "x-rapo-gateway"

#: Metadata key of the caller's name, on the same way: callers take turns at the decoders.
CALLER_KEY = "x-rapo-caller"

#: Trailing metadata key of the request's field at fault, in an INVALID_ARGUMENT of the deployment.
FIELD_KEY = "rapo-field"

#: The form of a request id: logs and metadata hold it as it is.
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def request_id_or_new(request_id: str) -> str:
    """The caller's request id if it has the right form, else a new one."""
    return request_id if REQUEST_ID.fullmatch(request_id) else uuid.uuid4().hex
