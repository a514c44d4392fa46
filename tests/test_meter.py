"""What a worker says it uses, held against what it really does."""

from __future__ import annotations

import subprocess
import sys
import time

from sweep.usage import spell_vitals, together
from sweep.worker.meter import Meter


def test_memory_and_processor_time_are_those_of_all_its_processes() -> None:
    meter = Meter("CPU")
    before = meter.read()
    until_s = time.process_time() + 0.3
    while time.process_time() < until_s:
        pass
    busy = meter.read()
    assert (busy.where, busy.gpu, busy.gpu_bytes) == ("CPU", None, None)
    assert busy.cpu > 0
    code = "block = bytearray(300_000_000); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it has its memory now
        more = meter.read()
        child.communicate(b"\n")
    assert more.memory_bytes - before.memory_bytes > 250_000_000
    assert meter.read().memory_bytes < more.memory_bytes
    assert spell_vitals(more)[0].endswith(" GB")
    assert together([more, more])["workers/memory_gb"] == 2 * more.memory_bytes / 1e9
