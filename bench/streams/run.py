"""Run all measurements."""

from __future__ import annotations

from collections.abc import Callable

from bench.machine import read_machine
from bench.stack import Stack
from bench.streams.delay import measure_delay
from bench.streams.memory import measure_memory
from bench.streams.peer import measure_polling
from bench.streams.plan import Plan
from bench.streams.report import Report
from bench.streams.throughput import measure_throughput


async def run(plan: Plan, *, announce: Callable[[str], None]) -> Report:
    """Run all measurements of the plan.

    Args:
        plan: the settings of the benchmark.
        announce: receives a line before each step.
    """
    announce("starting PostgreSQL and Valkey")
    async with Stack.running() as stack:
        report = Report(plan=plan, machine=await read_machine(stack.settings))
        # The last count is measured again with idle streams, for comparison.
        loads = [(count, 0) for count in plan.streams]
        if plan.idle:
            loads.append((plan.streams[-1], plan.idle))
        for count, idle in loads:
            announce(
                f"latency with {count} streams" + (f" and {idle} idle streams" if idle else "")
            )
            report.delays.append(await measure_delay(stack, plan, count=count, idle=idle))
        if plan.pollers:
            for interval in plan.intervals:
                announce(f"polling by {plan.pollers} clients every {interval * 1000:.0f} ms")
                report.pollings.append(await measure_polling(stack, plan, interval=interval))
        if plan.idle:
            for kind, channels in plan.idle_loads:
                announce(f"memory of {plan.idle} idle {kind} streams, {channels} connections")
                report.memories.append(
                    await measure_memory(stack, plan, kind=kind, channels=channels)
                )
        if plan.burst:
            announce(f"throughput of one stream with {plan.burst} events")
            report.throughputs.append(await measure_throughput(stack, plan))
    return report
