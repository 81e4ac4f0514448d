"""How long a full-size radiograph takes to become what the network sees, against pydicom's pixels and a resize alone.

    python benchmarks/read_dicom.py --output_file docs/benchmarks/read_dicom.json

The real PA chest CR of `pydicom-data` and a noisy SYNTHETIC one are written anew in every transfer syntax there is an
encoder for; the other radiographs of `pydicom-data` are read as they lie. Both sides read the same file in turns, with
a warm page cache, on one thread; the bar is 1.5 for the uncompressed one.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
import torch.nn.functional as F
from measuring import machine, parser_of, ratio, report, save, spread, take_turns
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from msdino_monai.images.transforms import LoadRadiograph

BAR = 1.5


def real_radiographs() -> dict[str, Path]:
    """The RG files of `pydicom-data`, if it is installed."""
    package = importlib.util.find_spec("data_store")
    if package is None or not package.submodule_search_locations:
        return {}
    folder = Path(package.submodule_search_locations[0], "data")
    return {path.stem: path for path in sorted(folder.glob("RG*.dcm"))}


def synthetic_radiograph(rows: int, columns: int, seed: int) -> Dataset:
    """A DX of 12 bits with a smooth body, edges and detector noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    body = 1600 + 900 * np.cos(2.5 * x) * np.cos(1.5 * y) - 500 * (np.hypot(np.abs(x) - 0.4, y * 0.6) < 0.3)
    pixels = (body + 12 * rng.standard_normal((rows, columns))).clip(0, 4095).astype(np.uint16)
    dataset = Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid(entropy_srcs=[str(seed)])
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "DX", "MONOCHROME2", 1
    dataset.Rows, dataset.Columns, dataset.PixelRepresentation = rows, columns, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.WindowCenter, dataset.WindowWidth = 1600, 2400
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.PixelData = pixels.tobytes()
    return dataset


def deflate(dataset: Dataset) -> None:
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian


def compress(syntax: uid.UID) -> Callable[[Dataset], None]:
    return lambda dataset: dataset.compress(syntax, generate_instance_uid=False)


def jpeg_lossless(dataset: Dataset) -> None:
    """ITK's GDCM has the only encoder at hand."""
    import itk

    with tempfile.TemporaryDirectory() as folder:
        path, encoder = Path(folder, "one.dcm"), itk.GDCMImageIO.New()
        encoder.SetCompressor("JPEG")
        picture = itk.image_from_array(dataset.pixel_array)
        itk.ImageFileWriter.New(Input=picture, FileName=str(path), ImageIO=encoder, UseCompression=True).Update()
        made = pydicom.dcmread(path)
    if made.file_meta.TransferSyntaxUID != uid.JPEGLosslessSV1:
        raise RuntimeError(f"ITK wrote {made.file_meta.TransferSyntaxUID.name}")
    dataset.PixelData = encapsulate(list(generate_frames(made.PixelData, number_of_frames=1)))
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1


ENCODERS: dict[str, Callable[[Dataset], None] | None] = {
    "explicit little endian": None,
    "deflated": deflate,
    "RLE": compress(uid.RLELossless),
    "JPEG lossless SV1": jpeg_lossless,
    "JPEG-LS lossless": compress(uid.JPEGLSLossless),
    "JPEG 2000 lossless": compress(uid.JPEG2000Lossless),
}


def write_twins(dataset: Dataset, folder: Path) -> dict[str, Path | str]:
    """The radiograph in every syntax: a path, or why there is none."""
    pixels, twins = dataset.pixel_array.copy(), {}
    for name, encode in ENCODERS.items():
        twin = pydicom.dcmread(_write(dataset, folder / "source.dcm"))
        try:
            if encode is not None:
                encode(twin)
            path = _write(twin, folder / f"{name.replace(' ', '_')}.dcm")
        except Exception as error:  # which encoders there are depends on the machine
            twins[name] = f"not encodable here ({type(error).__name__}: {error})"
            continue
        np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, pixels)
        twins[name] = path
    return twins


def _write(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def compare(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the reader, of pydicom and a resize, and of pydicom alone, in turns."""
    shape = pydicom.dcmread(path).pixel_array.shape[:2]
    scale = arguments.img_size / max(shape)
    size = tuple(max(1, round(side * scale)) for side in shape)
    load = LoadRadiograph(arguments.img_size)

    def pixels_and_resize() -> object:
        pixels = torch.from_numpy(pydicom.dcmread(path).pixel_array.astype(np.float32))
        return F.interpolate(pixels[None, None], size=size, mode="area")

    sides: dict[str, Callable[[], object]] = {
        "reader": lambda: load(path),
        "pixel_array and resize": pixels_and_resize,
        "pixel_array": lambda: pydicom.dcmread(path).pixel_array,
    }
    start = time.perf_counter()
    take_turns(sides, 1, warmup=0)
    passes = int(arguments.seconds_per_file / (time.perf_counter() - start))
    seconds = take_turns(sides, min(max(passes, 5), arguments.rounds))
    return {
        "shape": list(shape),
        "bytes": path.stat().st_size,
        **{name: spread(times) for name, times in seconds.items()},
        "ratio": ratio(seconds["reader"], seconds["pixel_array and resize"]),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--img_size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=200, help="at most")
    parser.add_argument("--seconds_per_file", type=float, default=5.0, help="fewer rounds where they take longer")
    parser.add_argument("--synthetic_shape", type=int, nargs=2, default=[2500, 2048])
    parser.add_argument("--threads", type=int, default=1, help="of torch; a loader worker has one")
    parser.add_argument("--skip_real", action="store_true", help="only the SYNTHETIC radiograph")
    arguments = parser.parse_args()
    started_on = machine()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")  # the real files' headers are old
    real = {} if arguments.skip_real else real_radiographs()
    sources = {"SYNTHETIC DX": synthetic_radiograph(*arguments.synthetic_shape, arguments.seed)}
    if "RG1_UNCR" in real:
        sources = {"PA chest CR (RG1_UNCR)": pydicom.dcmread(real["RG1_UNCR"]), **sources}
    results: dict[str, Any] = {"bar": BAR}
    with tempfile.TemporaryDirectory() as folder:
        for source, dataset in sources.items():
            for syntax, twin in write_twins(dataset, Path(folder)).items():
                found = compare(twin, arguments) if isinstance(twin, Path) else {"missing": twin}
                results[f"{source}, {syntax}"] = found
    for name, path in real.items():
        syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID.name
        results[f"{name} as it lies, {syntax}"] = compare(path, arguments)
    rows = [
        [name, *(1000 * found[side]["median"] for side in ("pixel_array", "pixel_array and resize", "reader")),
         *(found["ratio"][key] for key in ("median", "q1", "q3"))]
        if "ratio" in found else [name, found["missing"], *[""] * 5]
        for name, found in results.items() if name != "bar"
    ]  # fmt: skip
    header = ["file", "pixel_array ms", "and resize ms", "reader ms", "ratio", "q1", "q3"]
    report(f"Reader against pixel_array and resize (bar {BAR})", header, rows)
    save(arguments, started_on, results)


if __name__ == "__main__":
    main()
