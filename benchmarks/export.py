"""What an export costs, through the bundle's own configuration: memory, stages, raw DICOM and size.

    python benchmarks/export.py --output_file docs/benchmarks/export.json

memory   resident memory of the whole process tree while `monai.bundle run` exports 10,000 PNGs, sealed; bar: flat
stages   each stage's cost per PNG on one thread; bar: embed + shuffle + write < decode
dicom    whole export of full-size raw DICOM against the decoder alone with as many workers; bar: 2
payload  bytes on disk over bytes of tokens; bar: 1.01
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom
import pyrage
import torch
import torch.nn.functional as F
from measuring import machine, parser_of, ratio, report, save, spread
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image
from read_dicom import real_radiographs, synthetic_radiograph
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from msdino_monai.exporting import views_as_batch
from msdino_monai.images.cohort.plan import visits
from msdino_monai.images.cohort.radiograph import make_radiograph
from msdino_monai.vault import ExportDescription, ExportWriter

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "cxr_embedding_export"
CONFIG = BUNDLE / "configs" / "inference.json"
PARTS = ("memory", "stages", "dicom", "payload")
BARS = {"embed + shuffle + write over decode": 1.0, "export over decoder, raw DICOM": 2.0, "bytes over payload": 1.01}


# ---------------------------------------------------------------------------------------------------- the images


def write_pngs(folder: Path, arguments: argparse.Namespace) -> list[Path]:
    """Distinct 8-bit SYNTHETIC radiographs."""
    folder.mkdir()
    plan = visits(arguments.seed, 0, arguments.distinct)[: arguments.distinct]
    for number, visit in enumerate(plan):
        exposure = make_radiograph(visit, arguments.png_size).exposure
        shown = (exposure.stored - exposure.window_centre) / exposure.window_width + 0.5
        Image.fromarray((255 * shown.clip(0, 1)).astype(np.uint8)).save(folder / f"{number:05d}.png")
    return sorted(folder.iterdir())


def copy_often(pngs: Sequence[Path], folder: Path, count: int) -> Path:
    """`count` files of a few pictures, each with a number of its own inside: the export leaves copies out."""
    folder.mkdir()
    contents = [path.read_bytes() for path in pngs]
    for number in range(count):
        content = contents[number % len(contents)]
        text = b"tEXtnumber\0%06d" % number
        chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
        (folder / f"{number:06d}.png").write_bytes(content[:33] + chunk + content[33:])  # behind the header
    return folder


def write_dicoms(folder: Path, arguments: argparse.Namespace) -> list[Path]:
    """Distinct full-size uncompressed radiographs: the real one where it is installed, rolled by a row each."""
    folder.mkdir()
    real = {} if arguments.skip_real else real_radiographs()
    if "RG1_UNCR" in real:
        dataset = pydicom.dcmread(real["RG1_UNCR"])
    else:
        dataset = synthetic_radiograph(*arguments.synthetic_shape, arguments.seed)
    pixels = dataset.pixel_array
    for number in range(arguments.dicoms):
        dataset.PixelData = np.roll(pixels, number, axis=0).tobytes()
        dataset.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)
        with (folder / f"{number:05d}.dcm").open("rb") as file:
            os.fsync(file.fileno())  # a dirty page cannot be evicted
    return sorted(folder.iterdir())


# ---------------------------------------------------------------------------------------------------- memory


def measure_memory(pngs: Sequence[Path], folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Sample the process tree of the very command a hospital types."""
    images = copy_often(pngs, folder / "many", arguments.images)
    output = folder / "export_of_many"
    settings = {
        "config_file": CONFIG,
        "bundle_root": BUNDLE,
        "dataset_dir": images,
        "output_dir": output,
        "site_id": "benchmark",
        "recipient": pyrage.x25519.Identity.generate().to_public(),
        "num_workers": arguments.workers,
        "images_per_shard": arguments.images_per_shard,
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    samples, start = [], time.perf_counter()
    with (folder / "log").open("w") as log:
        run = subprocess.Popen([sys.executable, "-m", "monai.bundle", "run", *flags], stdout=log, stderr=log)
        while run.poll() is None:
            done = min(arguments.images, arguments.images_per_shard * _count(output / "shards"))
            samples.append((time.perf_counter() - start, done, *_memory_of(run.pid)))
            time.sleep(arguments.interval)
    if run.returncode:
        raise RuntimeError((folder / "log").read_text())
    seconds, done, rss, pss = map(np.array, zip(*samples, strict=True))
    shares = {}
    for share in (0.1, 0.5, 1.0):
        # Buffers come and go, so each point is the median over a tenth of the run; the end is the workers' end.
        middle = min(share, 0.93) * arguments.images
        near = np.abs(done - middle) <= 0.05 * arguments.images
        near = near if near.any() else np.ones_like(near)
        shares[f"{share:.0%}"] = {
            "images": [int(done[near].min()), int(done[near].max())],
            "rss_mb": spread(rss[near]),
            "pss_mb": spread(pss[near]),
        }
    steady = (done >= 0.5 * arguments.images) & (done <= 0.98 * done.max())
    slope = np.polyfit(done[steady], pss[steady], 1)[0] if steady.sum() > 3 else float("nan")
    return {
        "images": arguments.images,
        "shares": shares,
        "growth_from_10_to_100_percent": {
            key: shares["100%"][key]["median"] / shares["10%"][key]["median"] - 1 for key in ("rss_mb", "pss_mb")
        },
        "pss_mb_per_1000_images_in_second_half": float(1000 * slope),
        "highest": {"rss_mb": float(rss.max()), "pss_mb": float(pss.max())},
        "images_per_second_with_start": arguments.images / (time.perf_counter() - start),
        "images_per_second": _rate(seconds, done),
        "samples": [[round(float(value), 2) for value in sample] for sample in samples[:: max(1, len(samples) // 100)]],
        "samples_are": ["seconds", "committed images", "rss_mb", "pss_mb"],
    }


def _count(folder: Path) -> int:
    return sum(not path.name.startswith(".") for path in folder.iterdir()) if folder.exists() else 0


def _memory_of(pid: int) -> tuple[float, float]:
    """Megabytes of a process and its children: resident, where shared pages count for each, and proportional."""
    rss, pss = 0.0, 0.0
    try:
        for process in (tree := psutil.Process(pid), *tree.children(recursive=True)):
            memory = process.memory_full_info()
            rss, pss = rss + memory.rss / 1e6, pss + memory.pss / 1e6
    except psutil.Error:  # it has just ended
        pass
    return rss, pss


def _rate(seconds: Any, done: Any) -> float:
    """Images per second between the first shard and the last."""
    first, last = int(np.argmax(done > 0)), int(np.argmax(done >= done.max()))
    return float((done[last] - done[first]) / (seconds[last] - seconds[first])) if last > first else float("nan")


# ---------------------------------------------------------------------------------------------------- stages


def bundle_parts(folder: Path) -> ConfigParser:
    """The bundle's own configuration, its settings filled in."""
    parser = ConfigParser()
    parser.read_config(str(CONFIG))
    parser.update({"dataset_dir": str(folder), "output_dir": str(folder / "unused"), "site_id": "benchmark"})
    return parser


def measure_stages(pngs: Sequence[Path], folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds per image of each stage on one thread; one round is a shard, its commit and fsyncs included."""
    parser = bundle_parts(folder)
    load, patient = parser.get_parsed_content("load").transforms
    augment = parser.get_parsed_content("preprocessing").transforms[-1]
    network, defences = parser.get_parsed_content("network"), parser.get_parsed_content("defences")
    description = ExportDescription(
        "benchmark", network.describe(), network.num_tokens, network.embedding_dim, defences.kept_tokens(196)
    )
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    size = arguments.images_per_shard
    writers = {
        name: ExportWriter(folder / name, folder / f"{name}.state", description, recipients=keys, images_per_shard=size)
        for name, keys in {"write": (), "write, sealed": (recipient,)}.items()
    }
    rounds: dict[str, list[float]] = {}
    for shard in range(arguments.stage_rounds + 1):
        spent = dict.fromkeys(("decode + fit", "augment", "collate", "embed", "shuffle", *writers), 0.0)

        def timed(stage: str, work: Callable[[], Any], spent: dict[str, float] = spent) -> Any:
            start = time.perf_counter()
            result = work()
            spent[stage] += time.perf_counter() - start
            return result

        for first in range(0, size, 16):
            numbers = range(first, min(first + 16, size))
            items = [{"image": str(pngs[(shard * size + number) % len(pngs)])} for number in numbers]
            loaded = timed("decode + fit", lambda items=items: [patient(load(item)) for item in items])
            views = timed("augment", lambda loaded=loaded: [augment(item) for item in loaded])
            batch = timed("collate", lambda views=views: _collate(views))
            with torch.inference_mode():
                tokens = timed("embed", lambda batch=batch: network(views_as_batch(batch)[0]).float())
            tokens = tokens.unflatten(0, (-1, 1)).numpy()  # (B, N, D) -> (B, V, N, D)
            shuffled = timed("shuffle", lambda tokens=tokens: [defences.apply(one)[0] for one in tokens])
            ids = [(shard * size + number).to_bytes(16, "big") for number in numbers]
            for name, writer in writers.items():
                timed(name, lambda writer=writer, ids=ids, shuffled=shuffled: _add(writer, ids, shuffled))
        if shard > 0:
            for stage, seconds in spent.items():
                rounds.setdefault(stage, []).append(1000 * seconds / size)
    for writer in writers.values():
        writer.close()
    sums = {
        name: [sum(costs) for costs in zip(rounds["embed"], rounds["shuffle"], rounds[name], strict=True)]
        for name in writers
    }
    return {
        "milliseconds_per_image": {stage: spread(costs) for stage, costs in rounds.items()},
        "embed + shuffle + write over decode": ratio(sums["write"], rounds["decode + fit"]),
        "embed + shuffle + write, sealed, over decode": ratio(sums["write, sealed"], rounds["decode + fit"]),
    }


def _collate(views: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"image": torch.stack([torch.as_tensor(item["image"]) for item in views])}


def _add(writer: ExportWriter, ids: Sequence[bytes], shuffled: Sequence[Any]) -> None:
    for image, views in zip(ids, shuffled, strict=True):
        writer.add(image, views)


# ---------------------------------------------------------------------------------------------------- raw DICOM


class Decoded(IterableDataset[Any]):
    """What pydicom's decoder alone gives; only a number, or a small picture, goes back to the main process."""

    def __init__(self, files: Sequence[Path], size: tuple[int, int] | None) -> None:
        self.files, self.size = files, size

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()  # each takes its share as in the export
        for path in self.files[worker.id :: worker.num_workers] if worker else self.files:
            yield self.read(path)

    def read(self, path: Path) -> Any:
        warnings.simplefilter("ignore")
        pixels = pydicom.dcmread(path).pixel_array
        if self.size is None:
            return int(pixels[0, 0])
        return F.interpolate(torch.from_numpy(pixels.astype(np.float32))[None, None], size=self.size, mode="area")[0]


def decode_all(files: Sequence[Path], size: tuple[int, int] | None, workers: int) -> None:
    for _ in DataLoader(Decoded(files, size), batch_size=16, num_workers=workers):
        pass


def export_all(images: Path, folder: Path, workers: int, **settings: Any) -> float:
    """One export through the bundle; returns the seconds of its `run`, worker start and all fsyncs included."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        workflow = ConfigWorkflow(
            str(CONFIG), workflow_type="infer", bundle_root=str(BUNDLE), dataset_dir=str(images),
            output_dir=f"{output}/export", site_id="benchmark", num_workers=workers, **settings,
        )  # fmt: skip
        logging.disable(logging.WARNING)
        workflow.initialize()
        workflow.parser.get_parsed_content("evaluator")  # MONAI puts off most of its parsing until it runs
        start = time.perf_counter()
        workflow.run()
        seconds = time.perf_counter() - start
        workflow.finalize()
        manifest = json.loads(Path(output, "export", "manifest.json").read_text(encoding="utf-8"))
        exported = sum(shard["images"] for shard in manifest["shards"])
        if exported != len(list(images.iterdir())):
            raise RuntimeError(f"{exported} images were exported.")
    return seconds


def evict(files: Sequence[Path]) -> None:
    """Take files out of the page cache, as far as the kernel obliges."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_dicom(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    files = write_dicoms(folder / "dicom", arguments)
    result = {
        cache: against_decoder(files, folder, arguments.dicom_rounds, arguments.workers, cold=cache == "cold")
        for cache in ("warm", "cold")
    }
    real = {} if arguments.skip_real else real_radiographs()
    if "RG1_J2KR" in real:
        (folder / "jpeg_2000").mkdir()
        dataset = pydicom.dcmread(real["RG1_J2KR"])
        for number in range(16):
            dataset.InstanceNumber = number
            dataset.save_as(folder / "jpeg_2000" / f"{number:02d}.dcm")
        files = sorted((folder / "jpeg_2000").iterdir())
        result["JPEG 2000 lossless, warm"] = against_decoder(files, folder, 2, arguments.workers, cold=False)
    return result


def against_decoder(files: Sequence[Path], folder: Path, rounds: int, workers: int, *, cold: bool) -> dict[str, Any]:
    """Milliseconds per image of the decoder, of a resize with it, and of exports, in turns, each with its workers."""
    shape = pydicom.dcmread(files[0]).pixel_array.shape
    size = tuple(max(1, round(side * 224 / max(shape))) for side in shape)
    plain = {"_target_": "Compose", "transforms": []}
    sides: dict[str, Callable[[], float | None]] = {
        "decoder": partial(decode_all, files, None, workers),
        "decoder and resize": partial(decode_all, files, (size[0], size[1]), workers),
        "export": partial(export_all, files[0].parent, folder, workers),
        "export without augmentation": partial(export_all, files[0].parent, folder, workers, augment=plain),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, side in sides.items():
            if cold:
                evict(files)
            start = time.perf_counter()
            own = side()  # an export's clock leaves out the parsing of its configuration
            spent = time.perf_counter() - start if own is None else own
            if round_:
                seconds[name].append(spent / len(files))
    return {
        "images": len(files),
        "shape": list(shape),
        "bytes": files[0].stat().st_size,
        "workers": workers,
        "milliseconds_per_image": {name: spread([1000 * one for one in times]) for name, times in seconds.items()},
        "export over decoder": ratio(seconds["export"], seconds["decoder"]),
        "export over decoder and resize": ratio(seconds["export"], seconds["decoder and resize"]),
        "export without augmentation over decoder and resize": ratio(
            seconds["export without augmentation"], seconds["decoder and resize"]
        ),
    }


# ---------------------------------------------------------------------------------------------------- payload


def measure_payload(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Size of the whole export folder, manifest included, over the bytes of its tokens alone."""
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    rng, found = np.random.default_rng(arguments.seed), {}
    for dim, dtype, sealed in ((128, "float16", 0), (128, "float16", 1), (128, "int8", 0), (128, "int8", 1),
                               (256, "int8", 0), (256, "int8", 1)):  # fmt: skip
        name = f"D {dim}, {dtype}{', sealed' if sealed else ''}"
        description = ExportDescription("benchmark", {"sha256": "0" * 64}, 196, dim, dtype=dtype)
        tokens = rng.standard_normal((1, 196, dim)).astype(np.float32)
        with ExportWriter(
            folder / name, folder / f"{name}.state", description, recipients=(recipient,) if sealed else ()
        ) as writer:
            for image in range(arguments.payload_images):
                writer.add(image.to_bytes(16, "big"), tokens)
        on_disk = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
        payload = arguments.payload_images * 196 * dim * (2 if dtype == "float16" else 1)
        found[name] = {
            "bytes_per_image": on_disk / arguments.payload_images,
            "over_payload": on_disk / payload,
            "over_8_bit_pixels": on_disk / (arguments.payload_images * 224 * 224),
            "payload_over_8_bit_pixels": payload / (arguments.payload_images * 224 * 224),
        }
    return found


# ---------------------------------------------------------------------------------------------------- the tables


def show(results: dict[str, Any]) -> None:
    if found := results.get("memory"):
        rows = [
            [share, "{} to {}".format(*at["images"]), at["rss_mb"]["median"],
             *(at["pss_mb"][key] for key in ("median", "q1", "q3"))]
            for share, at in found["shares"].items()
        ]  # fmt: skip
        report(
            f"Memory of the process tree, {found['images']} PNGs",
            ["done", "committed", "RSS MB", "PSS MB", "q1", "q3"],
            rows,
        )
        growth = found["growth_from_10_to_100_percent"]
        print(f"growth from 10 % to 100 %: RSS {growth['rss_mb']:+.1%}, PSS {growth['pss_mb']:+.1%}; "
              f"{found['pss_mb_per_1000_images_in_second_half']:+.2f} MB per 1000 images in the second half; "
              f"{found['images_per_second']:.0f} images/s")  # fmt: skip
    if found := results.get("stages"):
        rows = [
            [stage, *(cost[key] for key in ("median", "q1", "q3"))]
            for stage, cost in found["milliseconds_per_image"].items()
        ]
        rows += [
            [name, *(cost[key] for key in ("median", "q1", "q3"))] for name, cost in found.items() if "over" in name
        ]
        report("Stages of one PNG on one thread", ["stage", "ms", "q1", "q3"], rows)
    for kind, found in results.get("dicom", {}).items():
        rows = [
            [name, *(cost[key] for key in ("median", "q1", "q3"))]
            for name, cost in {**found["milliseconds_per_image"], **found}.items()
            if isinstance(cost, dict) and "median" in cost
        ]
        report(f"DICOM, {kind}", ["side", "ms per image, or ratio", "q1", "q3"], rows)
    if found := results.get("payload"):
        rows = [[name, *(f"{value:,.4f}" for value in one.values())] for name, one in found.items()]
        report("Size", ["export", "bytes/image", "over payload", "over 8-bit pixels", "payload over pixels"], rows)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--images", type=int, default=10_000, help="PNGs of the memory part")
    parser.add_argument("--distinct", type=int, default=100, help="different pictures; the rest differ in a number")
    parser.add_argument("--png_size", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images_per_shard", type=int, default=256)
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between samples of memory")
    parser.add_argument("--stage_rounds", type=int, default=10, help="shards")
    parser.add_argument("--dicoms", type=int, default=200)
    parser.add_argument("--dicom_rounds", type=int, default=4)
    parser.add_argument("--synthetic_shape", type=int, nargs=2, default=[2500, 2048])
    parser.add_argument("--skip_real", action="store_true", help="take a SYNTHETIC radiograph for the raw DICOM")
    parser.add_argument("--payload_images", type=int, default=1024)
    arguments = parser.parse_args()
    started_on, results = machine(), {"bars": BARS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pngs = write_pngs(folder / "png", arguments) if {"memory", "stages"} & set(arguments.parts) else []
        if "memory" in arguments.parts:
            results["memory"] = measure_memory(pngs, folder, arguments)
        torch.set_num_threads(1)
        if "stages" in arguments.parts:
            results["stages"] = measure_stages(pngs, folder, arguments)
        if "dicom" in arguments.parts:
            results["dicom"] = measure_dicom(folder, arguments)
        if "payload" in arguments.parts:
            results["payload"] = measure_payload(folder, arguments)
    show(results)
    save(arguments, started_on, results)


if __name__ == "__main__":
    main()
