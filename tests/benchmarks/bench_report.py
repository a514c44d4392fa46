"""python -m tests.benchmarks.bench_report: seconds to build reports of studies.

The large one, of 500 trials that scored every momentum, is promised in under 20 seconds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from sweep.report import build_report
from tests.benchmarks.rounds import median_seconds
from tests.report_studies import confirmed

SIZES = (12, 100, 500)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        studies = {f"{n} trials": confirmed(Path(folder) / str(n), n) for n in SIZES}
        builds = {name: lambda s=s: build_report(s) for name, s in studies.items()}  # type: ignore[misc]
        for name, seconds in median_seconds(builds, rounds=3).items():
            print(f"{name:>10}  {seconds:5.1f} s")


if __name__ == "__main__":
    main()
