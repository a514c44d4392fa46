"""TensorBoard's other pages of a study: charts of all trials (custom scalars), figures (images)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalars

from sweep.event_files import write_summary
from sweep.schema import METRICS


def charts(metric: str) -> Summary:
    """The layout of the custom scalars page: one chart a metric, and the best so far."""
    names = dict.fromkeys((metric, *METRICS))
    trials = [_chart(name, f"^{name}$") for name in names]
    study = [_chart(f"best {metric} so far", f"^best/{metric}$")]
    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(title="study", chart=study),
            layout_pb2.Category(title="trials, epoch by epoch", chart=trials),
        ]
    )
    value = Summary.Value(
        tag=custom_scalars.CONFIG_SUMMARY_TAG,
        metadata=custom_scalars.create_summary_metadata(),
        tensor=TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()]),
    )
    return Summary(value=[value])


def _chart(title: str, pattern: str) -> layout_pb2.Chart:
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[pattern]))


def show_figures(run: Path, figures: Iterable[Path]) -> None:
    """Puts PNG files on the images page, in place of those that were there; raise OSError."""
    values = []
    for path in figures:
        png = path.read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        values.append(Summary.Value(tag=f"report/{path.stem}", image=image))
    if values:
        write_summary(run / "events.out.tfevents.2.figures", Summary(value=values))
