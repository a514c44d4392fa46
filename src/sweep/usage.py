"""What workers use, in words and figures: from the `Vitals` that they send."""

from __future__ import annotations

from collections.abc import Collection

from sweep.messages import Vitals

_GB = 1e9


def together(vitals: Collection[Vitals]) -> dict[str, float]:
    """All workers' use as TensorBoard's scalars."""
    gpus = [v.gpu for v in vitals if v.gpu is not None]
    values = {
        "workers/number": float(len(vitals)),
        "workers/memory_gb": sum(v.memory_bytes for v in vitals) / _GB,
        "workers/cpu_cores": sum(v.cpu for v in vitals),
    }
    if gpus:
        values["workers/gpu_percent"] = 100 * sum(gpus) / len(gpus)
    return values


def spell_vitals(vitals: Vitals) -> tuple[str, str]:
    """Memory and utilisation of one worker, for reading: `1.2 GB`, `97 % CPU`."""
    memory, used = f"{vitals.memory_bytes / _GB:.1f} GB", f"{100 * vitals.cpu:.0f} % CPU"
    if vitals.gpu_bytes is not None:
        memory += f" + {vitals.gpu_bytes / _GB:.1f} GB GPU"
    if vitals.gpu is not None:
        used += f", {100 * vitals.gpu:.0f} % GPU"
    return memory, used
