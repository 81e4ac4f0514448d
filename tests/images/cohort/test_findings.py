"""Masks and labels tell the same story as the anatomy."""

import numpy as np
import pytest

from msdino_monai.images.cohort import FINDINGS
from msdino_monai.images.cohort.anatomy import draw_patient
from msdino_monai.images.cohort.plan import Visit
from msdino_monai.images.cohort.radiograph import Radiograph, make_radiograph

WITH_LESIONS = [name for name in FINDINGS if name != "cardiomegaly"]


def radiograph_of(patient: int, *findings: str, site: int = 0) -> Radiograph:
    return make_radiograph(Visit(9, site, patient, 0, findings), 160)


@pytest.mark.parametrize("finding", WITH_LESIONS)
@pytest.mark.parametrize("site", range(3))
def test_a_labelled_lesion_is_in_the_mask_inside_the_lungs(finding: str, site: int) -> None:
    for patient in range(4):
        radiograph = radiograph_of(patient, finding, site=site)
        assert set(np.unique(radiograph.lesions)) == {0, 1 + FINDINGS.index(finding)}
        assert (radiograph.lungs[radiograph.lesions > 0] > 0).all()


@pytest.mark.parametrize("findings", [(), ("cardiomegaly",)])
def test_without_a_lesion_the_mask_is_empty(findings: tuple[str, ...]) -> None:
    assert not radiograph_of(0, *findings).lesions.any()


@pytest.mark.parametrize("patient", range(6))
def test_no_lesion_hides_another(patient: int) -> None:
    found = set(np.unique(radiograph_of(patient, *FINDINGS).lesions))
    assert found == {0, *(1 + FINDINGS.index(name) for name in WITH_LESIONS)}


@pytest.mark.parametrize("site", range(3))
def test_both_lungs_are_there_the_right_one_on_the_left(site: int) -> None:
    lungs = radiograph_of(1, site=site).lungs
    assert set(np.unique(lungs)) == {0, 1, 2}
    right, left = (np.nonzero(lungs == side)[1].mean() for side in (1, 2))
    assert right < left
    assert 0.10 < (lungs > 0).mean() < 0.55


@pytest.mark.parametrize("patient", range(5))
def test_bilateral_opacities_are_in_both_lungs(patient: int) -> None:
    radiograph = radiograph_of(patient, "bilateral_opacities")
    assert set(np.unique(radiograph.lungs[radiograph.lesions > 0])) == {1, 2}


@pytest.mark.parametrize("finding", ["consolidation", "effusion", "pneumothorax", "nodule"])
def test_other_lesions_are_on_one_side(finding: str) -> None:
    radiograph = radiograph_of(2, finding)
    assert len(np.unique(radiograph.lungs[radiograph.lesions > 0])) == 1


@pytest.mark.parametrize("patient", range(5))
def test_a_nodule_is_small_and_an_effusion_lies_low(patient: int) -> None:
    nodule = radiograph_of(patient, "nodule")
    spacing = nodule.pixel_spacing / nodule.style.magnification
    assert (nodule.lesions > 0).sum() * spacing**2 < np.pi * 17.0**2
    effusion = radiograph_of(patient, "effusion")
    rows, _ = np.nonzero(effusion.lesions)
    assert rows.mean() > np.nonzero(effusion.lungs)[0].mean()


@pytest.mark.parametrize("patient", range(5))
def test_a_pneumothorax_reaches_the_top_of_its_lung(patient: int) -> None:
    radiograph = radiograph_of(patient, "pneumothorax")
    rows, columns = np.nonzero(radiograph.lesions)
    side = radiograph.lungs[rows[0], columns[0]]
    assert rows.min() <= np.nonzero(radiograph.lungs == side)[0].min() + 2


def test_cardiomegaly_is_a_heart_wider_than_half_the_chest() -> None:
    for seed in range(200):
        usual = draw_patient(np.random.default_rng(seed), large_heart=False)
        large = draw_patient(np.random.default_rng(seed), large_heart=True)
        assert usual.cardiothoracic_ratio() < 0.5
        assert large.cardiothoracic_ratio() > 0.55


def test_a_follow_up_is_the_same_person_in_another_stance() -> None:
    first, second = (make_radiograph(Visit(9, 0, 3, visit, ()), 96) for visit in (0, 1))
    assert first.patient == second.patient
    assert (first.exposure.stored != second.exposure.stored).mean() > 0.5
    overlap = ((first.lungs > 0) & (second.lungs > 0)).sum() / (first.lungs > 0).sum()
    assert overlap > 0.7
