from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ebm_export.calibration.report.pictures import heat_strips, image_sheet, look_of


def opened(uri: str) -> np.ndarray:
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


@pytest.mark.parametrize(
    "shape,look",
    [
        ((1, 8, 8), "images"),
        ((3, 32, 32), "images"),
        ((2, 8, 8), "strips"),
        ((1, 2, 2), "strips"),
        ((2,), "points"),
        ((1, 2), "points"),
        ((1,), "numbers"),
        ((), "numbers"),
        ((7,), "strips"),
        ((20, 2), "strips"),
    ],
)
def test_look(shape: tuple[int, ...], look: str) -> None:
    assert look_of(shape) == look


class TestImageSheet:
    def test_images_stand_in_rows_with_gaps(self) -> None:
        samples = np.stack([np.full((1, 4, 4), value, np.float32) for value in (-1, 0, 1, 7, -7)])
        sheet = opened(image_sheet(samples, -1, 1, columns=3))
        assert sheet.shape == (9, 14, 2)
        assert [sheet[0, left, 0] for left in (0, 5, 10)] == [0, 128, 255]
        assert [sheet[5, left, 0] for left in (0, 5)] == [255, 0]  # clipped
        assert sheet[0, 4, 1] == 0 and sheet[0, 3, 1] == 255  # a gap shows the page
        assert (sheet[5:, 10:, 1] == 0).all()  # no sixth image

    def test_colours_keep_their_channels(self) -> None:
        samples = np.zeros((1, 3, 4, 5), np.float32)
        samples[0, 1] = 1
        sheet = opened(image_sheet(samples, 0, 1))
        np.testing.assert_array_equal(sheet[0, 0], [0, 255, 0, 255])

    def test_what_is_not_finite_is_black(self) -> None:
        assert opened(image_sheet(np.full((1, 1, 4, 4), np.nan, np.float32), 0, 1))[0, 0, 0] == 0


class TestHeatStrips:
    def test_blue_below_red_above(self) -> None:
        sheet = opened(heat_strips(np.array([[-1, 0, 1]], np.float32), -1, 1))
        assert sheet.shape == (1, 3, 3)
        blue, middle, red = sheet[0].astype(int)
        assert blue[2] > blue[0] and red[0] > red[2] and abs(middle[0] - middle[2]) < 8

    def test_only_the_first_numbers(self) -> None:
        assert opened(heat_strips(np.zeros((2, 10, 10), np.float32), -1, 1)).shape == (2, 64, 3)
