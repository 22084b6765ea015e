import tracemalloc

import numpy as np
import pytest

from store.errors import ConfigError, SchemaMismatch
from textcam.arrays import as_floats, check_finite, check_shape, unit_rows


def test_unit_rows_of_a_3_4_5_triangle_and_of_nothing():
    assert unit_rows([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]]).tolist() == [
        [np.float32(0.6), np.float32(0.8)],
        [0.0, 0.0],
        [0.0, -1.0],
    ]


def test_unit_rows_along_another_axis():
    columns = unit_rows([[3.0, 0.0], [4.0, 0.0]], axis=0)
    assert columns.tolist() == [[np.float32(0.6), 0.0], [np.float32(0.8), 0.0]]


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_unit_rows_neither_over_nor_underflow(scale):
    np.testing.assert_allclose(unit_rows(np.array([3.0, 4.0]) * scale), [0.6, 0.8], rtol=1e-6)


def test_unit_rows_of_an_empty_array():
    assert unit_rows(np.zeros((0, 5))).shape == (0, 5)


def test_unit_rows_holds_a_few_blocks_beside_its_result():
    rows = np.random.default_rng(0).standard_normal((20_000, 256)).astype(np.float32)
    tracemalloc.start()
    unit = unit_rows(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.6 * rows.nbytes
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(unit, wide / np.linalg.norm(wide, axis=1)[:, None], rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 70_000, 5), (70_000, 3, 5), (300_000,)])
@pytest.mark.parametrize("axis", [0, -1])
def test_unit_rows_of_many_blocks_is_that_of_one(shape, axis):
    values = np.random.default_rng(1).standard_normal(shape)
    expected = values / np.sqrt(np.square(values).sum(axis=axis, keepdims=True))
    np.testing.assert_allclose(unit_rows(values, axis=axis), expected, rtol=1e-6)
    assert unit_rows(values.T, axis=axis).shape == values.T.shape


def test_wrong_axes_are_refused_by_name_even_where_sizes_are_equal():
    check_shape("maps", np.zeros((2, 3, 5)), (None, 3, 5))
    with pytest.raises(ConfigError, match=r"weights has shape \(3, 2\), expected \(2, any\)"):
        check_shape("weights", np.zeros((3, 2)), (2, None))
    with pytest.raises(ConfigError, match="expected"):
        check_shape("weights", np.zeros(3), (3, None))


def test_as_floats_coerces_once():
    made = as_floats("weights", [[1, 2, 3]], (1, 3))
    assert made.dtype == np.float32
    assert made.tolist() == [[1.0, 2.0, 3.0]]


def test_nan_is_named_by_its_place():
    values = np.zeros((3, 5))
    check_finite("directions", values)
    values[2, 1] = np.nan
    with pytest.raises(SchemaMismatch, match=r"directions\[2, 1\]"):
        check_finite("directions", values)
