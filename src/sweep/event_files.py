"""Event files: what TensorBoard reads, appended in whole records and closed after each write.

One process never appends to another's file: a crash can leave a torn last record there, and readers
stop at it. Whoever goes on with a run starts a file of its own.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def new_event_file(run: Path) -> Path:
    """A path in the run's folder that sorts after its earlier files; nothing is created yet."""
    return run / f"events.out.tfevents.{time.time_ns()}"


def append_summary(file: Path, step: int, summary: Summary) -> None:
    """Append a summary to an event file, beginning the file if it is not there; raise OSError.

    A new file opens with "this run starts again at `step`", so that a TensorBoard which is already
    open drops what an earlier attempt wrote at this step or later.
    """
    now = time.time()
    events = [Event(wall_time=now, step=step, summary=summary)]
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        start = SessionLog(status=SessionLog.START)
        version = Event(wall_time=now, file_version="brain.Event:2")
        events = [version, Event(wall_time=now, step=step, session_log=start), *events]
    with file.open("ab") as end:
        end.write(_records(events))


def write_summary(file: Path, summary: Summary) -> None:
    """Write an event file that holds one summary, complete or not at all; raise OSError.

    It says nothing of starting again, which would drop what other files have at step 0.
    """
    now = time.time()
    version = Event(wall_time=now, file_version="brain.Event:2")
    aside = file.with_name("unfinished")  # without "tfevents" in its name TensorBoard overlooks it
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.write_bytes(_records([version, Event(wall_time=now, step=0, summary=summary)]))
    os.replace(aside, file)


def empty_event_files(run: Path) -> None:
    """Erase what earlier attempts wrote into a run's own folder; raise OSError.

    The files stay, empty: a TensorBoard that is open may never read past one that is gone.
    """
    for file in run.glob("*tfevents*"):
        os.truncate(file, 0)


def scalars(values: Mapping[str, float]) -> Summary:
    """A summary of one number a tag; TensorBoard keeps them as float32."""
    return Summary(value=[Summary.Value(tag=tag, simple_value=v) for tag, v in values.items()])


def _records(events: list[Event]) -> bytes:
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()
