"""Small checks that readers share: image headers, finite points, order of arrival."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.core.errors import PayloadError
from perception.core.messages import EgoState
from perception.sources.arrival import Pending, arrival_span, in_arrival_order
from perception.sources.payloads import finite_rows, image_size, point_offsets

PATH = Path("somewhere/file")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]])
def test_image_size_comes_from_the_header(suffix: str, options: list[int]) -> None:
    image = np.zeros((30, 50, 3), dtype=np.uint8)
    data = cv2.imencode(suffix, image, options if suffix == ".jpg" else [])[1].tobytes()
    assert image_size(PATH, data) == (50, 30)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x10", b"\x89PNG", b"\xff\xd8" + bytes(50)])
def test_a_header_without_size_is_refused(data: bytes) -> None:
    with pytest.raises(PayloadError, match="somewhere/file"):
        image_size(PATH, data)


def test_only_finite_points_stay() -> None:
    rows = np.array([[1.0, 2, 0], [np.nan, 0, 0], [0, np.inf, 0], [0, 0, 1e30], [3, 4, 5]])
    assert finite_rows(PATH, rows).tolist() == [[1, 2, 0], [3, 4, 5]]
    for none_left in (rows[1:4], rows[:0]):
        with pytest.raises(PayloadError, match="finite"):
            finite_rows(PATH, none_left)


def test_point_times_far_from_their_stamp_are_refused() -> None:
    assert point_offsets(PATH, np.array([-1e8, 0.4])).tolist() == [-100_000_000, 0]
    with pytest.raises(PayloadError, match="60 s"):
        point_offsets(PATH, np.array([0.0, -60e9]))


def _state(arrival_ns: int) -> EgoState:
    return EgoState(capture_ns=0, arrival_ns=arrival_ns, world_SE3_ego=None)


def test_late_payloads_take_their_place_and_few_are_loaded_ahead() -> None:
    loaded: list[int] = []

    def pending(earliest: int, *arrivals: int) -> Pending:
        def load() -> list[EgoState]:
            loaded.append(earliest)
            return [_state(arrival) for arrival in arrivals]

        return Pending(earliest_ns=earliest, latest_ns=max(arrivals), load=load)

    items = [pending(30, 30), pending(10, 35, 11), pending(20, 20), pending(40, 40)]
    assert arrival_span(items) == (10, 40)
    messages = in_arrival_order(items)
    assert next(messages).arrival_ns == 11
    assert loaded == [10]
    assert [message.arrival_ns for message in messages] == [20, 30, 35, 40]
    assert loaded == [10, 20, 30, 40]
