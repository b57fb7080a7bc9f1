"""`python -m headrace_health probe HOST:PORT`: checks a service, for example in a container."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_EXAMPLES = """\
examples:
  python -m headrace_health probe 127.0.0.1:50051
  python -m headrace_health probe 127.0.0.1:50051 --service queue/default --timeout 1

The command reads no environment variables."""

# The exit codes. Only the status SERVING is a success.
_OK, _FAILED = 0, 1


def probe(address: str, *, service: str, timeout: float) -> str:
    """Return the name of the service's status, or the name of the status code if the call failed.

    Args:
        address: `host:port`.
        service: the gRPC service; "" is the whole server.
        timeout: the deadline of the call, in seconds.
    """
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            response = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
        except grpc.RpcError as error:
            return error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 if the service is SERVING, otherwise 1."""
    parser = argparse.ArgumentParser(
        prog="python -m headrace_health",
        description="Check the health of a service. Exit code 0: SERVING; 1: any other status.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "probe",
        help="check whether a service is SERVING",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("address", metavar="HOST:PORT")
    command.add_argument("--service", default="", metavar="NAME", help="default: the whole server")
    command.add_argument("--timeout", type=float, default=3.0, metavar="S", help="seconds")
    options = parser.parse_args(arguments)
    status = probe(options.address, service=options.service, timeout=options.timeout)
    sys.stdout.write(f"{status}\n")
    return _OK if status == "SERVING" else _FAILED


if __name__ == "__main__":
    sys.exit(main())
