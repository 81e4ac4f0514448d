"""What a pretraining step costs: masked sampling on exported tokens against the original DINO step on pixels.

    python benchmarks/pretraining.py --output_file docs/benchmarks/pretraining.json

Both train a ViT-S/16 from reading the batch to the teacher's update. The original is written below as most write it
from the paper (arXiv 2104.14294): 2 crops of 224 and 8 of 96 pixels, in memory already. Masked sampling is the
bundle's own trainer, engine, handlers and token store included, with 2 x 70 % + 8 x 20 % of the tokens and the same
65,536 prototypes; the bundle's defaults stand beside it.

cpu   sides take turns in one process; memory of each in a process of its own; bars: 1.4, 55 % of the GEMM peak
      in float32, and with AMX 3.5 in bfloat16
gpu   images/s and model-FLOP utilisation in bfloat16, with and without torch.compile; bars: 22 %, 2,300 images/s
"""

from __future__ import annotations

import argparse
import copy
import functools
import gc
import itertools
import math
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from ignite.engine import Events
from measuring import machine, parser_of, ratio, report, save, spread, take_turns
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from monai.networks.layers import DropPath
from token_store import write_export
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

CONFIG = Path(__file__).resolve().parents[1] / "bundles" / "cxr_msdino_pretraining" / "configs" / "train.json"
PARTS = ("cpu", "gpu")
ORIGINAL, MASKED, DEFAULTS = "original DINO", "masked sampling", "bundle's defaults"
LIKE_THE_ORIGINAL = {
    "global_share": 0.7,
    "local_share": 0.2,
    "num_local": 8,
    "num_prototypes": 65_536,
    "targets": "centring",
    "koleo_weight": 0.0,
    "token_weight": 0.0,
}
VIT_S = {"hidden_size": 384, "mlp_dim": 1536, "num_layers": 12, "num_heads": 6, "head_dim": 2048, "bottleneck_dim": 256}
TINY = {"hidden_size": 32, "mlp_dim": 64, "num_layers": 2, "num_heads": 2, "head_dim": 32, "bottleneck_dim": 16}
PATCH, EMBEDDING_DIM, DROP_PATH = 16, 128, 0.1
# Dense bfloat16 FLOP/s by the maker's tables; the first name found in the card's own counts.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}


class Step(Protocol):
    """A training step at every call."""

    def __call__(self) -> None: ...

    def close(self) -> None: ...


class Side(NamedTuple):
    """One way to train."""

    method: str
    precision: str
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.method}, {self.precision}{', compiled' if self.compiled else ''}"


CPU_SIDES = [
    Side(ORIGINAL, "float32"),
    Side(MASKED, "float32"),
    Side(DEFAULTS, "float32"),
    Side(ORIGINAL, "bfloat16"),
    Side(MASKED, "bfloat16"),
]
GPU_SIDES = [
    Side(method, "bfloat16", compiled) for compiled in (False, True) for method in (ORIGINAL, MASKED, DEFAULTS)
]


# ------------------------------------------------------------------------------------------- the original DINO step


