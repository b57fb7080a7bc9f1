"""The gRPC contract: generated from protos/headrace/v1 by `make gen`."""
