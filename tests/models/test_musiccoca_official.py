"""Released MusicCoCa files, run and imported: on stand-ins, and on the files if they are there."""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np
import pytest

from models import assets
from models.musiccoca import MusicCoCa, official, official_weights
from models.musiccoca.cache import CachedEmbedder

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import musiccoca_stand_ins as stand_ins  # noqa: E402

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'musiccoca_tokens.json'
_SPEC = stand_ins.SPEC


@pytest.fixture(scope='module')
def v2(tmp_path_factory) -> pathlib.Path:
  """A folder of stand-ins for v2's files."""
  folder = tmp_path_factory.mktemp('v2') / official.V2_FOLDER
  stand_ins.write_v2(folder)
  return folder


@pytest.fixture(scope='module')
def v1(tmp_path_factory) -> pathlib.Path:
  """An asset directory with stand-ins for v1's files."""
  root = tmp_path_factory.mktemp('v1')
  stand_ins.write_v1(root)
  return root


@pytest.fixture(scope='module')
def ours() -> MusicCoCa:
  """The model that the stand-ins are made from."""
  return MusicCoCa(
    stand_ins.config(), stand_ins.params(), stand_ins.vocabulary(),
    official_weights.FullQuantizer(stand_ins.codebooks()), _SPEC,
    mel_matrix=stand_ins.mel_matrix(), dtype=np.float32,
  )  # fmt: skip


@pytest.fixture(scope='module')
def released(v2) -> official.TFLiteMusicCoCa:
  return official.TFLiteMusicCoCa(v2, _SPEC)


@pytest.fixture(scope='module')
def imported(v2) -> MusicCoCa:
  return official_weights.import_model(v2, stand_ins.config(), _SPEC)


def _audio() -> np.ndarray:
  rng = np.random.default_rng(5)
  t = np.arange(round(2.6 * _SPEC.style_sample_rate)) / _SPEC.style_sample_rate
  return (0.3 * np.sin(2 * np.pi * 300 * t) + 0.05 * rng.standard_normal(len(t))).astype(np.float32)


# ---- v2, on stand-ins. ----


def test_tflite_files_give_what_our_towers_give(released, ours):
  """Inputs are told apart by dtype: the stand-in's paddings come before its ids."""
  texts = [*stand_ins.TEXTS, '', 'JAZZ', '🎹' * 3]
  got = released.embed_text(texts)
  np.testing.assert_allclose(got, ours.embed_text(texts), atol=2e-5)
  np.testing.assert_array_equal(got[0], released.embed_text(texts[:1])[0])
  audio = _audio()
  np.testing.assert_allclose(
    released.embed_windows(audio, _SPEC.style_sample_rate),
    ours.embed_windows(audio, _SPEC.style_sample_rate), atol=2e-4,
  )  # fmt: skip
  assert released.embed_text([]).shape == (0, _SPEC.style_dim)


def test_tokens_are_the_first_values_of_the_quantizer(released, ours):
  vectors = np.random.default_rng(2).standard_normal([2, 3, _SPEC.style_dim])
  tokens = released.tokenize(vectors)
  assert tokens.shape == (2, 3, 12) and tokens.dtype == np.int32
  np.testing.assert_array_equal(tokens, ours.tokenize(vectors))
  np.testing.assert_array_equal(released.codebooks, stand_ins.codebooks())
  assert released.tokenize(np.zeros(_SPEC.style_dim)).shape == (12,), 'the zero style is legal'


def test_the_mapper_adds_the_noise_of_v2_and_gives_unit_vectors(released, v2):
  texts = stand_ins.TEXTS[:2]
  noise = np.random.RandomState(3).randn(_SPEC.style_dim).astype(np.float32)  # noqa: NPY002
  expected = stand_ins.mapped(released.embed_text(texts), noise)
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  got = released.embed_text(texts, use_mapper=True, seed=3)
  np.testing.assert_allclose(got, expected, atol=1e-6)
  always = official.TFLiteMusicCoCa(v2, _SPEC, use_mapper=True, seed=3)
  np.testing.assert_array_equal(always.embed_text(texts), got)
  np.testing.assert_array_equal(always.embed_ids(*always.vocabulary.encode(texts)), got)
  np.testing.assert_array_equal(always.embed_text(texts, use_mapper=False),
                                released.embed_text(texts))  # fmt: skip
  assert released.variant != always.variant, 'a cache must not mix them'


