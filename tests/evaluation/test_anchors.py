"""Degradations, the order of anchors, and adherence."""

import numpy as np
import pytest

from evaluation import adherence, anchors, codec_metrics
from models.spec import LiveMusicSpec


def test_shuffled_chunks_hold_the_same_chunks_in_another_order():
  audio = np.arange(22, dtype=np.float32).reshape(11, 2)
  for seed in range(20):
    shuffled = anchors.shuffled_chunks(audio, 5, seed)
    np.testing.assert_array_equal(shuffled, np.concatenate([audio[5:10], audio[:5]]))
  with pytest.raises(ValueError, match='2 are needed'):
    anchors.shuffled_chunks(audio, 6, 0)


def test_noise_has_the_level_of_each_channel_and_the_ratio_asked_for():
  audio = np.random.default_rng(0).normal(size=[100_000, 2]) * [0.1, 0.02]
  noise = anchors.noise_like(audio, 1)
  np.testing.assert_allclose(noise.std(0), [0.1, 0.02], rtol=0.02)
  assert abs(np.corrcoef(noise.T)[0, 1]) < 0.02
  noisy = anchors.with_noise(audio, 20, 1)
  np.testing.assert_allclose((noisy - audio).std(0), [0.01, 0.002], rtol=0.02)


def test_codec_metrics_order_clean_mild_and_strong():
  t = np.arange(24_000) / 48_000
  clean = np.stack([np.sin(2 * np.pi * 440 * t), np.sin(2 * np.pi * 660 * t)], -1) * 0.4
  rows = {
    name: codec_metrics.reconstruction_metrics(clean, audio, 48_000)
    for name, audio in {
      'mild': anchors.with_noise(clean, 40, 0),
      'strong': anchors.with_noise(clean, 10, 0),
      'noise': anchors.noise_like(clean, 0),
    }.items()
  }
  for metric, lower in (('mel_distance_db', True), ('stft_distance', True), ('si_sdr_db', False)):
    values = {name: row[metric] for name, row in rows.items()}
    assert not anchors.misordered(values, ['mild', 'strong', 'noise'], lower_is_better=lower)


def test_misordered_names_the_wrong_pairs():
  values = {'a': 1.0, 'b': 3.0, 'c': 2.0, 'd': np.nan, 'e': 2.0}
  order = ['a', 'b', 'c', 'd', 'e', 'absent']
  assert anchors.misordered(values, order, lower_is_better=True) == [('b', 'c'), ('c', 'e')]
  assert anchors.misordered(values, ['b', 'c', 'a'], lower_is_better=False) == []


def test_random_codes_are_even():
  spec = LiveMusicSpec()
  codes = anchors.random_codes(5000, spec, 0)
  assert codes.shape == (5000, 16)
  assert codes.min() == 0 and codes.max() == 1023
  assert codes.mean() == pytest.approx(511.5, abs=5)


def test_cosine_by_hand():
  assert adherence.cosine([3, 4], [4, 3]) == pytest.approx(24 / 25)
  assert adherence.cosine([1, 0], [0, 0]) == 0


def test_prompt_match_by_hand():
  prompts = np.eye(3)
  outputs = np.array([[1.0, 0, 0], [0.6, 0.8, 0], [0, 1, 0]])  # the third follows the second
  match = adherence.prompt_match(outputs, prompts)
  assert match['own'] == pytest.approx((1 + 0.8 + 0) / 3)
  assert match['other'] == pytest.approx((0.6 + 1) / 6)
  assert match['top1'] == pytest.approx(2 / 3)
  assert np.isnan(adherence.prompt_match(prompts[:1], prompts[:1])['margin'])
  with pytest.raises(ValueError, match='do not pair'):
    adherence.prompt_match(prompts, prompts[:2])


def test_recordings_order_a_space_that_tells_them_apart():
  prompts = np.eye(3)
  near = prompts + 0.1
  table = adherence.match_table({'tiny': near, 'deaf': np.ones([3, 3])}, prompts, near)
  assert [(row['name'], row['kind']) for row in table['rows']] == [
    ('tiny', 'model'), ('deaf', 'model'), (adherence.RECORDINGS, 'anchor'),
    (adherence.SWAPPED, 'anchor'),
  ]  # fmt: skip
  length = np.sqrt(1.1**2 + 2 * 0.1**2)
  assert table['rows'][0]['margin'] == pytest.approx(1 / length)
  assert table['rows'][1]['margin'] == pytest.approx(0)
  # One prompt on, an output is as near to one of the others as it was to its own.
  assert table['rows'][3]['margin'] == pytest.approx((0.1 - (1.1 + 0.1) / 2) / length)
  assert table['ordered'] is True
  assert adherence.match_table({}, np.eye(2), np.eye(2)[::-1])['ordered'] is False
  assert adherence.match_table({}, prompts, None) == {'rows': [], 'ordered': None}
  assert adherence.match_table({}, prompts[:1], near[:1])['ordered'] is None


def test_the_first_space_that_orders_its_anchors_is_believed():
  spaces = [{'space': name, 'ordered': ordered} for name, ordered in
            (('a', False), ('b', None), ('c', True), ('d', True))]  # fmt: skip
  assert adherence.believed(spaces)['space'] == 'c'
  assert adherence.believed(spaces[:2])['space'] == 'b'
  assert adherence.believed(spaces[:1])['space'] == 'a'
