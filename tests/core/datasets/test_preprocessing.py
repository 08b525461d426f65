import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from metaphase.core.datasets import preprocessing


@pytest.mark.parametrize(("side", "size"), [(8, 4), (28, 14), (28, 9), (28, 28), (8, 28), (28, 32)])
def test_resizing_is_torchs_average_pooling_and_bilinear_interpolation(side, size):
    pixels = torch.randint(0, 256, (7, 3, side, side), generator=torch.Generator().manual_seed(0))
    for channels in (1, 3):
        ours = (
            preprocessing.resized(pixels.to(torch.uint8), 255, channels, size) / preprocessing.ONE
        )
        plain = pixels.double() / 255
        if channels == 1:
            plain = plain.mean(dim=1, keepdim=True)
        if size <= side:
            theirs = F.adaptive_avg_pool2d(plain, size)
        else:
            theirs = F.interpolate(plain, size=(size, size), mode="bilinear")
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=0.5001 / preprocessing.ONE)


def test_mean_and_deviation_are_exact():
    """To the last place, of numbers whose squares a float32 sum would lose."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(60_000, 65_536, (2500, 2, 3, 3), generator=generator, dtype=torch.int32)
    for channel, (mean, deviation) in enumerate(preprocessing.mean_and_deviation(x)):
        numbers = [Fraction(n) for n in x[:, channel].flatten().tolist()]
        exact = sum(numbers) / len(numbers)
        variance = sum((n - exact) ** 2 for n in numbers) / (len(numbers) - 1)
        assert mean == float(exact)
        assert deviation == math.sqrt(variance)