def test_weights_are_imported_exactly(imported):
  expected = stand_ins.params()
  for name in ('audio', 'text'):
    for (path, got), (_, want) in zip(
      _leaves(imported.params[name]), _leaves(expected[name]), strict=True
    ):
      np.testing.assert_allclose(got, want, atol=1e-6, rtol=1e-6, err_msg=f'{name}/{path}')
  np.testing.assert_array_equal(imported.codebooks, stand_ins.codebooks())
  np.testing.assert_allclose(imported.mel_matrix, stand_ins.mel_matrix(), atol=1e-5)


@pytest.mark.slow
def test_twelve_layers_are_told_apart(tmp_path, monkeypatch):
  """x_layers_1 is not x_layers_10."""
  tower = dataclasses.replace(stand_ins.TOWER, num_layers=12)
  monkeypatch.setattr(stand_ins, 'TOWER', tower)
  expected = stand_ins.params()['text']
  (tmp_path / 'text.tflite').write_bytes(stand_ins.text_encoder(expected))
  got = official_weights.read_text_tower(tmp_path / 'text.tflite', stand_ins.config(), _SPEC)
  for (path, value), (_, want) in zip(_leaves(got), _leaves(expected), strict=True):
    np.testing.assert_allclose(value, want, atol=1e-6, rtol=1e-6, err_msg=path)


def _leaves(tree: dict) -> list:
  from models import weights

  return sorted(weights.flatten(tree).items())


def test_an_imported_model_is_the_released_one(imported, released, tmp_path):
  texts, audio = stand_ins.TEXTS, _audio()
  np.testing.assert_allclose(imported.embed_text(texts), released.embed_text(texts), atol=2e-5)
  rate = _SPEC.style_sample_rate
  windows = released.embed_windows(audio, rate)
  np.testing.assert_allclose(imported.embed_windows(audio, rate), windows, atol=2e-4)
  np.testing.assert_array_equal(imported.tokenize(windows), released.tokenize(windows))
  assert imported.content_hash == released.content_hash
  again = MusicCoCa.load(imported.save(tmp_path / 'official.safetensors'))
  np.testing.assert_array_equal(again.embed_text(texts), imported.embed_text(texts))
  np.testing.assert_array_equal(again.embed_audio(audio, rate), imported.embed_audio(audio, rate))
  np.testing.assert_array_equal(again.codebooks, imported.codebooks)
  assert again.content_hash == released.content_hash
  tuned = MusicCoCa(again.config, again.params, again.vocabulary, again.quantizer, again.spec)
  assert tuned.content_hash != released.content_hash, 'own weights have their own identity'


@pytest.mark.slow
def test_imported_weights_can_be_tuned(imported, released):
  """The loss and its gradient at the released weights; the clips are heard as the release does."""
  from models.musiccoca.captioner import CaptionerConfig
  from models.musiccoca.training import StyleRecipe, StyleTrainable, contrastive_loss

  recipe = StyleRecipe(caption_weight=0.0, captioner=CaptionerConfig(num_layers=1, num_queries=2))
  trainable = StyleTrainable(imported.config, recipe, _SPEC, imported.mel_matrix)
  params = {**trainable.init(jax.random.key(0)), **imported.params}
  ids, paddings = imported.vocabulary.encode(stand_ins.TEXTS[:2])
  clips = imported.windows(_audio(), _SPEC.style_sample_rate)[:2]
  batch = {'audio': clips, 'text_ids': ids, 'text_paddings': paddings}
  gradient, metrics = jax.jit(jax.grad(trainable.loss_fn, has_aux=True))(params, batch)
  expected, _ = contrastive_loss(
    released.embed_clips(clips), released.embed_ids(ids, paddings), recipe.initial_temperature
  )
  assert float(metrics['contrastive_sum']) == pytest.approx(float(expected), rel=1e-2)
  for name in ('audio', 'text'):
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient[name]))
    assert np.abs(gradient[name]['layers']['query']['kernel']).max() > 0