class PixelBlock(nn.Module):
    """Attention and MLP, each behind a norm, its attention written out."""

    def __init__(self, hidden_size: int, mlp_dim: int, num_heads: int, drop_path_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = (nn.LayerNorm(hidden_size, eps=1e-6) for _ in range(2))
        self.qkv, self.projection = nn.Linear(hidden_size, 3 * hidden_size), nn.Linear(hidden_size, hidden_size)
        self.mlp = nn.Sequential(nn.Linear(hidden_size, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, hidden_size))
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.drop_path(self.attention(self.norm1(hidden)))
        return hidden + self.drop_path(self.mlp(self.norm2(hidden)))

    def attention(self, hidden: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(hidden).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3 H) -> (B, N, 3, heads, H / heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # -> (B, heads, N, H / heads) each
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)
        return self.projection((weights @ value).transpose(1, 2).flatten(2))


class PixelViT(nn.Module):
    """Images (B, 3, H, W) to class tokens (B, hidden_size); positions are interpolated for smaller crops."""

    def __init__(self, img_size: int, hidden_size: int, mlp_dim: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        self.side = img_size // PATCH
        self.patches = nn.Conv2d(3, hidden_size, PATCH, PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.positions = nn.Parameter(torch.zeros(1, 1 + self.side**2, hidden_size))
        rates = torch.linspace(0, DROP_PATH, num_layers).tolist()
        self.blocks = nn.ModuleList(PixelBlock(hidden_size, mlp_dim, num_heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.apply(start_small)
        for parameter in (self.cls_token, self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patches(images)  # (B, 3, H, W) -> (B, hidden_size, H / 16, W / 16)
        hidden = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        hidden = hidden + self.positions_of(patches.shape[-1])
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)[:, 0]

    def positions_of(self, side: int) -> torch.Tensor:
        if side == self.side:
            return self.positions
        grid = self.positions[:, 1:].unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(side, side), mode="bicubic")
        return torch.cat([self.positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class MultiCrop(nn.Module):
    """Crops of one resolution run as one batch; the head sees the class tokens of all at once."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, crops: Sequence[torch.Tensor]) -> torch.Tensor:
        groups = [torch.cat(list(group)) for _, group in itertools.groupby(crops, key=lambda crop: crop.shape[-1])]
        return self.head(torch.cat([self.backbone(group) for group in groups]))


class PixelHead(nn.Module):
    """Three layers to a bottleneck on the sphere, then prototypes of unit weight norm."""

    def __init__(self, hidden_size: int, head_dim: int, bottleneck_dim: int, num_prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, head_dim),
            nn.GELU(),
            nn.Linear(head_dim, head_dim),
            nn.GELU(),
            nn.Linear(head_dim, bottleneck_dim),
        )
        self.apply(start_small)
        self.prototypes = nn.utils.parametrizations.weight_norm(
            nn.Linear(bottleneck_dim, num_prototypes, bias=False), dim=0
        )
        norms = self.prototypes.parametrizations.weight.original0
        nn.init.ones_(norms)
        norms.requires_grad_(False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.prototypes(F.normalize(self.mlp(features), dim=-1))


def start_small(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


class PixelLoss(nn.Module):
    """The paper's loss, crop by crop: every crop of the student against the two large ones of the teacher."""

    centre: torch.Tensor

    def __init__(self, num_prototypes: int, num_crops: int) -> None:
        super().__init__()
        self.num_crops = num_crops
        self.register_buffer("centre", torch.zeros(1, num_prototypes))

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        logits = (student.float() / 0.1).chunk(self.num_crops)
        targets = ((teacher.float() - self.centre) / 0.04).softmax(dim=-1).detach().chunk(2)
        terms = []
        for t, target in enumerate(targets):
            for s, crop in enumerate(logits):
                if s != t:
                    terms.append(-(target * F.log_softmax(crop, dim=-1)).sum(dim=-1).mean())
        self.centre = self.centre * 0.9 + teacher.float().mean(dim=0, keepdim=True) * 0.1
        return sum(terms) / len(terms)


class OriginalStep:
    """Teacher, student, loss, backward, clipping, AdamW and the teacher's update, on the same crops at every call."""

    def __init__(self, side: Side, batch_size: int, device: torch.device, quick: bool) -> None:
        sizes = dict(TINY if quick else VIT_S)
        head = {name: sizes.pop(name) for name in ("head_dim", "bottleneck_dim")}
        num_prototypes, (large, small) = prototypes_of(quick), crops_of(quick)
        backbone = PixelViT(large, **sizes)
        self.student = MultiCrop(backbone, PixelHead(sizes["hidden_size"], num_prototypes=num_prototypes, **head))
        self.student.to(device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        if side.compiled:  # both resolutions are known, so each gets a graph of its own
            for network in (self.student, self.teacher):
                network.backbone.compile(dynamic=False)
        self.crops = [torch.randn(batch_size, 3, size, size, device=device) for size in 2 * [large] + 8 * [small]]
        self.loss = PixelLoss(num_prototypes, len(self.crops)).to(device)
        learning = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [parameter for parameter in learning if parameter.ndim > 1], "weight_decay": 0.04},
                {"params": [parameter for parameter in learning if parameter.ndim == 1], "weight_decay": 0.0},
            ],
            lr=5e-4 * batch_size / 256,
        )
        self.autocast = functools.partial(
            torch.autocast, device.type, torch.bfloat16, enabled=side.precision == "bfloat16"
        )

    def __call__(self) -> None:
        with self.autocast():
            with torch.no_grad():
                teacher = self.teacher(self.crops[:2])
            student = self.student(self.crops)
        loss = self.loss(student, teacher)
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"the original's loss is {loss.item()}.")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 3.0)
        self.optimizer.step()
        with torch.no_grad():
            for ours, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                ours.mul_(0.996).add_(theirs, alpha=1 - 0.996)

    def close(self) -> None:
        """Nothing waits here."""


# ------------------------------------------------------------------------------------------- masked sampling, and both


class MaskedSamplingStep:
    """One iteration of the bundle's training at every call: reading, sampling, the step and all handlers."""

    def __init__(self, side: Side, batch_size: int, device: torch.device, quick: bool, export: Path) -> None:
        self.folder = tempfile.TemporaryDirectory()
        parser = ConfigParser()
        parser.read_config(str(CONFIG))
        settings = {
            **(TINY if quick else VIT_S),
            **(LIKE_THE_ORIGINAL if side.method == MASKED else {}),
            **({"num_prototypes": prototypes_of(quick)} if quick else {}),
            "drop_path_rate": DROP_PATH,
            "dataset_dir": str(export),
            "output_dir": self.folder.name,
            "allow_unsigned": True,
            "batch_size": batch_size,
            "device": device,
            "precision": side.precision,
            "compile": side.compiled,
            "prefetch": 4 if device.type == "cuda" else 0,
            "frozen_prototype_epochs": 0,  # the step of all epochs but the first
            "checkpoint_every_iterations": 0,
            "stop_on_collapse": False,
        }
        for name, value in settings.items():
            parser[name] = value
        handlers = [one for one in parser["train#handlers"] if "ProgressBar" not in str(one)]
        parser["train#handlers"] = handlers  # a bar would draw over the table
        self.trainer = parser.get_parsed_content("train#trainer")
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: engine.interrupt())
        self.paused = False

    def __call__(self) -> None:
        self.paused = False
        SupervisedTrainer.run(self.trainer)  # goes on until the next interrupt; the trainer's own would save first
        if self.trainer.fault:
            raise RuntimeError(self.trainer.fault)
        self.paused = True

    def close(self) -> None:
        """Let a paused engine end; one that failed has ended."""
        if self.paused:
            self.trainer.terminate()
            SupervisedTrainer.run(self.trainer)
        self.folder.cleanup()


def build(side: Side, batch_size: int, device: torch.device, export: Path, arguments: argparse.Namespace) -> Step:
    torch.manual_seed(arguments.seed)
    if side.method == ORIGINAL:
        return OriginalStep(side, batch_size, device, arguments.quick)
    return MaskedSamplingStep(side, batch_size, device, arguments.quick, export)


def crops_of(quick: bool) -> tuple[int, int]:
    return (64, 32) if quick else (224, 96)


def prototypes_of(quick: bool) -> int:
    return 64 if quick else LIKE_THE_ORIGINAL["num_prototypes"]


def export_for(folder: Path, images: int, arguments: argparse.Namespace) -> Path:
    """As many images as the steps to come use, so that no epoch ends among them."""
    tokens = (crops_of(arguments.quick)[0] // PATCH) ** 2
    wanted = argparse.Namespace(tokens=tokens, dim=EMBEDDING_DIM, images=images, seed=arguments.seed)
    folder.mkdir()
    return write_export(folder, wanted)


def flops_of(step: Step) -> float:
    """Of the matrix products and convolutions of one step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


class MatrixProducts:
    """Times large square matrix products and keeps the best rate seen: what this machine could do at most."""

    def __init__(self, precision: str, device: torch.device, sizes: Sequence[int]) -> None:
        dtype = getattr(torch, precision)
        self.factors = [torch.randn(2, size, size, device=device).to(dtype) for size in sizes]
        self.flops_per_second = 0.0

    def __call__(self) -> None:
        for left, right in self.factors:
            product = left @ right  # also takes the memory that the timed ones use
            seconds = min(
                take_turns({"": lambda left=left, right=right, out=product: self._run(left, right, out)}, 3)[""]
            )
            self.flops_per_second = max(self.flops_per_second, 2 * len(left) ** 3 / seconds)

    def _run(self, left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
        torch.mm(left, right, out=out)
        wait_for(left.device)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ------------------------------------------------------------------------------------------- on the CPU


def measure_cpu(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each side's steps, taken in turns, against each other and against plain matrix products."""
    device, batch_size = torch.device("cpu"), arguments.batch
    export = export_for(folder / "cpu", batch_size * (arguments.rounds + 4), arguments)
    memory = {side: in_own_process(side, export, arguments) for side in CPU_SIDES[: 2 if arguments.quick else None]}
    torch.set_num_threads(arguments.threads)
    sizes = [64] if arguments.quick else [1024, 2048, 3072]
    products = {precision: MatrixProducts(precision, device, sizes) for precision in ("float32", "bfloat16")}
    with ExitStack() as stack:
        built = ((side, build(side, batch_size, device, export, arguments)) for side in CPU_SIDES)
        steps = {side: stack.enter_context(closing(step)) for side, step in built}
        flops = {side: flops_of(step) for side, step in steps.items()}
        seconds = take_turns({**steps, **products}, arguments.rounds, warmup=1)
    sides = {
        str(side): {
            "seconds": spread(seconds[side]),
            "images_per_second": batch_size / spread(seconds[side])["median"],
            "gflop": flops[side] / 1e9,
            "gflop_per_second": flops[side] / 1e9 / spread(seconds[side])["median"],
            "share_of_gemm_peak": flops[side]
            / spread(seconds[side])["median"]
            / products[side.precision].flops_per_second,
            **memory.get(side, {}),
        }
        for side in CPU_SIDES
    }
    original = seconds[Side(ORIGINAL, "float32")]
    return {
        "batch_size": batch_size,
        "threads": arguments.threads,
        "amx": has_amx(),
        "gemm_peak_gflop_per_second": {name: peak.flops_per_second / 1e9 for name, peak in products.items()},
        "sides": sides,
        "original in float32 over": {str(side): ratio(original, seconds[side]) for side in CPU_SIDES[1:]},
    }


def in_own_process(side: Side, export: Path, arguments: argparse.Namespace) -> dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_memory, side, export, arguments).result()


def peak_memory(side: Side, export: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Megabytes resident at most during two steps, and before anything was built."""
    torch.set_num_threads(arguments.threads)
    before = high_water_mark()
    with closing(build(side, arguments.batch, torch.device("cpu"), export, arguments)) as step:
        for _ in range(2):
            step()
    return {"peak_mb": high_water_mark(), "mb_before": before}


def high_water_mark() -> float:
    """This process's own; getrusage would include its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def has_amx() -> bool:
    return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------- on a GPU


def measure_gpu(device: torch.device, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Images per second of every side at every batch size, with the share of the card's peak and the memory."""
    steps = (arguments.gpu_rounds + 1) * arguments.steps_per_round
    export = export_for(folder / "gpu", max(arguments.gpu_batches) * (steps + 4), arguments)
    products = MatrixProducts("bfloat16", device, [64] if arguments.quick else [4096, 8192])
    products()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    peak = next((value for card, value in PEAKS.items() if card in name), products.flops_per_second)
    per_image = {}
    for method in (ORIGINAL, MASKED, DEFAULTS):
        with closing(build(Side(method, "bfloat16"), 8, device, export, arguments)) as step:
            per_image[method] = flops_of(step) / 8
    batches: dict[str, dict[str, Any]] = {}
    for batch_size, side in itertools.product(arguments.gpu_batches, GPU_SIDES):
        if side.compiled and arguments.skip_compile:
            continue
        free_memory(device)
        found = batches.setdefault(str(batch_size), {})
        try:
            found[str(side)] = measure_side(device, side, batch_size, export, arguments)
        except torch.cuda.OutOfMemoryError:
            found[str(side)] = "out of memory"
            continue
        rate = found[str(side)]["images_per_second"]["median"]
        found[str(side)]["model_flop_utilisation"] = rate * per_image[side.method] / peak
    return {
        "device": name,
        "peak_tflop_per_second": peak / 1e12,
        "gemm_peak_tflop_per_second": products.flops_per_second / 1e12,
        "gflop_per_image": {method: flops / 1e9 for method, flops in per_image.items()},
        "batches": batches,
    }


def measure_side(
    device: torch.device, side: Side, batch_size: int, export: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One side alone on the card: each round is several steps, so that the host may run ahead as in a training."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with closing(build(side, batch_size, device, export, arguments)) as step:

        def steps() -> None:
            for _ in range(arguments.steps_per_round):
                step()
            wait_for(device)

        seconds = take_turns({"": steps}, arguments.gpu_rounds, warmup=1)[""]
        peak = {"peak_mb": torch.cuda.max_memory_allocated(device) / 1e6} if device.type == "cuda" else {}
    rates = [batch_size * arguments.steps_per_round / one for one in seconds]
    return {"images_per_second": spread(rates), **peak}


def free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# ------------------------------------------------------------------------------------------- the bars and the tables


class Bar(NamedTuple):
    """What must be reached, what should be, what was; `unless` says why this run cannot tell."""

    what: str
    bar: float
    aim: float
    value: float
    unless: str = ""

    def verdict(self) -> str:
        if self.unless:
            return f"not judged: {self.unless}"
        if self.value < self.bar:
            return "missed"
        return "met, and the aim" if self.value >= self.aim else "met"


def bars_of(results: dict[str, Any], quick: bool) -> list[Bar]:
    """The bars of the parts that ran."""
    bars, tiny = [], "--quick" if quick else ""
    if found := results.get("cpu"):
        over = found["original in float32 over"]
        fast, faster = str(Side(MASKED, "float32")), str(Side(MASKED, "bfloat16"))
        no_amx = tiny or ("" if found["amx"] else "no AMX here")
        bars = [
            Bar("original over masked sampling, float32", 1.4, 1.6, over[fast]["median"], tiny),
            Bar("share of the GEMM peak, float32", 0.55, 0.65, found["sides"][fast]["share_of_gemm_peak"], tiny),
            Bar("original, float32, over masked sampling, bfloat16", 3.5, 5.0, over[faster]["median"], no_amx),
        ]
    found = results.get("gpu")
    if isinstance(found, dict):
        masked = [
            one
            for sides in found["batches"].values()
            for name, one in sides.items()
            if name.startswith(MASKED) and isinstance(one, dict)
        ]
        other = tiny or ("" if any(card in found["device"] for card in ("H100", "H200")) else "no H100 or H200 here")
        used = max((one["model_flop_utilisation"] for one in masked), default=math.nan)
        rate = max((one["images_per_second"]["median"] for one in masked), default=math.nan)
        bars.append(Bar("GPU: model-FLOP utilisation of masked sampling", 0.22, 0.35, used, other))
        bars.append(Bar("GPU: images/s of masked sampling", 2300, 3700, rate, other))
    return bars


def show(results: dict[str, Any], bars: Sequence[Bar]) -> None:
    if found := results.get("cpu"):
        rows = [
            [name, *(one["seconds"][key] for key in ("median", "q1", "q3")), one["images_per_second"], one["gflop"],
             one["gflop_per_second"], f"{one['share_of_gemm_peak']:.1%}",
             *(one.get(key, math.nan) for key in ("peak_mb", "mb_before"))]
            for name, one in found["sides"].items()
        ]  # fmt: skip
        peaks = ", ".join(f"{name} {peak:,.0f}" for name, peak in found["gemm_peak_gflop_per_second"].items())
        report(
            f"A step of {found['batch_size']} images on {found['threads']} threads (GEMM peak, GFLOP/s: {peaks})",
            ["side", "s", "q1", "q3", "images/s", "GFLOP", "GFLOP/s", "of peak", "peak MB", "MB before"],
            rows,
        )
        rows = [
            [name, *(one[key] for key in ("median", "q1", "q3"))]
            for name, one in found["original in float32 over"].items()
        ]
        report("The original in float32 over", ["side", "ratio", "q1", "q3"], rows)
    if isinstance(found := results.get("gpu"), dict):
        rows = [
            [f"{batch} x {name}", one, *5 * ["-"]] if isinstance(one, str) else
            [f"{batch} x {name}", *(one["images_per_second"][key] for key in ("median", "q1", "q3")),
             1000 * int(batch) / one["images_per_second"]["median"], f"{one['model_flop_utilisation']:.1%}",
             one.get("peak_mb", math.nan)]
            for batch, sides in found["batches"].items() for name, one in sides.items()
        ]  # fmt: skip
        report(
            f"{found['device']} (peak {found['peak_tflop_per_second']:,.0f} TFLOP/s, "
            f"measured {found['gemm_peak_tflop_per_second']:,.0f})",
            ["batch x side", "images/s", "q1", "q3", "ms", "MFU", "peak MB"],
            rows,
        )
    elif found:
        print(f"\n{found}")
    report(
        "Bars",
        ["what", "bar", "aim", "is", "verdict"],
        [[bar.what, bar.bar, bar.aim, float(bar.value), bar.verdict()] for bar in bars],
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="tiny networks and two rounds: does it run?")
    parser.add_argument("--batch", type=int, default=8, help="images in a step on the CPU")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--gpu_batches", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--gpu_rounds", type=int, default=5)
    parser.add_argument("--steps_per_round", type=int, default=5, help="on the GPU")
    parser.add_argument("--skip_compile", action="store_true", help="leave out torch.compile")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 2
    started_on, results = machine(), {}
    with tempfile.TemporaryDirectory() as name:
        if "cpu" in arguments.parts:
            results["cpu"] = measure_cpu(Path(name), arguments)
        if "gpu" in arguments.parts:
            on_gpu = torch.cuda.is_available()
            results["gpu"] = measure_gpu(torch.device("cuda"), Path(name), arguments) if on_gpu else "No GPU here."
    bars = bars_of(results, arguments.quick)
    show(results, bars)
    judged = [{**bar._asdict(), "verdict": bar.verdict()} for bar in bars]
    save(arguments, started_on, {**results, "bars": judged})


if __name__ == "__main__":
    main()
