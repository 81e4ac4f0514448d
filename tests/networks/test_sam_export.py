"""SAM leaves Python in four ways, and says the same after each."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from msdino_monai.networks.lora import merged
from msdino_monai.networks.sam import SamSegmenter
from msdino_monai.networks.sam.size import SIZES, DecoderSize, SamSize, TinyViTSize


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A LiteMedSAM with one block in each stage: exporters take their time with each block."""
    encoder = TinyViTSize(widths=(8, 16, 16, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))
    monkeypatch.setitem(SIZES, "shallow", SamSize(encoder, DecoderSize(32, 2, 1, 64, prompt_channels=4)))


def adapted(size: str, checkpoint_blocks: bool = False) -> SamSegmenter:
    network = SamSegmenter(3, 24, size=size, rank=2, checkpoint_blocks=checkpoint_blocks).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.endswith("lora_b"):
            parameter.normal_(std=0.1)
    return network


def stacks() -> list[torch.Tensor]:
    """What it is exported with, and stacks of other numbers."""
    return [torch.rand(2, 1, 24, 24, 3), torch.rand(1, 1, 24, 24, 5), torch.rand(3, 1, 24, 24, 1)]


DYNAMIC = {"image": {0: torch.export.Dim("stacks", min=1, max=64), 4: torch.export.Dim("slices", min=1, max=64)}}


@pytest.mark.parametrize("size", ["tiny", "shallow"])
@pytest.mark.parametrize("checkpoint_blocks", [False, True])
def test_scripted_network_gives_the_same(size: str, checkpoint_blocks: bool) -> None:
    network = adapted(size, checkpoint_blocks)
    scripted = torch.jit.script(network)
    for image in stacks():
        torch.testing.assert_close(scripted(image), network(image), atol=1e-5, rtol=1e-5)


def test_scripted_network_is_saved_and_loaded(tmp_path: Path) -> None:
    network = merged(adapted("tiny"))
    torch.jit.script(network).save(str(tmp_path / "model.ts"))
    loaded = torch.jit.load(str(tmp_path / "model.ts"))
    for image in stacks():
        torch.testing.assert_close(loaded(image), network(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", ["tiny", "shallow"])
def test_traced_network_gives_the_same_for_other_numbers_of_slices(size: str) -> None:
    network = adapted(size)
    first, *others = stacks()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # sizes of slices are fixed, and so is each choice
        traced = torch.jit.trace(network, first, check_trace=False)
    for image in (first, *others):
        torch.testing.assert_close(traced(image), network(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", ["tiny", "shallow"])
def test_exported_program_takes_any_number_of_stacks_and_slices(size: str) -> None:
    network = adapted(size)
    first, *others = stacks()
    program = torch.export.export(network, (first,), dynamic_shapes=DYNAMIC).module()
    for image in (first, *others):
        torch.testing.assert_close(program(image), network(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", ["tiny", "shallow"])
def test_onnx_model_takes_any_number_of_stacks_and_slices(tmp_path: Path, size: str) -> None:
    pytest.importorskip("onnxscript", reason="the [onnx] extra is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the [onnx] extra is not installed")
    network = adapted(size)
    first, *others = stacks()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its dependencies
        program = torch.onnx.export(network, (first,), dynamo=True, dynamic_shapes=DYNAMIC, verbose=False)
    program.save(str(tmp_path / "model.onnx"))
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for image in (first, *others):
        (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), network(image), atol=1e-4, rtol=1e-4)
