"""Damaged audio files: the samples that are there, or an error that names the file and says why."""

import pathlib

import hypothesis
import numpy as np
import pytest

from preprocessing import audio, quality
from tests.fuzz import mutations
from tests.preprocessing import sound_files

RATE = 48_000
# Kinds whose every byte is under a checksum, or nearly so: what is decoded is what was encoded.
CHECKED = ('flac', 'ogg', 'opus')
# Samples that a damaged header may make of a byte: bits of one sample as whole samples, and DSD.
_MOST_SAMPLES_PER_BYTE = 8


def _valid(kind):
  rng = np.random.default_rng(3)
  x = (rng.normal(size=[9600, 2]) * 0.1).astype(np.float32)
  return sound_files.encoded(x, RATE, kind)


KINDS = ('wav', 'flac', 'mp3', 'ogg', 'opus', 'aiff', 'au', 'w64', 'caf', *sound_files.PYAV_KINDS)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('fuzz')


@pytest.mark.parametrize('kind', KINDS)
def test_damaged_files_give_samples_or_a_named_refusal(kind, folder):
  valid = _valid(kind)
  path = folder / f'song.{kind}'
  path.write_bytes(valid)
  right = audio.read_audio(path, RATE)
  assert len(right) >= 8000  # WMA's encoder keeps the last frame.

  @mutations.settings(_EXAMPLES)
  @hypothesis.given(mutations.mutations(valid, head=128))
  def check(mutation):
    _check(path, kind, mutation, right)

  check()


def _check(path: pathlib.Path, kind: str, mutation: mutations.Mutation, right: np.ndarray):
  path.write_bytes(mutation.data)
  audio_bytes = len(mutation.data)
  try:
    header = audio.read_header(path)
    whole = audio.read_audio(path, header.sample_rate, min(2, header.channels))
    blocks = np.concatenate([whole[:0], *audio.read_blocks(path, 0.05)])
  except audio.AudioError as error:
    assert str(path) in str(error), mutation.story
    assert error.reason in quality.REASONS, mutation.story
    return
  # Of a damaged MP3 frame, anything may come, and much of it: equal but for rounding.
  np.testing.assert_allclose(whole, blocks, rtol=1e-3, atol=1e-6, err_msg=mutation.story)
  assert len(whole) <= audio_bytes * 16 + 48_000, mutation.story
  promised = header.promised_secs or 0.0
  told = header.frames
  if promised <= len(whole) / header.sample_rate and header.complete:
    slack = 4096 if header.estimated else 0
    assert abs(told - len(whole)) <= slack, (mutation.story, told, len(whole))
  if kind in CHECKED and header.channels == 2 and header.sample_rate == RATE:
    expected = np.concatenate([right, right])[: len(whole)]
    np.testing.assert_allclose(whole[: len(expected)], expected, atol=1e-6, err_msg=mutation.story)


_EXAMPLES = 25
