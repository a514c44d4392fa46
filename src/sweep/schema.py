"""What a configuration may say: the names, types and ranges of every section.

Importing this loads no torch, so a test holds it against the constructors' own signatures.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictBool
from pydantic.dataclasses import dataclass

from sweep.metric import Direction
from sweep.values import (
    DropPath,
    Flag,
    Groups,
    Momentum,
    Natural,
    Noise,
    Order,
    Part,
    Patterns,
    Positive,
    Rate,
    Residual,
    Several,
    Share,
    Text,
    Whole,
    Widths,
)

_CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_CLOSED)
class StudySettings:
    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
            description="letters, digits, '.', '_' or '-', 64 at most, the first no sign, "
            "in quotes if they are a number",
            examples=["mnist-2"],
        ),
    ]
    trials: Annotated[Whole, Field(examples=[20])]
    metric: Text
    direction: Direction
    seed: Natural
    timeout_s: Annotated[
        Positive | None, Field(description="a number above 0 or null", examples=[600])
    ]
    retries: Natural
    max_failures: Whole
    folder: Text
    trial_timeout_s: Annotated[
        Positive | None, Field(description="a number above 0 or null", examples=[600])
    ] = None


@dataclass(frozen=True, config=_CLOSED)
class _NetworkSettings:
    hidden: Widths
    dropout: Rate
    dropout_at: Literal["every_block", "last_block", "head", "input"]
    bn_momentum: Momentum
    label_smoothing: Rate
    norm: Literal["batch", "ghost", "layer", "group", "rms", "none"]
    ghost_batch: Annotated[Several, Field(examples=[32])]
    groups: Groups
    activation: Literal["relu", "gelu", "silu", "selu", "tanh", "sigmoid"]
    noise: Noise
    order: Order
    max_norm: Annotated[
        Positive | None, Field(description="a number above 0 or null", examples=[3.0])
    ]
    residual: Residual
    drop_path: DropPath


@dataclass(frozen=True, config=_CLOSED)
class Mlp(_NetworkSettings):
    network: Literal["mlp"]


@dataclass(frozen=True, config=_CLOSED)
class _Images:
    channels: Annotated[Widths, Field(min_length=1)]
    kernel: Annotated[Whole, Field(examples=[3])]


@dataclass(frozen=True, config=_CLOSED)
class Cnn(_NetworkSettings, _Images):  # fields of _Images come first, to hold `groups` against
    network: Literal["cnn"]


@dataclass(frozen=True, config=_CLOSED)
class Idx:
    path: Annotated[str | None, Field(description="a folder or null", examples=["data/mine"])]
    batch_size: Annotated[Several, Field(examples=[128])]
    eval_batch_size: Annotated[Whole, Field(examples=[2000])]
    train_size: Annotated[
        Whole | None, Field(description="a whole number from 1 up, or null", examples=[10000])
    ]
    download: Annotated[
        Literal["fashion_mnist"] | None,
        Field(description="fashion_mnist or null", examples=["fashion_mnist"]),
    ]


@dataclass(frozen=True, config=_CLOSED)
class Synthetic:
    batch_size: Annotated[Several, Field(examples=[128])]
    eval_batch_size: Annotated[Whole, Field(examples=[2000])]
    train_size: Whole = 1024
    val_size: Whole = 512
    test_size: Whole = 512
    classes: Several = 4
    data_seed: Natural = 0


@dataclass(frozen=True, config=_CLOSED)
class _OptimizerSettings:
    lr: Positive
    weight_decay: Annotated[
        float, Field(strict=True, ge=0, description="a number from 0 up", examples=[0.01])
    ]
    schedule: Literal["constant", "cosine", "one_cycle"]


@dataclass(frozen=True, config=_CLOSED)
class Adam(_OptimizerSettings):
    name: Literal["adam", "adamw"]
    betas: Annotated[
        list[Rate],
        Field(
            min_length=2,
            max_length=2,
            description="two numbers from 0 to below 1",
            examples=[[0.9, 0.999]],
        ),
    ]


@dataclass(frozen=True, config=_CLOSED)
class Sgd(_OptimizerSettings):
    name: Literal["sgd"]
    momentum: Rate
    nesterov: Flag


@dataclass(frozen=True, config=_CLOSED)
class TrainerSettings:
    max_epochs: Whole
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]
    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    gradient_clip_val: Annotated[
        Positive | None, Field(description="a number above 0 or null", examples=[1.0])
    ]
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"
    accumulate_grad_batches: Whole = 1
    limit_train_batches: Part = 1.0
    limit_val_batches: Part = 1.0
    deterministic: Annotated[
        StrictBool | Literal["warn"], Field(description="true, false or warn", examples=[True])
    ] = False
    devices: Whole = 1
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    sync_batchnorm: Flag = False


@dataclass(frozen=True, config=_CLOSED)
class SamplerSettings:
    name: Literal["tpe", "random", "qmc", "grid", "gp", "cmaes"]
    multivariate: Flag = True
    n_startup_trials: Whole = 8
    points: Several = 5


@dataclass(frozen=True, config=_CLOSED)
class PrunerSettings:
    name: Literal["asha", "hyperband", "median", "none"]
    first_rung: Share = 0.34
    reduction_factor: Several = 3
    startup_trials: Whole = 5
    control: Share = 0.2


@dataclass(frozen=True, config=_CLOSED)
class RetrofitSettings:
    dropout: Annotated[
        Rate | dict[str, Rate] | None,
        Field(description="a number from 0 to below 1, rates by pattern, or null", examples=[0.3]),
    ] = None
    bn_momentum: Momentum = None
    where: Patterns = None
    insert: Patterns = None


@dataclass(frozen=True, config=_CLOSED)
class ConfirmSettings:
    top: Natural = 3
    seeds: Natural = 5
    margin: Annotated[
        float, Field(strict=True, ge=0, description="a number from 0 up", examples=[0.0005])
    ] = 0.0005


@dataclass(frozen=True, config=_CLOSED)
class ExecutorSettings:
    name: Literal["inline", "local", "ray"]
    devices: Annotated[
        Literal["auto"] | Whole | Annotated[list[Natural], Field(min_length=1)],
        Field(description="auto, a whole number from 1 up, or a list of GPUs", examples=[2]),
    ] = "auto"
    workers_per_device: Whole = 1
    lanes: Annotated[
        Literal["auto"] | Whole, Field(description="auto or a whole number from 1 up", examples=[4])
    ] = "auto"
    silence_s: Annotated[
        Positive | None, Field(description="a number above 0 or null", examples=[3600])
    ] = 3600.0
    address: Annotated[
        Text | None,
        Field(description="auto, an address or null", examples=["auto"]),
    ] = None


# What decides which dataclass a section must fit: the value of one of its keys ("": nothing does).
FORMS: dict[str, tuple[str, dict[str, type]]] = {
    "study": ("", {"": StudySettings}),
    "model": ("network", {"mlp": Mlp, "cnn": Cnn}),
    "data": ("_target_", {"dropnorm.MNIST": Idx, "dropnorm.Synthetic": Synthetic}),
    "optimizer": ("name", {"adam": Adam, "adamw": Adam, "sgd": Sgd}),
    "trainer": ("", {"": TrainerSettings}),
    "retrofit": ("", {"": RetrofitSettings}),
    "sampler": ("", {"": SamplerSettings}),
    "pruner": ("", {"": PrunerSettings}),
    "executor": ("", {"": ExecutorSettings}),
    "confirm": ("", {"": ConfirmSettings}),
}
# Sections that name a class; other people's classes check their own arguments.
TARGETS = {
    "model": ("dropnorm.Classifier",),
    "data": ("dropnorm.MNIST", "dropnorm.Synthetic"),
}
# What dropnorm.Classifier logs, and which way is better.
METRICS: dict[str, Direction] = {
    "val_accuracy": "maximize",
    "val_nll": "minimize",
    "val_ece": "minimize",
    "train_loss": "minimize",
}
