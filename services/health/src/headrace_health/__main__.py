"""`python -m headrace_health probe HOST:PORT`: checks a service, for example in a container."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace_health.http_probe import probe_http

_EXAMPLES = """\
examples:
  python -m headrace_health probe 127.0.0.1:50051
  python -m headrace_health probe 127.0.0.1:50051 --service queue/default --timeout 1
  python -m headrace_health probe http://127.0.0.1:8080
  python -m headrace_health probe 127.0.0.1:50051 --tls-ca ca.pem --tls-name gateway.example.com

The command reads no environment variables."""

# The exit codes. Only the status SERVING is a success.
_OK, _FAILED = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTls:
    """The TLS options of a probe.

    Attributes:
        ca: the PEM file with the certificate authority of the server.
        cert: the PEM file of a client certificate; None for none.
        key: the PEM file of its key.
        name: the name in the server's certificate; empty for the host of the address.
    """

    ca: Path
    cert: Path | None = None
    key: Path | None = None
    name: str = ""


def probe(address: str, *, service: str, timeout: float, tls: ProbeTls | None = None) -> str:
    """Return the name of the service's status, or the name of the status code if the call failed.

    Args:
        address: `host:port`.
        service: the gRPC service; "" is the whole server.
        timeout: the deadline of the call, in seconds.
        tls: the certificates; None for no TLS.

    Raises:
        OSError: a certificate cannot be read.
    """
    with _channel(address, tls) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            response = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
        except grpc.RpcError as error:
            return error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


def _channel(address: str, tls: ProbeTls | None) -> grpc.Channel:
    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    if tls.name:
        options.append(("grpc.ssl_target_name_override", tls.name))
    credentials = grpc.ssl_channel_credentials(
        tls.ca.read_bytes(),
        None if tls.key is None else tls.key.read_bytes(),
        None if tls.cert is None else tls.cert.read_bytes(),
    )
    return grpc.secure_channel(address, credentials, options=options)


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
    command.add_argument(
        "address", metavar="ADDRESS", help="HOST:PORT for gRPC, http(s)://HOST:PORT for HTTP"
    )
    command.add_argument("--service", default="", metavar="NAME", help="default: the whole server")
    command.add_argument("--timeout", type=float, default=3.0, metavar="S", help="seconds")
    command.add_argument("--tls-ca", type=Path, metavar="FILE", help="CA of the server; uses TLS")
    command.add_argument("--tls-cert", type=Path, metavar="FILE", help="client certificate")
    command.add_argument("--tls-key", type=Path, metavar="FILE", help="key of that certificate")
    command.add_argument(
        "--tls-name", default="", metavar="NAME", help="name in the certificate; default: HOST"
    )
    options = parser.parse_args(arguments)
    if options.tls_ca is None and (options.tls_cert or options.tls_key or options.tls_name):
        parser.error("the other --tls options need --tls-ca")
    if (options.tls_cert is None) != (options.tls_key is None):
        parser.error("--tls-cert and --tls-key belong together")
    tls = options.tls_ca and ProbeTls(
        ca=options.tls_ca, cert=options.tls_cert, key=options.tls_key, name=options.tls_name
    )
    try:
        if options.address.startswith(("http://", "https://")):
            return _probe_http(options, tls)
        status = probe(options.address, service=options.service, timeout=options.timeout, tls=tls)
    except OSError as error:
        parser.error(str(error))
    sys.stdout.write(f"{status}\n")
    return _OK if status == "SERVING" else _FAILED


def _probe_http(options: argparse.Namespace, tls: ProbeTls | None) -> int:
    healthy = probe_http(
        options.address,
        timeout=options.timeout,
        ca=None if tls is None else tls.ca,
        name="" if tls is None else tls.name,
    )
    sys.stdout.write("healthy\n" if healthy else "unhealthy\n")
    return _OK if healthy else _FAILED


if __name__ == "__main__":
    sys.exit(main())
