"""Calibration: a model that knows its own odds has no error, one that overstates them has that much."""

import xml.etree.ElementTree as ET

import pytest
import torch

from dllm_reference_model import tasks
from dllm_reference_model.calibration import BINS, Bin, _bins, expected_error, merged, reliability
from dllm_reference_model.charts import curves, diagrams
from dllm_reference_model.data import Mix
from dllm_reference_model.load import tiny
from dllm_reference_model.trainer import Recipe


@pytest.mark.parametrize("overstated", [0.0, 0.1, 0.25])
def test_the_error_is_what_is_overstated(overstated: float) -> None:
    noise = torch.Generator().manual_seed(0)
    truth = 0.7 * torch.rand(200_000, generator=noise)
    right = torch.rand(200_000, generator=noise) < truth
    bins = _bins(truth + overstated, right)
    assert sum(one.count for one in bins) == 200_000 and len(bins) == BINS
    assert expected_error(bins) == pytest.approx(overstated, abs=0.006)


def test_the_bins_of_all_tasks_together() -> None:
    first, second = [Bin(3, 0.2, 0.5), Bin(0, 0.0, 0.0)], [Bin(1, 0.6, 0.1), Bin(0, 0.0, 0.0)]
    assert merged({"a": first, "b": second}) == [Bin(4, pytest.approx(0.3), pytest.approx(0.4)), Bin(0, 0.0, 0.0)]


def test_the_shipped_model_is_roughly_calibrated() -> None:
    bins = reliability(tiny(), tasks.sort, Recipe().mix, 64)
    assert sum(one.count for one in bins) > 300
    assert expected_error(bins) < 0.15
    again = reliability(tiny(), tasks.sort, Recipe().mix, 64)
    assert bins == again


def test_a_model_without_the_tokenizer_is_refused() -> None:
    model = tiny()
    model.tokenizer = None
    with pytest.raises(ValueError, match="needs the tokenizer of this package"):
        reliability(model, tasks.sort, Mix({"sort": 1.0}), 4)


def test_the_pictures_hold_what_they_show() -> None:
    picture = ET.fromstring(curves({"loss <1>": {"a&b": [(0.0, 1.0), (2.0, 0.5)]}}, "tokens"))
    text = "".join(picture.itertext())
    assert "loss <1>" in text and "a&b" in text and "tokens" in text
    line = next(one for one in picture.iter() if one.tag.endswith("polyline"))
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line.attrib["points"].split())
    assert x0 < x1 and y0 < y1  # falls to the right: y grows downwards
    dots = list(ET.fromstring(diagrams({"all": [Bin(3, 0.2, 0.5), Bin(0, 0, 0)]})).iter())
    assert sum(one.tag.endswith("circle") for one in dots) == 1
