"""Kill a study with -9 at random moments, again and again; compare it with one that was left alone.

    python -m tests.kill_study --kills 100 --seed 0

The conductor, a worker, or all of them at once; the same command then goes on. What had ended must
stay as it was, nothing may run twice, and the end must be that of the study that ran in peace, in
one process.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sweep import load_study
from sweep.config import make_plan
from sweep.errors import StudyError
from sweep.results import TrialRow
from tests.studies import children, is_alive, run, wait_for

TYPED = ("+study=synthetic", "sampler=random", "pruner=none", "trainer.max_epochs=20")
PATIENT = ("study.retries=1000", "confirm.seeds=0")
LONGEST_S = 12.0  # from one kill to the next; a study has begun to train after some five seconds


@dataclass
class Killer:
    """One study below `folder`, and what was seen of its trials before each death."""

    folder: Path
    trials: int
    moments: random.Random
    kills: int = 0

    def run(self, kills: int) -> Mapping[int, TrialRow]:
        """The trials of the study, which is killed that often unless it ends before."""
        while True:
            process = self._start()
            while self.kills < kills and _is_running(process, self.moments.uniform(0, LONGEST_S)):
                before = self.ended()
                self._kill(process)
                _check_kept(before, self.ended())
            if process.wait() == 0:
                return self.ended()
            if process.returncode != -signal.SIGKILL:
                raise AssertionError((self.folder / "output").read_text())

    def ended(self) -> Mapping[int, TrialRow]:
        try:
            rows = load_study(self.folder / "sweeps" / "synthetic").trials
        except StudyError:  # not there yet
            return {}
        return {row.number: row for row in rows if row.ended}

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "output").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "sweep", *TYPED, *PATIENT, f"study.trials={self.trials}"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        workers = sorted(children(process.pid))
        victims = self.moments.choice([workers[:1], [process.pid], [process.pid, *workers]])
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kills += bool(victims)
        if process.pid in victims:  # nothing of it may write while the next one does
            process.wait()
            wait_for(lambda: not any(map(is_alive, workers)), within_s=30)


def _is_running(process: subprocess.Popen[bytes], after_s: float) -> bool:
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        return True
    return False


def _check_kept(before: Mapping[int, TrialRow], after: Mapping[int, TrialRow]) -> None:
    changed = [number for number, row in before.items() if after.get(number) != row]
    assert not changed, f"trials {changed} had ended, and are gone or changed"


def same(row: TrialRow) -> TrialRow:
    """All of a trial that does not depend on when and where it ran."""
    return replace(row, seconds=0.0, worker=None, started=None, finished=None)


def check(killed: Mapping[int, TrialRow], calm: Mapping[int, TrialRow], trials: int) -> None:
    assert sorted(killed) == sorted(calm) == list(range(trials))
    different = [number for number in calm if same(killed[number]) != same(calm[number])]
    assert not different, f"trials {different} ended otherwise than without kills"


def killed_studies(folder: Path, trials: int, kills: int, seed: int) -> Iterator[int]:
    """Kills studies until there were so many kills; yields how many each of them has survived."""
    moments = random.Random(seed)
    calm = left_alone(folder, trials)
    done = 0
    while done < kills:
        killer = Killer(folder / f"killed-{done}", trials, moments)
        killer.folder.mkdir()
        check(killer.run(kills - done), calm, trials)
        done += killer.kills
        yield killer.kills


def left_alone(folder: Path, trials: int) -> Mapping[int, TrialRow]:
    """The trials of a study that nobody kills, trained by this process."""
    there = [f"study.trials={trials}", f"study.folder={folder}", "executor=inline"]
    return {row.number: row for row in run(make_plan([*TYPED, *PATIENT, *there]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    typed = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # as in a worker: sums in several threads round differently
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        for kills in killed_studies(Path(folder), typed.trials, typed.kills, typed.seed):
            total += kills
            print(f"{kills} kills: {typed.trials} trials, each once, all as without", flush=True)
    print(f"{total} kills in all")


if __name__ == "__main__":
    main()
