"""Inline: the worker runs in this process; for tests, debugging and the smallest studies."""

from __future__ import annotations

from collections.abc import Sequence

from sweep.conductor import Conductor
from sweep.config import Plan
from sweep.messages import Event, Order


def run_inline(conductor: Conductor, plan: Plan) -> None:
    from sweep.worker import work  # torch is loaded only where training happens

    def exchange(worker: str, events: Sequence[Event]) -> list[Order]:
        orders = conductor.exchange(worker, events)
        conductor.flush()
        return orders

    work("inline-0", exchange, plan.study.metric, plan.study.direction)
