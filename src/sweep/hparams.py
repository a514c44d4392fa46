"""TensorBoard's HPARAMS table of a study: its columns, and the row of a trial that has ended.

TensorBoard keeps the *first* row it reads of a run, so write one only when the trial has ended. It
knows no status "pruned": one more hyperparameter, `status`, says how a trial ended.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from google.protobuf.struct_pb2 import Value as ProtoValue
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from sweep.messages import Value
from sweep.parameters import short_name
from sweep.schema import METRICS
from sweep.space import Dimension

Outcome: TypeAlias = Literal["complete", "pruned", "failed", "confirmed"]
_TYPES = {
    bool: api_pb2.DATA_TYPE_BOOL,
    float: api_pb2.DATA_TYPE_FLOAT64,
    str: api_pb2.DATA_TYPE_STRING,
}


def columns(search: Mapping[str, Dimension], metric: str) -> Summary:
    """The table's columns: what is searched, `status`, and the metrics, the study's own first."""
    names = _names(search)
    # Five hyperparameters are shown at first, those said to differ before the others; `status` must
    # be among them.
    status = api_pb2.HParamInfo(name="status", type=api_pb2.DATA_TYPE_STRING, differs=True)
    status.domain_discrete.extend(get_args(Outcome))
    experiment = api_pb2.Experiment(
        hparam_infos=[*(_column(names[key], search[key]) for key in search), status],
        metric_infos=[_metric(name) for name in dict.fromkeys((metric, *METRICS))],
    )
    data = plugin_data_pb2.HParamsPluginData(experiment=experiment)
    return Summary(value=[_entry(metadata.EXPERIMENT_TAG, data)])


def row(
    search: Mapping[str, Dimension],
    group: str,
    params: Mapping[str, Value],
    status: Outcome,
    started_s: float,
    finished_s: float,
    metrics: Mapping[str, float],
) -> Summary:
    """A trial's row; rows of one `group` are shown as one, averaged. Times are Unix time."""
    names = _names(search)
    cells = {names.get(k, k): _cell(v, search.get(k)) for k, v in params.items()}
    start = plugin_data_pb2.SessionStartInfo(
        hparams=cells | {"status": ProtoValue(string_value=status)},
        group_name=group,
        start_time_secs=started_s,
    )
    end = plugin_data_pb2.SessionEndInfo(
        status=api_pb2.STATUS_FAILURE if status == "failed" else api_pb2.STATUS_SUCCESS,
        end_time_secs=finished_s,
    )
    started = plugin_data_pb2.HParamsPluginData(session_start_info=start)
    ended = plugin_data_pb2.HParamsPluginData(session_end_info=end)
    return Summary(
        value=[
            _entry(metadata.SESSION_START_INFO_TAG, started),
            _entry(metadata.SESSION_END_INFO_TAG, ended),
            *(
                Summary.Value(tag=f"final/{m}", simple_value=_drawable(v))
                for m, v in metrics.items()
            ),
        ]
    )


def _names(search: Mapping[str, Dimension]) -> dict[str, str]:
    """What each dotted key is called; `status` is a column already."""
    return {key: short_name(key, [*search, "status"]) for key in search}


def _column(name: str, dimension: Dimension) -> api_pb2.HParamInfo:
    kind = _kind(dimension)
    info = api_pb2.HParamInfo(name=name, type=_TYPES[kind])
    if dimension.low is None or dimension.high is None:
        info.domain_discrete.extend([_text(c) if kind is str else c for c in dimension.choices])
    else:
        info.domain_interval.min_value = dimension.low
        info.domain_interval.max_value = dimension.high
    return info


def _metric(name: str) -> api_pb2.MetricInfo:
    seen = api_pb2.DATASET_TRAINING if name.startswith("train_") else api_pb2.DATASET_VALIDATION
    tag = api_pb2.MetricName(tag=f"final/{name}")
    return api_pb2.MetricInfo(name=tag, display_name=name, dataset_type=seen)


def _kind(dimension: Dimension) -> type[float] | type[bool] | type[str]:
    kinds = {type(choice) for choice in dimension.choices}
    if kinds == {bool}:
        return bool
    return float if kinds <= {int, float} else str  # a column has one type: a mixture is words


def _cell(value: Value, dimension: Dimension | None) -> ProtoValue:
    if isinstance(value, str) or value is None or (dimension and _kind(dimension) is str):
        return ProtoValue(string_value=_text(value))
    if isinstance(value, bool):
        return ProtoValue(bool_value=value)
    return ProtoValue(number_value=value)


def _drawable(value: float) -> float:
    """One infinite value would flatten its axis in the table's plots; NaN is left out of them."""
    return value if math.isfinite(value) else math.nan


def _text(value: Value) -> str:
    """The value as YAML writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _entry(tag: str, data: plugin_data_pb2.HParamsPluginData) -> Summary.Value:
    about = metadata.create_summary_metadata(data)
    return Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)
