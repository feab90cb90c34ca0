"""The token and the codec stage with stand-ins whose figures can be worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from evaluation import codec_stage, other_codecs, token_stage
from evaluation.excerpts import Excerpt
from evaluation.token_scoring import score_tokens
from models.spec import LiveMusicSpec

TOKENS = LiveMusicSpec(
  codebook_size=4,
  codec_levels=3,
  target_levels=2,
  context_levels=1,
  chunk_frames=2,
  context_frames=4,
  style_rvq_levels=2,
  style_levels=1,
  frame_rate=1,
)
AUDIO = LiveMusicSpec()


class Listener:
  """A model that is sure of the target where it sees its context, and guesses evenly elsewhere.

  p = 0.7 for the code that the newest context frame holds, 0.1 for the three others; without
  context 1/4 each.
  """

  def token_scores(self, params, inputs, targets):
    newest = inputs[:, TOKENS.context_length - 1]
    known = (newest != TOKENS.mask_id)[:, None]
    code = (newest - TOKENS.codec_offset)[:, None]
    right = (targets - TOKENS.codec_offset) % 4 == code
    return jnp.log(jnp.where(known, jnp.where(right, params, 0.1), 0.25)), right & known


def excerpt(track, code):
  return Excerpt(track, np.full([4, 2], code), np.full([2, 2], code), np.array([0, 0]))


def test_token_stage_by_hand():
  chosen = [excerpt('a', 1), excerpt('b', 2), excerpt('a', 1), excerpt('b', 2)]
  training = np.array([[0, 2, 1, 1], [0, 2, 1, 1], [4, 0, 0, 0]])
  counted = []
  result = token_stage.measure_tokens(
    [('good', Listener(), 0.7), ('poor', Listener(), 0.1)], training, chosen, TOKENS,
    context_secs=(0, 4), batch_size=3, on_batch=counted.append,
  )  # fmt: skip
  rows = {row['name']: row for row in result['rows']}
  assert list(rows) == ['unigram', 'good', 'poor']
  # Counts 2, 1, 1 of codes 1, 2, 3 plus one each: 3/8 for code 1, 2/8 for code 2.
  unigram = -(np.log(3 / 8) + np.log(2 / 8)) / 2
  np.testing.assert_allclose(rows['unigram']['loss'], [unigram] * 2)
  np.testing.assert_allclose(rows['unigram']['accuracy'], [0.5, 0.5])
  np.testing.assert_allclose(rows['good']['loss'], [-np.log(0.7)] * 2, rtol=1e-6)
  np.testing.assert_allclose(rows['poor']['loss'], [-np.log(0.1)] * 2, rtol=1e-6)
  np.testing.assert_allclose(rows['good']['accuracy'], [1, 1])
  contexts = result['contexts']
  np.testing.assert_allclose(contexts['rows']['good'], -np.log([0.25, 0.7]), rtol=1e-6)
  np.testing.assert_allclose(contexts['anchors']['unigram'], unigram)
  conditions = contexts['conditions']['good']
  assert conditions['style masked'] == pytest.approx(-np.log(0.7), rel=1e-6)
  assert conditions["another track's context"] == pytest.approx(-np.log(0.1), rel=1e-6)
  assert sum(counted) == token_stage.num_rows(2, 4, 2)
  np.testing.assert_allclose(result['positions']['rows']['good'], [-np.log(0.7)] * 2, rtol=1e-6)
  assert result['examples']['tracks'] == ['a', 'b', 'a', 'b']
  np.testing.assert_allclose(
    result['examples']['coarse']['unigram'], -np.log([3 / 8, 2 / 8] * 2), rtol=1e-6
  )


def test_scores_do_not_depend_on_the_batch_size():
  rng = np.random.default_rng(0)
  inputs = rng.integers(2, 6, [7, TOKENS.inputs_length])
  targets = rng.integers(2, 6, [7, TOKENS.targets_length])
  whole = score_tokens(Listener(), 0.7, inputs, targets, batch_size=7)
  parts = score_tokens(Listener(), 0.7, inputs, targets, batch_size=3)
  for one, other in zip(whole, parts):
    assert one.shape == (7, TOKENS.targets_length)
    np.testing.assert_array_equal(one, other)


class Rounding:
  """A 'codec' that keeps the original and adds noise that shrinks with depth."""

  def encode(self, audio):
    self.audio = audio
    return np.zeros([len(audio) // 1920, 64], np.int32)

  def decode(self, codes):
    depth = codes.shape[1]
    noise = np.random.default_rng(0).standard_normal(self.audio.shape)
    return (self.audio + 0.2 / depth * noise).astype(np.float32)


def recordings(number=3):
  t = np.arange(12 * 1920) / 48_000
  return [
    np.stack([np.sin(2 * np.pi * 200 * k * t), np.sin(2 * np.pi * 310 * k * t)], -1)
    .astype(np.float32) * 0.3
    for k in range(1, number + 1)
  ]  # fmt: skip


def test_codec_stage(monkeypatch):
  monkeypatch.setattr(other_codecs.shutil, 'which', lambda name: None)
  steps = []
  section, decoded, skipped = codec_stage.measure_codec(
    Rounding(), recordings(), (4, 16, 64), AUDIO, on_step=steps.append
  )
  assert sum(steps) == 9
  mel = [row['mel_distance_db'][0] for row in section['depths']]
  sdr = [row['si_sdr_db'][0] for row in section['depths']]
  assert mel[0] > mel[1] > mel[2]
  # Noise of standard deviation 0.2 / depth on a sine of 0.3 / sqrt(2).
  expected = 20 * np.log10(0.3 / np.sqrt(2) / (0.2 / np.array([4, 16, 64])))
  np.testing.assert_allclose(sdr, expected, atol=0.1)
  assert [row['kbps'] for row in section['depths']] == [1, 4, 16]
  assert section['misordered'] == {}
  assert section['others'][-1]['name'] == codec_stage.NOISE
  assert section['num_tracks'] == 3
  assert len(decoded[16]) == 3 and decoded[16][0].shape == recordings()[0].shape
  low, high = section['depths'][0]['mel_distance_db'][1:]
  assert low <= mel[0] <= high
  reasons = {entry['what']: entry['why'] for entry in skipped}
  assert 'opusenc absent' in reasons['Opus at 16 kbit/s']
  assert 'ffmpeg absent' in reasons['MP3 at 1 kbit/s']


def test_a_measure_that_does_not_order_depths_is_flagged(monkeypatch):
  monkeypatch.setattr(other_codecs.shutil, 'which', lambda name: None)

  class Worse(Rounding):
    def decode(self, codes):
      return super().decode(np.zeros([1, 70 - codes.shape[1]]))

  section, _, _ = codec_stage.measure_codec(Worse(), recordings(2), (4, 64), AUDIO)
  assert section['misordered']['si_sdr_db'] == [['64 levels', '4 levels']]


def test_describe_codebooks():
  counts = np.stack([np.ones(1024, int), 1024 * (np.arange(1024) == 3)])
  described = codec_stage.describe_codebooks(counts)
  assert described['num_frames'] == 1024
  assert described['used_share'] == pytest.approx((1 + 1 / 1024) / 2)
  assert described['highest_entropy'] == pytest.approx(10)
  assert described['lowest_entropy'] == 0
