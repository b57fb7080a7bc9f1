"""The servicers of the API, and the codec between protobuf and the domain."""
