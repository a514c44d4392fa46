"""Memory of one worker over 300 trials: it must not grow with them.

python -m tests.benchmarks.bench_memory
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from sweep.conductor import Conductor
from sweep.config import make_plan
from sweep.executors import EXECUTORS
from sweep.messages import Ended, Event, Order
from sweep.record import Record

TRIALS, EVERY = 300, 50


def resident_mib() -> float:
    """What this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    print(f"{TRIALS} trials of the synthetic study, one inline worker; resident memory in MiB")
    with tempfile.TemporaryDirectory() as folder:
        words = ["+study=synthetic", f"study.trials={TRIALS}", f"study.folder={folder}"]
        plan = make_plan([*words, "executor=inline", "confirm.seeds=0", "sampler=random"])
        record = Record(plan)
        seen: list[float] = []

        def watch(worker: str, message: Event | Order) -> None:
            if not isinstance(message, Ended):
                return
            seen.append(resident_mib())
            if len(seen) % EVERY == 0:
                growth = 100 * (seen[-1] / seen[EVERY - 1] - 1)
                print(f"after {len(seen):>3}: {seen[-1]:7.1f}  {growth:+5.1f} %", flush=True)

        conductor = Conductor(plan, record, watch)
        EXECUTORS["inline"](conductor, plan)
        conductor.close()
        record.close()


if __name__ == "__main__":
    main()
