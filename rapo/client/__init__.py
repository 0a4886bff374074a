"""Client: the gRPC clients of the scorer."""