def test_the_import_is_compared_with_the_files_before_it_is_written(
  v2, imported, tmp_path, monkeypatch
):
  from pipelines import import_style

  monkeypatch.setattr(official, 'v2_folder', lambda: v2)
  monkeypatch.setattr(official_weights, 'import_model', lambda folder: imported)
  released = official.TFLiteMusicCoCa(v2, _SPEC)
  monkeypatch.setattr(official, 'TFLiteMusicCoCa', lambda folder: released)
  output = tmp_path / 'official.safetensors'
  assert 'share of equal tokens: text' in (told := import_style.import_style(output))
  assert 'tokens 1.' in told and told.endswith('the released one.')
  assert MusicCoCa.load(output).content_hash == released.content_hash
  output.unlink()
  monkeypatch.setattr(released, 'embed_text', lambda texts: np.zeros([len(texts), _SPEC.style_dim]))
  with pytest.raises(ValueError, match='not the released one: text'):
    import_style.import_style(output)
  assert not output.exists()


def test_the_cache_serves_released_models(released, tmp_path):
  cached = CachedEmbedder(released, tmp_path)
  texts = stand_ins.TEXTS
  np.testing.assert_array_equal(cached.embed_text(texts), released.embed_text(texts))
  np.testing.assert_array_equal(cached.embed_text(texts), released.embed_text(texts))
  assert cached.cache.hits == len(texts)


def test_another_export_is_refused_by_the_name_of_what_lacks(v2, tmp_path):
  with pytest.raises(ValueError, match='music_encoder.tflite: x_layers_0/layer_norm/ has 0 scales'):
    official_weights.read_text_tower(v2 / 'music_encoder.tflite', stand_ins.config(), _SPEC)
  with pytest.raises(ValueError, match='text_encoder.tflite: 0 constants .*patch_projection'):
    official_weights.read_audio_tower(v2 / 'text_encoder.tflite', stand_ins.config(), _SPEC)
  with pytest.raises(ValueError, match='mapper.tflite has 0 levels'):
    official_weights.read_codebooks(v2 / 'mapper.tflite', _SPEC)


