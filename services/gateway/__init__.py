"""Gateway: the gRPC server that callers reach."""
