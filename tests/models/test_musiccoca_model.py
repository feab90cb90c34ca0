"""The style model in use: text limits, window framing, tokens, files."""

import jax
import numpy as np
import pytest

from models.musiccoca import MusicCoCa, MusicCoCaConfig, TowerConfig, towers
from models.musiccoca.codebooks import CodebookRecipe, fit_codebooks
from models.musiccoca.vocabulary import TextVocabulary, train_vocabulary
from models.spec import LiveMusicSpec

_TOWER = TowerConfig(
  num_layers=1, model_dim=16, num_heads=2, head_dim=8, mlp_dim=16, pooler_heads=2, pooler_head_dim=4
)
_RATE = 4_000
_SPEC = LiveMusicSpec(
  style_sample_rate=_RATE, style_window_secs=1, style_dim=24, style_rvq_levels=3, style_levels=2,
  codebook_size=32,
)  # fmt: skip
_TEXTS = [
  'slow jazz with piano and upright bass', 'heavy metal with distorted guitar',
  'calm ambient pads', 'fast drum and bass in F minor', 'church organ, solemn',
]  # fmt: skip


@pytest.fixture(scope='module')
def vocabulary() -> TextVocabulary:
  return train_vocabulary(_TEXTS * 4, 120, 128)


@pytest.fixture(scope='module')
def model(vocabulary) -> MusicCoCa:
  config = MusicCoCaConfig(
    audio=_TOWER, text=_TOWER, vocab_size=len(vocabulary), mel_upper_hz=2_000.0
  )
  params = {
    'audio': towers.init_audio_tower(jax.random.key(0), config, _RATE, _SPEC.style_dim),
    'text': towers.init_text_tower(jax.random.key(1), config, _SPEC.style_dim),
  }
  vectors = np.random.default_rng(0).standard_normal([300, 24])
  quantizer = fit_codebooks(vectors, vectors[:0], 3, 32, CodebookRecipe(rank=8, ema_passes=0))
  return MusicCoCa(config, params, vocabulary, quantizer, _SPEC)


def test_ids_are_start_pieces_padding(vocabulary):
  ids, paddings = vocabulary.encode(['Calm Ambient', ''])
  assert ids.shape == paddings.shape == (2, 128)
  length = int((1 - paddings[0]).sum())
  assert ids[0, 0] == 1 and (ids[0, 1:length] > 2).all() and not ids[0, length:].any()
  assert vocabulary.decode(ids[0]) == 'calm ambient'
  assert ids[1].tolist() == [1] + [0] * 127
  assert paddings[1].tolist() == [0.0] + [1.0] * 127


def test_text_limits(vocabulary, model):
  ids, paddings = vocabulary.encode(['jazz ' * 5_000, 'ピアノ 音楽 🎹', '  \n\t '])
  assert (paddings[0] == 0).all() and ids[0, 0] == 1, '10,000 characters are cut at 127 pieces'
  np.testing.assert_array_equal(ids[0], vocabulary.encode(['jazz ' * 500])[0][0])
  assert 2 in ids[1], 'characters without a piece become the unknown id'
  assert paddings[2].sum() == 127, 'blanks are the start id alone'
  embeddings = model.embed_text(['jazz ' * 5_000, 'ピアノ 音楽 🎹', '', 'JAZZ', 'jazz'])
  assert np.isfinite(embeddings).all()
  np.testing.assert_array_equal(embeddings[3], embeddings[4])
  assert model.embed_text([]).shape == (0, 24)
  with pytest.raises(TypeError, match="'jazz'"):
    model.embed_text('jazz')


def test_many_texts_equal_single_ones(model):
  together = model.embed_text(_TEXTS * 2)
  for row, text in enumerate(_TEXTS * 2):
    np.testing.assert_allclose(together[row], model.embed_text([text])[0], atol=1e-5)


@pytest.mark.parametrize('secs, count', [(0.5, 1), (1.0, 1), (1.001, 2), (3.25, 4), (0.0, 0)])
def test_windows_cover_the_audio_and_pad_the_last(model, secs, count):
  audio = np.random.default_rng(0).standard_normal(round(secs * _RATE)).astype(np.float32)
  windows = model.windows(audio, _RATE)
  assert windows.shape == (count, _RATE)
  np.testing.assert_array_equal(windows.reshape(-1)[: len(audio)], audio)
  assert not windows.reshape(-1)[len(audio) :].any()
  assert model.embed_windows(audio, _RATE).shape == (count, 24)


def test_audio_embedding_is_the_mean_of_its_windows(model):
  audio = np.random.default_rng(1).standard_normal(round(2.5 * _RATE)).astype(np.float32)
  expected = np.mean([model.embed_clips(model.windows(audio, _RATE)[i : i + 1])[0]
                      for i in range(3)], axis=0)  # fmt: skip
  np.testing.assert_allclose(model.embed_audio(audio, _RATE), expected, atol=1e-5)
  assert not model.embed_audio(audio[:0], _RATE).any(), 'no audio gives the zero embedding'


