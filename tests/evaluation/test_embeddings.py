"""Embeddings by hand, and plug-ins whose weights are not there."""

import sys
import types

import numpy as np
import pytest

from evaluation import embedding_plugins, embeddings

RATE = 16_000


def tone(hz, secs=4.0, gain=0.5):
  t = np.arange(round(secs * RATE)) / RATE
  return np.stack([gain * np.sin(2 * np.pi * hz * t)] * 2, -1)


def test_windows_by_hand():
  assert len(embeddings.windows(tone(100, 5.5), RATE)) == 4  # From 0, 1, 2 and 3 s.
  short = embeddings.windows(tone(100, 0.5), RATE)
  assert len(short) == 1 and short[0].shape == (2 * RATE, 2)
  assert not short[0][RATE // 2 :].any()


def test_logmel_has_levels_and_liveliness():
  found = embeddings.logmel(tone(1000), RATE)
  assert found.shape == (3, 24)
  louder = embeddings.logmel(tone(1000, gain=0.25), RATE)
  band = np.argmax(found[0, :12])
  assert found[0, band] - louder[0, band] == pytest.approx(6.02, abs=0.01)
  assert found[:, 12:].max() < 2  # A steady tone does not move.
  pulsed = tone(1000) * (np.arange(4 * RATE) // 4000 % 2)[:, None]
  assert embeddings.logmel(pulsed, RATE)[0, 12 + band] > 8


def test_chroma_does_not_know_the_key():
  c, d = (embeddings.chroma(tone(f) + tone(1.5 * f), RATE) for f in (261.63, 293.66))
  assert c.shape == (3, 24)
  np.testing.assert_allclose(c, d, atol=2)
  np.testing.assert_allclose(c[:, 0] + c[:, 7], 100, atol=2)  # A fifth.


def test_codec_latents_by_hand():
  books = np.zeros([2, 3, 2])
  books[0, :, 0] = [1, 2, 3]
  books[1, :, 1] = [10, 20, 30]
  codes = np.array([[0, 2], [2, 0], [1, 1], [1, 1]])
  # One frame a second: windows of 2 frames from 0, 1 and 2.
  found = embeddings.codec_latents(codes, books, 1)
  np.testing.assert_allclose(found, [[2, 20], [2.5, 15], [2, 20]])
  np.testing.assert_allclose(embeddings.codec_latents(codes[:1], books, 1), [[1, 30]])


def test_style_embeddings_have_unit_length():
  style = types.SimpleNamespace(embed_audio=lambda audio, rate: np.array([3.0, 4.0]))
  np.testing.assert_allclose(embeddings.musiccoca(tone(100), RATE, style), [[0.6, 0.8]])


@pytest.mark.parametrize('plugin', embedding_plugins.PLUGINS, ids=lambda plugin: plugin.name)
def test_absent_weights_are_said_to_be_absent(plugin, tmp_path):
  for folder in (None, tmp_path):
    with pytest.raises(embedding_plugins.WeightsAbsent, match='weights absent'):
      embedding_plugins.load(plugin, folder)


def test_a_plugin_with_weights_gets_windows_at_its_rate(tmp_path, monkeypatch):
  """A stand-in for ONNX's runtime that gives each window's length and energy."""

  class Session:
    def __init__(self, path, providers):
      assert path.endswith('embeddings/vggish.onnx')

    def get_inputs(self):
      return [types.SimpleNamespace(name='wave')]

    def run(self, names, inputs):
      x = inputs['wave']
      return [np.stack([np.full(len(x), x.shape[1]), (x**2).mean(1)], -1)]

  runtime = types.SimpleNamespace(InferenceSession=Session)
  monkeypatch.setitem(sys.modules, 'onnxruntime', runtime)
  (tmp_path / 'embeddings').mkdir()
  (tmp_path / 'embeddings' / 'vggish.onnx').write_bytes(b'')
  vggish = next(plugin for plugin in embedding_plugins.PLUGINS if plugin.name == 'vggish')
  embed = embedding_plugins.load(vggish, tmp_path)
  t = np.arange(2 * 48_000) / 48_000
  found = embed(np.stack([np.sin(2 * np.pi * 440 * t)] * 2, -1), 48_000)
  assert found.shape == (3, 2)  # 2 s in windows of 0.96 s.
  assert (found[:, 0] == 15_360).all()
  np.testing.assert_allclose(found[:2, 1], 0.5, atol=0.01)


def test_weights_without_their_runtime_are_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'onnxruntime', None)
  (tmp_path / 'embeddings').mkdir()
  (tmp_path / 'embeddings' / 'passt.onnx').write_bytes(b'')
  passt = embedding_plugins.PLUGINS[-1]
  with pytest.raises(embedding_plugins.WeightsAbsent, match='onnxruntime is not installed'):
    embedding_plugins.load(passt, tmp_path)