def test_truncated_files_are_named(v2, tmp_path):
  for name in ('text_encoder.tflite', 'pretrained_vector_quantizer.tflite'):
    content = (v2 / name).read_bytes()
    for size in (0, 7, 2_000, len(content) // 2, len(content) - 5_000):
      (tmp_path / name).write_bytes(content[:size])
      with pytest.raises(ValueError, match=rf'{name} \({size} bytes\) is truncated'):
        official.TFLiteFile(tmp_path / name)
  with pytest.raises(ValueError, match='text_encoder.tflite.* is truncated'):
    official_weights.read_text_tower(tmp_path / 'text_encoder.tflite', stand_ins.config(), _SPEC)
  (tmp_path / 'spm.model').write_bytes((v2 / 'spm.model').read_bytes()[:100])
  with pytest.raises(ValueError, match='spm.model.* no SentencePiece model'):
    official.read_vocabulary(tmp_path / 'spm.model')
  run = official.TFLiteFile(v2 / 'mapper.tflite')
  with pytest.raises(ValueError, match=r'int32 \[16\] fits none'):
    run(np.zeros(_SPEC.style_dim, np.int32))


# ---- v1, on stand-ins. ----


def test_saved_models_and_their_codebooks_out_of_order(v1):
  paths = (v1 / official.V1_TOWERS, v1 / official.V1_QUANTIZER, v1 / official.V1_VOCABULARY)
  model = official.SavedModelMusicCoCa(*paths, _SPEC)
  np.testing.assert_array_equal(model.codebooks, stand_ins.codebooks())
  texts = stand_ins.TEXTS[:2]
  ids, _ = model.vocabulary.encode(texts)
  expected = [stand_ins.v1_embedding('text', row) for row in ids]
  np.testing.assert_allclose(model.embed_text(texts), expected, rtol=1e-4, atol=1e-4)
  clips = model.windows(_audio(), _SPEC.style_sample_rate)
  expected = [stand_ins.v1_embedding('audio', clip) for clip in clips]
  np.testing.assert_allclose(model.embed_clips(clips), expected, rtol=1e-3, atol=1e-3)
  vectors = np.random.default_rng(2).standard_normal([2, 2, _SPEC.style_dim])
  tokens = model.tokenize(vectors)
  residual = vectors.astype(np.float64)
  for level, book in enumerate(stand_ins.codebooks().astype(np.float64)):
    codes = np.square(book - residual[..., None, :]).sum(-1).argmin(-1)
    np.testing.assert_array_equal(tokens[..., level], codes)
    residual = residual - book[codes]
  assert len(model.content_hash) == 16


def test_the_order_of_v1s_variables():
  assert official.V1_LEVEL_ORDER == (0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3)


# ---- Names and places. ----


def test_missing_files_are_named_with_their_place(tmp_path, monkeypatch):
  monkeypatch.setenv(assets.VARIABLE, str(tmp_path))
  with pytest.raises(FileNotFoundError) as error:
    MusicCoCa.load('musiccoca_v2')
  for part in (
    f'{tmp_path}/resources/musiccoca/spm.model is missing', 'Put resources/musiccoca/spm.model',
    'huggingface.co/google/magenta-realtime-2', '$WOODSHED_ASSETS',
  ):  # fmt: skip
    assert part in str(error.value)
  with pytest.raises(FileNotFoundError, match='resources/musiccoca/spm.model is missing'):
    MusicCoCa.load('musiccoca_v2_jax')
  with pytest.raises(FileNotFoundError, match='musiccoca_mv212f_cpu_novocab is missing'):
    MusicCoCa.load('musiccoca_mv212')


def test_names_lead_to_the_runtimes(v2, monkeypatch):
  monkeypatch.setenv(assets.VARIABLE, str(v2.parents[1]))
  loaded = MusicCoCa.load('musiccoca_v2')
  assert isinstance(loaded, official.TFLiteMusicCoCa)
  assert loaded.folder == v2 and loaded.window_samples == 160_000
  with pytest.raises(ValueError, match='text_encoder.tflite: 0 constants|music_encoder.tflite: 0'):
    MusicCoCa.load('musiccoca_v2_jax')  # The stand-ins have not the released sizes.


# ---- The released files themselves. ----


def _released(name: str):
  try:
    return MusicCoCa.load(name)
  except (FileNotFoundError, ImportError) as error:
    pytest.skip(str(error))


@pytest.mark.parametrize('name', ['musiccoca_v2', 'musiccoca_v2_jax'])
def test_golden_tokens_of_v2(name):
  """Tokens that v2's own test suite expects."""
  golden = json.loads(GOLDEN.read_text())
  model = _released(name)
  for text, tokens in golden['text_tokens'].items():
    assert model.tokenize(model.embed_text([text]))[0].tolist() == tokens, text
  if name == 'musiccoca_v2' and (model.folder / official.V2_MAPPER).is_file():
    for text, tokens in golden['text_tokens_with_mapper_seed0'].items():
      mapped = model.embed_text([text], use_mapper=True, seed=0)
      assert model.tokenize(mapped)[0].tolist() == tokens, text


def test_released_weights_agree_in_both_runtimes():
  released, imported = _released('musiccoca_v2'), _released('musiccoca_v2_jax')
  texts = list(json.loads(GOLDEN.read_text())['text_tokens'])
  np.testing.assert_allclose(imported.embed_text(texts), released.embed_text(texts), atol=1e-4)
  clip = np.random.default_rng(0).standard_normal([1, 160_000]).astype(np.float32) * 0.1
  np.testing.assert_allclose(imported.embed_clips(clip), released.embed_clips(clip), atol=1e-3)


def test_test_data_of_v1():
  """Embeddings within 1e-5 and tokens as v1's own test data has them."""
  model = _released('musiccoca_mv212')
  folder = assets.asset_dir() / 'testdata' / assets.STYLE_MODEL
  if not folder.is_dir():
    pytest.skip(f'Put testdata/{assets.STYLE_MODEL}, as published at {assets.PUBLISHED_AT}, at '
                f'{folder}.')  # fmt: skip
  texts = (folder / 'inputs.txt').read_text().splitlines()
  embeddings = model.embed_text(texts)
  np.testing.assert_allclose(embeddings, np.load(folder / 'embeddings.npy'), atol=1e-5)
  np.testing.assert_array_equal(model.tokenize(embeddings), np.load(folder / 'tokens.npy'))
