"""Wire names: what the clients and the service must spell alike.

- The service's name, its package and the numbers of the readouts come from the generated code.
"""

from __future__ import annotations

from rapo.answers.readout_names import READOUTS, ReadoutName
from rapo.v1 import scorer_pb2

#: Full name of the gRPC service.
SERVICE: str = scorer_pb2.DESCRIPTOR.services_by_name["AestheticScorer"].full_name

#: Domain of google.rpc.ErrorInfo.
DOMAIN: str = scorer_pb2.DESCRIPTOR.package

#: Trailing metadata key of the one-word reason of a status.
REASON_KEY = "rapo-reason"

#: Trailing metadata key of google.rpc.Status, which gRPC prescribes.
DETAILS_KEY = "grpc-status-details-bin"

#: The reason of a status for a model version that is not served.
UNKNOWN_VERSION = "unknown_version"

#: Readouts by name, and names by readout.
READOUT_NUMBERS: dict[str, scorer_pb2.Readout] = {
    name: scorer_pb2.Readout.Value(f"READOUT_{name.upper()}") for name in READOUTS
}
READOUT_NAMES: dict[int, ReadoutName] = {int(READOUT_NUMBERS[name]): name for name in READOUTS}
