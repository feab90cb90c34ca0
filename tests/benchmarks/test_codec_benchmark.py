"""The plain codec that the benchmark compares with, and how results are compared."""

import json

import jax
import numpy as np
import pytest

from benchmarks import codec
from models.spectrostream import SpectroStreamConfig

# Widths above and below a vector, so that every form of the fast layers takes part.
CONFIG = SpectroStreamConfig(
  num_features=6,
  encoder_widths=(4, 20, 8, 8, 8, 8, 8, 8),
  decoder_widths=(8, 8, 20, 8, 8, 8, 8, 4),
)


def test_fast_and_plain_codec_agree():
  params, inputs = codec.random_params(CONFIG), codec.random_inputs(CONFIG, 3)
  # A ragged end, which takes an odd number of frames into the strides over time.
  inputs['encode'] = inputs['encode'][:, :-1000]
  for case in codec.CASES:
    ours = np.asarray(jax.jit(codec.OURS[case])(params, inputs[case]))
    plain = np.asarray(jax.jit(codec.PLAIN[case])(params, inputs[case]))
    assert codec.difference(plain, ours) < 1e-5
    assert np.std(plain.astype(float)) > 0


def test_difference_is_relative_or_a_share():
  assert codec.difference(np.array([4.0, -8.0]), np.array([4.0, -7.0])) == 1 / 8
  assert codec.difference(np.array([1, 2, 3, 4]), np.array([1, 2, 9, 4])) == 1 / 4
  with pytest.raises(ValueError, match=r'\(2,\) and \(3,\)'):
    codec.difference(np.zeros(2), np.zeros(3))


class _Side:
  """Gives fixed results and times."""

  def __init__(self, result, cpu_secs):
    self._result, self._cpu_secs = np.array(result), iter(cpu_secs)

  def prepare(self, case):
    figures = {'compile_secs': 1.0, 'compile_cpu_secs': 2.0, 'flops': 3e9, 'temporary_bytes': 2**21}
    return self._result, figures

  def time(self, case):
    return {'wall_secs': 5.0, 'cpu_secs': next(self._cpu_secs)}


def test_ratio_is_that_of_medians_and_wrong_results_are_not_timed(capsys):
  sides = {'ours': _Side([1.0], [1.0, 9.0, 2.0]), 'other': _Side([1.0], [4.0, 4.0, 7.0])}
  codec.compare('encode', sides, 3, audio_secs=2.0)
  ours, other = capsys.readouterr().out.splitlines()
  assert '"cpu_secs": 2.0' in ours and '"gflop_per_audio_sec": 1.5' in ours
  assert '"ours_to_it": 0.5' in other
  with pytest.raises(ValueError, match='other differs from ours by 0.5'):
    codec.compare('encode', {'ours': _Side([1.0], []), 'other': _Side([2.0], [])}, 1, 1.0)


def test_streams_of_a_long_recording_are_what_its_parts_are(capsys, monkeypatch):
  monkeypatch.setattr(codec, '_PIECE_FRAMES', 100)
  codec.run_hour(minutes=16 / 60)
  line = json.loads(capsys.readouterr().out)
  assert line['audio_secs'] == 16
  assert line['codes_that_differ'] == 0
  assert line['audio_difference'] < 1e-5
  assert line['resident_mib'] > 0 and 0 <= line['growth_mib'] < 500
