"""Export to ONNX: what the folded network computes, by ONNX's own reference implementation."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from dropnorm import Classifier, Synthetic

pytest.importorskip("onnx", reason="pip install -e '.[onnx]'")
pytest.importorskip("onnxscript", reason="pip install -e '.[onnx]'")

# What exporting imports is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize(
    "architecture",
    [
        {"network": "mlp", "hidden": [32, 32]},
        {"network": "cnn", "channels": [8, 8], "hidden": [16]},
        {"network": "mlp", "hidden": [32], "order": ["act", "norm", "drop"]},
    ],
    ids=["mlp", "cnn", "act_norm"],
)
def test_the_exported_network_gives_the_same_logits(
    architecture: dict[str, object], tmp_path: Path
) -> None:
    """In float32 sums of some hundred products of about 1 in another order: 1e-5."""
    from onnx.reference import ReferenceEvaluator

    data = Synthetic()
    model = Classifier(
        **architecture, input_shape=data.input_shape, classes=data.classes, dropout=0.3
    )  # type: ignore[arg-type]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0, **quiet
    )
    trainer.fit(model, data)
    network = model.eval().fold()
    images = data.part("val").between(0, 2)[0]
    file = tmp_path / "model.onnx"
    torch.onnx.export(network, (images,), file, verbose=False)
    (logits,) = ReferenceEvaluator(str(file)).run(
        None, dict(zip(_inputs(file), [images.numpy()], strict=True))
    )
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(images).numpy(), rtol=1e-5, atol=1e-5)
    assert "torch" in sys.modules and logits.shape == (2, data.classes)


def _inputs(file: Path) -> list[str]:
    import onnx

    return [given.name for given in onnx.load(file).graph.input]
