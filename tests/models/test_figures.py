"""Figures in messages: the smallest differences are seen, and no rounding says the contrary."""

import math

import pytest

from models import figures


@pytest.mark.parametrize(
  'value, limit, digits, text',
  [
    (3.996, 4.0, 2, '3.996'), (3.9, 4.0, 2, '3.90'), (4.0, 4.0, 2, '4.00'),
    (4 - 1e-9, 4.0, 2, '3.999999999'), (-math.inf, -50.0, 1, '-inf'), (0.4, 0.6, 0, '0'),
    (3999.7, 4000.0, 0, '3999.7'), (math.nan, 1.0, 2, 'nan'),
  ],
)  # fmt: skip
def test_figures_differ_where_the_numbers_do(value, limit, digits, text):
  assert figures.apart(value, limit, digits) == text
  assert figures.percent_apart(0.0100004, 0.01, 1) == '1.00004%'


def test_a_number_outside_of_a_range_does_not_read_as_its_end():
  assert [figures.exact(x) for x in (1.0000001, 2, 0.5, 1e22)] == ['1.0000001', '2', '0.5', '1e+22']


def test_short_times_and_rare_events_are_not_rounded_to_nothing():
  assert [figures.hours(secs) for secs in (0, 0.004, 4, 90, 4500, 36e5)] == [
    '0 s', '0.004 s', '4 s', '1.5 min', '1.25 h', '1,000.00 h',
  ]  # fmt: skip
  assert [figures.times(n) for n in (0.004, 7.52, 640, 64e3)] == ['0.004', '7.5', '640', '64,000']


@pytest.mark.parametrize('needed, text', [(0.124, '0.13'), (0.12, '0.12'), (1.01, '1.1'), (0, '0'),
                                          (99.5, '1e+02'), (3 * 0.1, '0.3')])  # fmt: skip
def test_what_is_asked_for_suffices(needed, text):
  assert figures.at_least(needed) == text
  assert float(text) >= needed - 1e-12
