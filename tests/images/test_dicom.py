from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless

from msdino_monai.errors import RadiographError
from msdino_monai.images import dicom
from msdino_monai.images.radiograph import Rules
from msdino_monai.images.transforms import LoadRadiograph

try:
    from pydicom.pixels import apply_voi_lut
except ImportError:
    from pydicom.pixel_data_handlers.util import apply_voi_lut

WriteDicom = Callable[..., Path]


def load(path: Path, size: int = 48, **rules: Any) -> torch.Tensor:
    return LoadRadiograph(size, **rules)(path).as_tensor()


def lut(first: int, table: np.ndarray, bits: int = 16) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(table), first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = table.astype(np.uint16).tolist()
    item["LUTData"].VR = "US"
    item.ModalityLUTType = "US"
    return item


def test_monochrome1_is_inverted(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    plain = load(write_dicom(picture))
    inverted = load(write_dicom(4095 - picture, PhotometricInterpretation="MONOCHROME1"))
    torch.testing.assert_close(inverted, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("inverted", [False, True])
def test_window_is_applied_before_inversion(write_dicom: WriteDicom, picture: np.ndarray, inverted: bool) -> None:
    photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
    window = {"WindowCenter": 1200, "WindowWidth": 600}
    image = load(write_dicom(picture, PhotometricInterpretation=photometric, **window))
    shown = np.clip(picture.astype(float), 900, 1499)
    expected = load(write_dicom(np.round(10 * (4095 - shown if inverted else shown)).astype(np.uint16)))
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "bits", "offset"), [("u1", 8, 0), ("i2", 12, -2048), ("i2", 16, -2048), ("u2", 12, 0), ("u2", 16, 0)]
)
def test_depth_and_sign_do_not_change_the_picture(
    write_dicom: WriteDicom, picture: np.ndarray, dtype: str, bits: int, offset: int
) -> None:
    coarse = picture // 16 if dtype == "u1" else picture
    image = load(write_dicom((coarse.astype(np.int32) + offset).astype(dtype), BitsStored=bits, HighBit=bits - 1))
    torch.testing.assert_close(image, load(write_dicom(picture)), atol=2 / 255 if dtype == "u1" else 1e-6, rtol=0)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_agrees_with_pydicom(write_dicom: WriteDicom, picture: np.ndarray, function: str) -> None:
    path = write_dicom(picture, WindowCenter=[1300, 5], WindowWidth=[900, 5], VOILUTFunction=function)
    oracle = apply_voi_lut(picture, pydicom.dcmread(path)).astype(np.float32)
    expected = load(write_dicom(np.round((oracle - oracle.min()) / np.ptp(oracle) * 60000).astype(np.uint16)))
    torch.testing.assert_close(load(path), expected, atol=1e-4, rtol=0)


