"""What is said while a run goes on."""

from pipelines.spread import Progress
from service.progress import _counted


def test_rate_and_time_left_are_of_this_call_alone() -> None:
    going = Progress("extract", 3, 9, images=500, errors=4, planned=904, resumed=404, bound="decoding")
    assert _counted(going, 10.0) == ", 500 images, 10/s, 40.0 s left, 4 errors, bound by decoding"


def test_at_the_end_nothing_is_left() -> None:
    ended = Progress("extract", 9, 9, images=900, errors=4, planned=904, bound="device")
    assert _counted(ended, 100.0) == ", 900 images, 9.0/s, 4 errors"


def test_nothing_is_said_of_what_is_not_counted() -> None:
    assert _counted(Progress("audit", 0, 1), 3.0) == ""
    assert _counted(Progress("extract", 0, 2, images=7, planned=9, resumed=7), 3.0) == ", 7 images"