def test_windows_may_overlap_and_the_last_one_may_be_left_out(model):
  audio = np.random.default_rng(0).standard_normal(round(2.2 * _RATE)).astype(np.float32)
  windows = model.windows(audio, _RATE, hop_secs=0.5)
  assert len(windows) == 5, 'starts 0, 0.5, 1, 1.5 and 2 s lie in 2.2 s'
  for i, window in enumerate(windows):
    expected = np.zeros(_RATE, np.float32)
    part = audio[i * _RATE // 2 : i * _RATE // 2 + _RATE]
    expected[: len(part)] = part
    np.testing.assert_array_equal(window, expected)
  whole = model.windows(audio, _RATE, hop_secs=0.5, pad_end=False)
  np.testing.assert_array_equal(whole, windows[:3])
  assert len(model.windows(audio[: _RATE - 1], _RATE, pad_end=False)) == 0
  assert len(model.windows(audio[:_RATE], _RATE, pad_end=False)) == 1
  with pytest.raises(ValueError, match='hop_secs=0 must be above 0'):
    model.windows(audio, _RATE, hop_secs=0)


def test_recordings_of_any_length_and_rate_are_embedded_together(model, monkeypatch):
  from models.musiccoca import embedder

  rng = np.random.default_rng(4)
  items = [
    (rng.standard_normal(round(secs * rate)).astype(np.float32), rate)
    for secs, rate in ((0.3, 4_000), (2.5, 4_000), (0.0, 4_000), (1.2, 6_000), (3.0, 4_000))
  ]
  items.append((rng.standard_normal([5_000, 2]), 4_000))
  expected = np.stack([model.embed_audio(*item) for item in items])
  for at_once in (1, 3, 64):
    monkeypatch.setattr(embedder, '_WINDOWS_AT_ONCE', at_once)
    got = model.embed_audios(iter(items))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)
  assert not expected[2].any()
  assert model.embed_audios([]).shape == (0, 24)


def test_stereo_is_averaged_and_batches_keep_their_rows(model):
  batch = np.random.default_rng(2).standard_normal([2, 6_000, 2]).astype(np.float32)
  got = model.embed_audio(batch, _RATE)
  assert got.shape == (2, 24)
  for row in range(2):
    np.testing.assert_allclose(got[row], model.embed_audio(batch[row].mean(1), _RATE), atol=1e-5)
  with pytest.raises(ValueError, match='time comes first'):
    model.embed_audio(batch[0].T, _RATE)


def test_other_rates_are_resampled(model):
  t = np.arange(3 * 12_000) / 12_000
  tone = np.sin(2 * np.pi * 440 * t)
  same = np.sin(2 * np.pi * 440 * np.arange(3 * _RATE) / _RATE)
  windows = model.windows(tone, 12_000)
  assert windows.shape == (3, _RATE)
  np.testing.assert_allclose(windows[1], same[_RATE : 2 * _RATE], atol=1e-3)


def test_tokens_equal_a_greedy_float64_search(model):
  vectors = np.random.default_rng(3).standard_normal([4, 5, 24]).astype(np.float32)
  books = model.codebooks.astype(np.float64)
  assert books.shape == (3, 32, 24)
  expected = np.zeros([4, 5, 3], np.int32)
  for place in np.ndindex(4, 5):
    residual = vectors[place].astype(np.float64)
    for level in range(3):
      code = int(np.square(books[level] - residual).sum(1).argmin())
      expected[place][level] = code
      residual = residual - books[level][code]
  got = model.tokenize(vectors)
  assert got.dtype == np.int32
  np.testing.assert_array_equal(got, expected)
  assert model.tokenize(np.zeros(24)).shape == (3,), 'silence is a legal input'


def test_a_saved_model_comes_back_the_same(model, tmp_path):
  path = model.save(tmp_path / 'style.safetensors')
  loaded = MusicCoCa.load(path)
  assert loaded.content_hash == model.content_hash and len(loaded.content_hash) == 16
  assert loaded.config == model.config and loaded.spec == model.spec
  np.testing.assert_array_equal(loaded.embed_text(_TEXTS), model.embed_text(_TEXTS))
  np.testing.assert_array_equal(loaded.codebooks, model.codebooks)


def test_loading_says_what_is_wrong(tmp_path):
  with pytest.raises(FileNotFoundError, match="'huge' is neither a bundled"):
    MusicCoCa.load('huge')
  from models import weights

  weights.save(tmp_path / 'x.safetensors', {'a': np.zeros(3)}, {'kind': 'spectrostream'})
  with pytest.raises(ValueError, match='spectrostream'):
    MusicCoCa.load(tmp_path / 'x.safetensors')
