"""Faults that Headrace survives: scenarios on real processes, and the invariants that must hold.

`make faults` runs them; `docs/reliability.md` tells what each one does and shows.
"""

import os

# gRPC reads it when it is imported. uvloop forks for each command, such as `headrace verify`, and
# with gRPC's handlers of a fork one child of ten ended with SIGSEGV before it became the command.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
