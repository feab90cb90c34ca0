"""musicnn against the published code: its spectrogram, its layers, its tags, on a made clip.

The golden values are of musicnn 0.1.0's own graph, run by TensorFlow 2.15, on the spectrogram of
librosa 0.10.2: once with the published weights ('released'), once with these folded and rounded to
float16 as they are bundled ('rounded').
"""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from models import weights
from models.musicnn import NAMES, Musicnn, frontend, network, released

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'musicnn.npz'
BUNDLED = pathlib.Path(frontend.__file__).parent / 'bundled'
RATE = frontend.SAMPLE_RATE
HASHES = {'msd': '75315c75bdc9e679', 'mtt': '16b02f3f4d314bf2'}


def made_clip() -> np.ndarray:
  """6.6 s of a rising harmonic tone that swells, with a hit every half second."""
  secs = np.arange(round(6.6 * RATE)) / RATE
  tone = sum(
    0.2 / k * np.sin(2 * np.pi * k * (110 * secs + 30 * secs * secs)) for k in (1, 2, 3, 5)
  )
  since = secs % 0.5
  hit = 0.3 * np.exp(-30 * since) * np.sin(2e5 * since * since * np.pi + 5e4 * secs * secs)
  return (0.8 * (tone * (0.5 + 0.5 * np.sin(4 * np.pi * secs)) + hit)).astype(np.float32)


@pytest.fixture(name='golden', scope='module')
def _golden():
  with np.load(GOLDEN) as file:
    return dict(file)


@pytest.fixture(name='msd', scope='module')
def _msd():
  return Musicnn.load('msd')


def test_the_spectrogram_is_that_of_librosa(golden):
  frames = frontend.log_mel(made_clip())
  assert len(frames) == golden['frames'] == 413
  np.testing.assert_allclose(
    frames[[0, 1, 100, 186, 187, 300, 412]], golden['log_mel'], rtol=0, atol=1e-5
  )


@pytest.mark.parametrize('name', NAMES)
def test_features_and_tags_are_those_of_the_published_graph(name, golden):
  heard = Musicnn.load(name).hear(made_clip(), RATE)
  assert heard.pooled.shape == (2, {'msd': 424, 'mtt': 754}[name])
  for layer in ('penultimate', 'probabilities'):
    found = getattr(heard, layer)
    np.testing.assert_allclose(found, golden[f'{name}/rounded/{layer}'], rtol=0, atol=1e-4)
  # What rounding to float16 costs.
  np.testing.assert_allclose(
    heard.probabilities, golden[f'{name}/released/probabilities'], rtol=0, atol=1e-3
  )


@pytest.mark.parametrize('name', NAMES)
def test_filters_that_are_left_out_say_nothing(name):
  model = Musicnn.load(name)
  log_mels = frontend.patches(made_clip())
  layers = {tolerance: network.pruned(model.params, tolerance) for tolerance in (0, 1e-3)}
  # All filters that are not exactly 0, and far fewer of one network.
  counts = {key: tree['timbre_38']['kernel'].shape[-1] for key, tree in layers.items()}
  assert counts == {'msd': {0: 24, 1e-3: 24}, 'mtt': {0: 148, 1e-3: 72}}[name]
  every, few = (network.features(tree, log_mels) for tree in layers.values())
  np.testing.assert_allclose(few['pooled'], every['pooled'], rtol=0, atol=1e-3)
  np.testing.assert_allclose(few['logits'], every['logits'], rtol=0, atol=1e-4)
  pooled = np.asarray(every['pooled'])
  dead = np.setdiff1d(np.arange(1506), network.live_channels(model.params))
  np.testing.assert_allclose(pooled[0, dead], pooled[1, dead], rtol=0, atol=1e-3)
  live = model.hear(made_clip(), RATE).pooled
  assert (np.abs(live[0] - live[1]) > 1e-3).mean() > 0.75


def test_bundled_files_are_whole_and_carry_their_licence():
  licence = (BUNDLED / 'LICENSE.txt').read_text(encoding='utf-8')
  assert 'Universitat Pompeu Fabra 2019' in licence and 'without fee is hereby granted' in licence
  for name in NAMES:
    model = Musicnn.load(name)
    assert model.content_hash == HASHES[name]
    assert model.card['licence_text'] == licence and model.card['licence'] == 'ISC'
    assert len(model.tags) == len(set(model.tags)) == 50
  assert Musicnn.load('msd').tags[:3] == ('rock', 'pop', 'alternative')
  assert Musicnn.load('mtt').tags[:3] == ('guitar', 'classical', 'slow')


def test_channels_are_averaged_and_rates_converted(msd):
  clip = made_clip()
  mono = msd.hear(clip, RATE).penultimate
  stereo = np.stack([1.5 * clip, 0.5 * clip], -1)
  np.testing.assert_allclose(msd.hear(stereo, RATE).penultimate, mono, atol=1e-4)
  # Three samples for each one, without what lies above 8 kHz.
  spectrum = np.fft.rfft(clip)
  tripled = 3 * np.fft.irfft(np.pad(spectrum, (0, len(clip))), 3 * len(clip))
  heard = msd.hear(tripled, 3 * RATE)
  assert np.abs(heard.probabilities - msd.hear(clip, RATE).probabilities).max() < 0.02