def test_rescale_comes_before_the_window(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    rescaled = write_dicom(picture, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=1600, WindowWidth=1201)
    plain = write_dicom(picture, "plain.dcm", WindowCenter=1300.25, WindowWidth=601)
    torch.testing.assert_close(load(rescaled), load(plain), atol=1e-3, rtol=0)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": -1200, "WindowWidth": 601}])
def test_falling_rescale_slope_inverts(write_dicom: WriteDicom, picture: np.ndarray, window: dict[str, int]) -> None:
    padded = picture.copy()
    padded[:, :20] = 4095
    falling = load(write_dicom(padded, RescaleSlope=-1, RescaleIntercept=0, PixelPaddingValue=4095, **window))
    padded[:, :20] = 0
    rising = {name: abs(value) for name, value in window.items()}
    plain = load(write_dicom(padded, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1", **rising))
    torch.testing.assert_close(falling, plain, atol=2e-3, rtol=0)  # LINEAR's half a grey lies on the other side


def test_rescale_that_is_no_number_is_refused(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    path = write_dicom(picture, RescaleSlope=1, RescaleIntercept=1.25)
    path.write_bytes(path.read_bytes().replace(b"1.25", b"nan "))
    with pytest.raises(RadiographError, match="intercept nan"):
        load(path)


def test_voi_lookup_table_wins_over_the_window(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    table = np.round(60000 * np.linspace(0, 1, 4096) ** 2)
    path = write_dicom(picture, VOILUTSequence=Sequence([lut(0, table)]), WindowCenter=1, WindowWidth=2)
    expected = load(write_dicom(table[picture].astype(np.uint16), "expected.dcm"))
    torch.testing.assert_close(load(path), expected, atol=1e-6, rtol=0)


def test_modality_lookup_table_is_applied(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    table = np.round(60000 * np.sqrt(np.linspace(0, 1, 4096)))
    path = write_dicom(picture, ModalityLUTSequence=Sequence([lut(0, table)]))
    expected = load(write_dicom(table[picture].astype(np.uint16), "expected.dcm"))
    torch.testing.assert_close(load(path), expected, atol=1e-6, rtol=0)


def test_window_that_hides_everything_is_ignored(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    hidden = load(write_dicom(picture, WindowCenter=60000, WindowWidth=2))
    torch.testing.assert_close(hidden, load(write_dicom(picture)))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_pixels_are_air(write_dicom: WriteDicom, picture: np.ndarray, photometric: str) -> None:
    padded = picture.copy()
    padded[:, :20] = 4095 if photometric == "MONOCHROME2" else 0
    image = load(
        write_dicom(padded, PhotometricInterpretation=photometric, PixelPaddingValue=int(padded[0, 0])), size=96
    )
    assert image[0, :, 8:27].max() == 0


def test_colour_captures_become_grey(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    grey = (picture // 16).astype(np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=-1)
    torch.testing.assert_close(load(write_dicom(colour, Modality="OT")), load(write_dicom(grey)))


def test_palette_becomes_grey(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    index = (picture // 16).astype(np.uint8)
    ramp = (np.arange(256) * 257).astype("<u2").tobytes()
    header: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        header[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        header[f"{colour}PaletteColorLookupTableData"] = ramp
    torch.testing.assert_close(load(write_dicom(index, **header)), load(write_dicom(index)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("letters", "turn"),
    [
        (["L", "F"], lambda p: p),
        (["R", "F"], np.fliplr),
        (["L", "H"], np.flipud),
        (["R", "H"], lambda p: p[::-1, ::-1]),
        (["F", "L"], np.transpose),
        (["H", "L"], lambda p: np.transpose(p)[:, ::-1]),
        (["F", "R"], lambda p: np.transpose(p)[::-1]),
    ],
)
def test_every_patient_orientation_hangs_the_same_way(
    write_dicom: WriteDicom, picture: np.ndarray, letters: list[str], turn: Callable[[np.ndarray], np.ndarray]
) -> None:
    turned = load(write_dicom(np.ascontiguousarray(turn(picture)), PatientOrientation=letters))
    torch.testing.assert_close(turned, load(write_dicom(picture)), atol=1e-6, rtol=0)


def test_pixel_aspect_is_kept_by_padding(write_dicom: WriteDicom) -> None:
    pixels = np.tile(np.arange(1, 65, dtype=np.uint16), (64, 1))
    image = load(write_dicom(pixels, PixelSpacing=[0.1, 0.2]), size=64)
    columns, rows = image[0].amax(dim=0) > 0, image[0].amax(dim=1) > 0
    assert (int(rows.sum()), int(columns.sum())) == (32, 63)  # the darkest column is air
    assert not rows[:16].any()
    assert not rows[48:].any()


@pytest.mark.parametrize("spacing", [[0, 0], [0.1, 0]])
def test_impossible_spacing_is_ignored(write_dicom: WriteDicom, picture: np.ndarray, spacing: list[float]) -> None:
    torch.testing.assert_close(load(write_dicom(picture, PixelSpacing=spacing)), load(write_dicom(picture)))


@pytest.mark.parametrize(
    ("header", "step", "setting"),
    [
        ({"Modality": "CT"}, "modality", {"modalities": None}),
        ({"PresentationIntentType": "FOR PROCESSING"}, "modality", {"allow_for_processing": True}),
        ({"ViewPosition": "LL"}, "view", {"allow_lateral": True}),
        ({"BurnedInAnnotation": "YES"}, "burned-in text", {"allow_burned_in_annotation": True}),
    ],
)
def test_what_a_hospital_would_not_use_is_refused_unless_allowed(
    write_dicom: WriteDicom, picture: np.ndarray, header: dict[str, str], step: str, setting: dict[str, Any]
) -> None:
    path = write_dicom(picture, **header)
    with pytest.raises(RadiographError) as refusal:
        load(path)
    assert refusal.value.step == step
    assert next(iter(setting)) in refusal.value.advice
    torch.testing.assert_close(load(path, **setting), load(write_dicom(picture)))


def test_lateral_view_code_is_recognised(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    view = Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = "399198007", "SCT", "right lateral"
    with pytest.raises(RadiographError, match="lateral"):
        load(write_dicom(picture, ViewCodeSequence=Sequence([view])))


def test_multi_frame_is_refused_or_its_first_frame_used(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    frames = np.stack([picture, picture[::-1]])
    path = write_dicom(picture, NumberOfFrames=2, PixelData=frames.tobytes())
    with pytest.raises(RadiographError, match="2 frames"):
        load(path)
    torch.testing.assert_close(load(path, allow_first_frame=True), load(write_dicom(picture)))


def test_overlay_bits_beyond_bits_stored_are_dropped(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    drawn = picture.copy()
    drawn[10:20] |= 0x8000
    image = load(write_dicom(drawn, BitsStored=12, HighBit=11))
    torch.testing.assert_close(image, load(write_dicom(picture)))


def test_constant_image_is_refused(write_dicom: WriteDicom) -> None:
    with pytest.raises(RadiographError, match="same value"):
        load(write_dicom(np.full((40, 40), 7, np.uint16)))


def test_header_that_claims_too_much_is_refused(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    with pytest.raises(RadiographError, match="60000 x 60000"):
        load(write_dicom(picture, Rows=60000, Columns=60000))


@pytest.mark.parametrize("keep", [0, 100, 140, 400, 2000, 15000])
def test_truncated_file_is_refused(write_dicom: WriteDicom, picture: np.ndarray, keep: int) -> None:
    path = write_dicom(picture)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RadiographError):
        load(path)


@pytest.mark.filterwarnings("ignore")
def test_raw_greys_are_what_pydicom_decodes(pydicom_files: list[Path], write_dicom: WriteDicom) -> None:
    """Files whose pixels are taken as they lie, against pydicom's own decoding of them."""
    signed = write_dicom(np.arange(-512, 512, dtype=np.int16).reshape(32, 32), BitsStored=12, HighBit=11)
    drawn = write_dicom(np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32), "u.dcm", BitsStored=12, HighBit=11)
    compared = 0
    for path in [signed, drawn, *pydicom_files]:
        try:
            dataset = dicom._open(path)
            raw = dicom._raw_greys(dataset)
        except (RadiographError, AttributeError):
            continue
        if raw is not None:
            decoded = dicom._in_range(pydicom.dcmread(path).pixel_array, dataset)  # pydicom 2.4 leaves that to us
            np.testing.assert_array_equal(dicom._in_range(raw, dataset), decoded)
            compared += 1
    assert compared > 10


def test_missing_codec_names_the_extra(pydicom_files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(p for p in pydicom_files if p.name == "RG1_J2KR.dcm")
    monkeypatch.setattr(dicom, "_lacks_codec", lambda syntax: syntax == JPEG2000Lossless)
    path_of_decoder = "get_decoder" if dicom.get_decoder else "_in_range"

    def fail(*_: object) -> None:
        raise RuntimeError("Unable to decompress")

    monkeypatch.setattr(dicom, path_of_decoder, fail)
    with pytest.raises(RadiographError, match=r"JPEG 2000.*pip install 'msdino-monai\[dicom-codecs\]'"):
        dicom.read_dicom(path)


def test_real_chest_is_upright_with_dark_air_and_dark_lungs(chest: Path) -> None:
    image = load(chest, size=224)[0]
    shoulders, lungs = image[2:8, 4:20], image[90:130, 40:75]
    mediastinum, abdomen = image[60:120, 105:120], image[200:222, 60:160]
    assert float(shoulders.mean()) < 0.2, "air beside the neck is dark"
    assert float(lungs.mean()) + 0.2 < float(mediastinum.mean()), "lungs are darker than the mediastinum"
    assert float(lungs.mean()) + 0.2 < float(abdomen.mean()), "lungs are above, the abdomen below"
    right_base, left_base = image[130:160, 75:95], image[130:160, 125:145]
    assert float(left_base.mean()) > float(right_base.mean()), "the heart lies at the picture's right"


@pytest.mark.parametrize("twin", ["RG1_J2KR.dcm", "RG1_J2KI.dcm", "RG1_UNCI.dcm"])
def test_real_chest_agrees_with_its_compressed_twins(pydicom_files: list[Path], chest: Path, twin: str) -> None:
    other = load(next(path for path in pydicom_files if path.name == twin), size=224)
    torch.testing.assert_close(other, load(chest, size=224), atol=0 if twin == "RG1_J2KR.dcm" else 0.02, rtol=0)


@pytest.mark.parametrize("everything", [False, True])
def test_all_of_pydicoms_files_are_read_or_refused_with_a_reason(pydicom_files: list[Path], everything: bool) -> None:
    transform = LoadRadiograph(
        32,
        **({"modalities": None, "allow_first_frame": True, "allow_lateral": True} if everything else {}),
    )
    usable, refused = set(), {}
    for path in pydicom_files:
        try:
            image = transform(path)
        except RadiographError as error:
            refused[path.name] = error
        else:
            usable.add(path.name)
            assert image.shape == (1, 32, 32)
            assert 0 <= float(image.min()) < float(image.max()) <= 1
    assert all(error.step and error.advice and "\n" not in str(error) for error in refused.values())
    expected = {"RG1_UNCR.dcm", "RG3_J2KI.dcm", "SC_rgb.dcm", "vlut_04.dcm", "mlut_18.dcm", "SC_rgb_rle.dcm"}
    assert expected <= usable
    assert {"no_meta.dcm", "rtplan.dcm", "DICOMDIR"} <= set(refused)
    if everything:
        assert {"CT_small.dcm", "MR_small_jpeg_ls_lossless.dcm", "emri_small_RLE.dcm", "JPEG-LL.dcm"} <= usable
        assert "MR_truncated.dcm" in refused


def test_reader_asks_for_nothing_that_names_the_patient(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    dataset = dicom._open(write_dicom(picture))
    assert "hospital-number-77" not in str(dataset)
    assert "Doe" not in str(dataset)
    assert not any("Patient" in keyword and keyword != "PatientOrientation" for keyword in dicom._KEYWORDS)


def test_patient_is_noted_only_on_request_and_shown_nowhere(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    path = write_dicom(picture)
    radiograph = dicom.read_dicom(path, with_patient=True)
    assert radiograph.patient == "hospital-number-77"
    assert "hospital-number-77" not in repr(radiograph)
    assert "Doe" not in str(dicom._open(path, with_patient=True))
    assert dicom.read_dicom(path).patient == ""
    assert "patient" not in LoadRadiograph(48)(path).meta


def test_rules_are_not_bent_by_an_empty_modality(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    path = write_dicom(picture, Modality=None)
    assert dicom.read_dicom(path).pixels.shape == (96, 80)
    with pytest.raises(RadiographError, match="not a radiograph"):
        dicom.read_dicom(path, Rules(modalities=("CR",)))


def test_rescale_comes_before_the_voi_lookup_table(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    table = np.round(60000 * np.linspace(0, 1, 4096) ** 2)
    path = write_dicom(picture, RescaleSlope=0.5, RescaleIntercept=10, VOILUTSequence=Sequence([lut(0, table)]))
    indices = np.round(picture * 0.5 + 10).astype(int)
    expected = load(write_dicom(table[indices].astype(np.uint16), "expected.dcm"))
    torch.testing.assert_close(load(path), expected, atol=1e-3, rtol=0)


def test_bits_in_an_odd_place_are_refused_rather_than_cut(write_dicom: WriteDicom, picture: np.ndarray) -> None:
    with pytest.raises(RadiographError, match="BitsStored 12 with HighBit 15"):
        load(write_dicom(picture << 4, BitsStored=12, HighBit=15))


@pytest.mark.parametrize(
    ("written", "dtype", "meant"), [(63536, "i2", -2000), (-2000, "i2", -2000), (63536, "u2", 63536), (-1, "u1", 255)]
)
def test_padding_value_may_be_the_unsigned_twin(written: int, dtype: str, meant: int) -> None:
    assert dicom._as_stored(written, np.dtype(dtype)) == meant


@pytest.mark.parametrize("letters", [["", ""], ["L", ""], ["X", "F"], ["L"]])
def test_orientation_that_says_nothing_changes_nothing(
    write_dicom: WriteDicom, picture: np.ndarray, letters: list[str]
) -> None:
    torch.testing.assert_close(load(write_dicom(picture, PatientOrientation=letters)), load(write_dicom(picture)))


@pytest.mark.parametrize(
    "header",
    [
        {"PixelSpacing": [1e300, 1e-300]},
        {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4464},
        {"WindowCenter": [1, 2, 3], "WindowWidth": [0, 1, 2]},
        {"BitsStored": None},
        {"PhotometricInterpretation": "NONSENSE"},
        {"SamplesPerPixel": 7},
        {"Rows": [96, 3]},
    ],
    ids=str,
)
def test_nonsense_in_a_header_never_stops_a_run(
    write_dicom: WriteDicom, picture: np.ndarray, header: dict[str, Any]
) -> None:
    path, refusals = write_dicom(picture, **header), []
    try:
        assert torch.isfinite(load(path)).all()
    except RadiographError as error:
        refusals.append(error)
    assert all(error.reason and error.advice for error in refusals)
