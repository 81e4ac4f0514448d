from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd

from msdino_monai.finetuning.volumes import FitPlaned
from msdino_monai.finetuning.volumes.plane import fitted_size


def volume(shape: tuple[int, int, int], affine: np.ndarray) -> MetaTensor:
    x, y, z = torch.meshgrid(*(torch.linspace(0, 1, length) for length in shape), indexing="ij")
    return MetaTensor((0.5 * x + 0.3 * y + 0.2 * z)[None], affine=torch.from_numpy(affine))


def test_slices_keep_the_bodys_proportions() -> None:
    assert fitted_size((100, 50), (1.0, 1.0), 64) == (64, 32)
    assert fitted_size((100, 50), (1.0, 2.0), 64) == (64, 64)
    assert fitted_size((2, 400), (1.0, 1.0), 64) == (1, 64)


@pytest.mark.parametrize("shape", [(80, 61, 7), (20, 33, 4)])
def test_what_was_fitted_comes_back_on_its_own_grid(shape: tuple[int, int, int]) -> None:
    affine = np.array([[0, -1.5, 0, 9], [1.1, 0, 0, -7], [0, 0, 4, 3], [0, 0, 0, 1]], dtype=np.float64)
    steps = Compose([Orientationd("image", axcodes="PLS", labels=None), FitPlaned("image", 48)])
    image = volume(shape, affine)
    seen = steps({"image": image})
    assert seen["image"].shape == (1, 48, 48, shape[2])
    back = Invertd("pred", steps, orig_keys="image", nearest_interp=False)(
        {**seen, "pred": MetaTensor(seen["image"].as_tensor().clone())}
    )["pred"]
    assert back.shape == image.shape
    np.testing.assert_allclose(back.affine, affine)
    inside = (slice(None), slice(3, -3), slice(3, -3))
    torch.testing.assert_close(back.as_tensor()[inside], image.as_tensor()[inside], atol=0.02, rtol=0)


def test_affine_of_the_square_points_at_the_same_place() -> None:
    """A bright block's middle has the same millimetres before and after."""
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    affine[:3, 3] = (5, -4, 2)
    values = torch.zeros(1, 40, 60, 5)
    values[:, 10:20, 30:44, 2] = 1
    image = MetaTensor(values, affine=torch.from_numpy(affine))
    square = FitPlaned("image", 64)({"image": image})["image"]

    def middle(tensor: MetaTensor) -> np.ndarray:
        weights = tensor.as_tensor()[0].numpy()
        places = np.stack(np.meshgrid(*(np.arange(n) for n in weights.shape), indexing="ij"), axis=-1)
        index = (places * weights[..., None]).sum(axis=(0, 1, 2)) / weights.sum()
        return np.asarray(tensor.affine.numpy() @ [*index, 1])

    np.testing.assert_allclose(middle(square), middle(image), atol=0.1)


def test_masks_keep_their_numbers() -> None:
    mask = MetaTensor(torch.randint(0, 3, (1, 30, 44, 3), generator=torch.Generator().manual_seed(0)).float())
    fitted = FitPlaned("label", 37, mode="nearest")({"label": mask})["label"]
    assert set(torch.unique(fitted.as_tensor()).tolist()) == {0.0, 1.0, 2.0}


def test_input_stays_as_it_was() -> None:
    image = volume((10, 12, 3), np.eye(4))
    FitPlaned("image", 16)({"image": image})
    assert image.applied_operations == []
    assert image.shape == (1, 10, 12, 3)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode must be one of"):
        FitPlaned("image", 16, mode="cubic")
