"""Names on the wire: the service, and the metadata keys between the gateway, the deployment and the
callers."""

from __future__ import annotations

import re

SERVICE = "rapo.v1.AestheticScorer"

#: Metadata key of the secret, on the way from the gateway to the deployment.
SECRET_KEY = "x-rapo-gateway"

#: Trailing metadata key of the one-word reason, by which the gateway knows the deployment's own
#: words.
REASON_KEY = "rapo-reason"

#: Trailing metadata key of the request's field at fault, where the deployment answers
#: INVALID_ARGUMENT.
FIELD_KEY = "rapo-field"

#: Domain of google.rpc.ErrorInfo.
DOMAIN = "rapo.v1"

#: What a request id must look like: it is written to logs and metadata as it is.
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
