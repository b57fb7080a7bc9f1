"""Fault scenarios on real processes, and the invariants that must hold in them.

`make faults` runs the scenarios; `docs/reliability.md` describes them and has the results.
"""

import os

# Set this variable before gRPC is imported. uvloop forks for each command, such as `headrace
# verify`. With gRPC's fork handlers, one in ten children died of SIGSEGV before it executed the
# command.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