def test_short_audio_is_repeated_to_one_patch():
  clip = made_clip()[: RATE // 2]
  repeated = np.concatenate([clip] * 6)[: (frontend.PATCH_FRAMES - 1) * frontend.HOP_LENGTH]
  found = frontend.patches(clip)
  assert found.shape == (1, 187, 96)
  np.testing.assert_array_equal(found[0], frontend.log_mel(repeated))


def test_patches_lie_side_by_side_and_the_rest_is_left_out():
  clip = made_clip()
  frames = frontend.log_mel(clip)
  np.testing.assert_array_equal(frontend.patches(clip), frames[:374].reshape(2, 187, 96))


def test_a_mel_band_has_area_one():
  spacing = RATE / frontend.FFT_LENGTH
  areas = frontend.mel_matrix().sum(0) * spacing
  # Narrow bands are sampled by few bins; wide ones closely.
  np.testing.assert_allclose(areas[60:], 1, atol=0.03)
  np.testing.assert_allclose(frontend.mel_to_hertz(frontend.hertz_to_mel([50, 999, 5000])),
                             [50, 999, 5000])  # fmt: skip
  assert frontend.hertz_to_mel(6400.0) == pytest.approx(15 + 27)


def test_dead_filters_and_negative_scales_change_nothing():
  """Against the plain definition in NumPy: convolution, ReLU, norm, maximum over frequency."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 40, 96)).astype(np.float32)
  tree = weights.unflatten(
    {name: rng.normal(size=shape).astype(np.float32) for name, shape in network.shapes(3).items()}
  )
  for name in ('rhythm_32', 'timbre_67'):
    tree[name]['kernel'][..., 5:] = 0
  layers = network.pruned(tree)
  assert (np.asarray(tree['rhythm_32']['scale'][:5]) < 0).any()
  assert layers['rhythm_32']['kernel'].shape == (32, 24)

  padded = np.pad(x[0].astype(np.float64), [(15, 16), (0, 0)])
  sums = np.stack([
    np.einsum('lb,lf->bf', padded[t : t + 32], tree['rhythm_32']['kernel']) for t in range(40)
  ])  # fmt: skip
  np.testing.assert_allclose(
    network._long(layers['rhythm_32'], jnp.asarray(x))[0], _peak(sums, tree['rhythm_32']), atol=1e-3
  )
  padded = np.pad(x[0].astype(np.float64), [(3, 3), (0, 0)])
  sums = np.stack([
    [np.einsum('lb,lbf->f', padded[t : t + 7, p : p + 67], tree['timbre_67']['kernel'])
     for p in range(30)] for t in range(40)
  ])  # fmt: skip
  np.testing.assert_allclose(
    network._tall(layers['timbre_67'], jnp.asarray(x))[0], _peak(sums, tree['timbre_67']), atol=1e-3
  )


def _peak(sums: np.ndarray, layer: dict[str, np.ndarray]) -> np.ndarray:
  return (np.maximum(sums + layer['bias'], 0) * layer['scale'] + layer['shift']).max(1)


def test_saved_and_loaded_it_is_the_same(msd, tmp_path):
  path = msd.save(tmp_path / 'copy.safetensors')
  again = Musicnn.load(path)
  assert again.content_hash == msd.content_hash
  assert again.tags == msd.tags and again.card == msd.card
  assert path.read_bytes() == (BUNDLED / 'msd.safetensors').read_bytes()


def test_what_is_not_a_musicnn_is_refused(msd, tmp_path):
  with pytest.raises(FileNotFoundError, match="'big' is neither a bundled musicnn"):
    Musicnn.load('big')
  weights.save(tmp_path / 'other.safetensors', {'x': np.zeros(1)}, {'kind': 'musiccoca'})
  with pytest.raises(ValueError, match='holds musiccoca, not a musicnn'):
    Musicnn.load(tmp_path / 'other.safetensors')
  with pytest.raises(ValueError, match=r"\['tags/bias', 'tags/kernel'\] are not the parameters"):
    Musicnn(msd.params, msd.tags[:-1], {})
  with pytest.raises(ValueError, match="lacks the variable 'conv2d/kernel'"):
    released.from_variables({}, 50)


@pytest.mark.parametrize(
  ('audio', 'message'),
  [
    (np.zeros([0, 2]), 'has 0 samples'),
    (np.zeros([1, 2, 3]), r'shape \(1, 2, 3\) is not'),
    (np.array([0.1, np.nan, np.inf]), '2 samples of the audio are not finite'),
  ],
)
def test_audio_that_cannot_be_heard_is_refused(audio, message, msd):
  with pytest.raises(ValueError, match=message):
    msd.hear(audio, RATE)
