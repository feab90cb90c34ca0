"""A catalog and a base model to a tuned bundle, with stand-ins for codec and style model."""

import contextlib
import io
import pathlib
import shlex
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.bundle import Bundle, load_bundle, save_bundle
from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec
from pipelines import finetune, gin_config, runs
from pipelines.checkpoint_sources import load_source
from preprocessing import audio, manifest, pipeline, records
from tasks import source
from training.state import TrainState

STAND_INS = pathlib.Path(__file__).parents[1] / 'preprocessing'
SPEC = LiveMusicSpec()
CONFIG = DepthformerConfig(
  embed_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1, num_temporal_layers=1,
  num_depth_layers=1,
)  # fmt: skip
IDENTITY = {
  'codec_name': 'level', 'codec_hash': 'c' * 64, 'style_name': 'mean', 'style_hash': 's' * 64,
}  # fmt: skip
STEPS, RATE = 8, 0.5
LOSS = finetune.HELD_OUT_LOSS


@pytest.fixture(scope='module')
def bases(tmp_path_factory):
  """Two untrained models that differ in name alone."""
  folder = tmp_path_factory.mktemp('bases')
  model = DepthformerModel(CONFIG, SPEC)
  bundle = Bundle(model, model.init(jax.random.key(0)), SPEC, **IDENTITY, card={'from': 'nothing'})
  return [str(save_bundle(folder / name, bundle)) for name in ('base0', 'base1')]


@pytest.fixture(scope='module')
def catalog(tmp_path_factory):
  """Seven square waves of 8 s; the level, and with it the tokens, differ by track."""
  folder = tmp_path_factory.mktemp('catalog')
  for number in range(7):
    wave = (0.2 + 0.05 * number) * np.sign(np.sin(np.arange(8 * 16_000) / 50 + 0.1))
    audio.write_audio(folder / f'{number:02d} song {number}.wav', np.stack([wave, wave], 1), 16_000)
  return folder


@pytest.fixture(scope='module')
def tuned(bases, catalog, tmp_path_factory):
  """A whole run from the first base: its result, where it wrote, what it printed."""
  output_dir, printed = tmp_path_factory.mktemp('tuned'), io.StringIO()
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(STAND_INS)
    import fake_token_models

    patch.setattr(pipeline, 'load_models', fake_token_models.load)
    with contextlib.redirect_stdout(printed):
      result = finetune.finetune(
        catalog, output_dir, base=bases[0], total_steps=STEPS, batch_size=2, learning_rate=RATE
      )
  return types.SimpleNamespace(result=result, output_dir=output_dir, printed=printed.getvalue())


@pytest.fixture
def refusing(monkeypatch):
  """Makes the models of the long work fail as soon as they are asked for."""

  def load(codec, style):
    raise AssertionError(f'{codec} and {style} were loaded')

  monkeypatch.setattr(pipeline, 'load_models', load)


def _tracks_of(data_dir, split):
  folder = source.find_token_folder(data_dir)
  return {info.track_id for _, info in records.read_split(folder, split)}


def test_whole_tracks_are_held_out(tuned):
  data_dir = tuned.output_dir / 'corpus'
  train, held_out = (_tracks_of(data_dir, split) for split in ('train', 'validation'))
  assert (len(train), len(held_out)) == (5, 2) and not train & held_out
  listed = manifest.read_manifest(data_dir / 'manifest.jsonl')
  assert {track.track_id for track in listed if track.split == 'train'} == train
  assert '5 tracks to train on, 2 held out.' in tuned.printed


def test_losses_are_those_of_the_bundles_on_the_held_out_tracks(tuned, bases):
  """Against log p of every target, from the model's scoring method."""
  feed = runs.held_out_token_feed(str(tuned.output_dir / 'corpus'), batch_size=2)
  batches = list(feed.batches())
  # Two clips, three crops each.
  assert [row for batch in batches for row in batch['index'].tolist()] == list(range(6))

  @jax.jit
  def log_probs(params, batch):
    inputs, targets = batch['encoder_input_tokens'], batch['decoder_target_tokens']
    return DepthformerModel(CONFIG, SPEC).token_log_probs(params, inputs, targets)

  for path, loss in [(bases[0], tuned.result.base_loss),
                     (tuned.result.bundle_dir, tuned.result.best_loss)]:  # fmt: skip
    params = load_bundle(path).params
    want = -np.mean([np.asarray(log_probs(params, batch)) for batch in batches])
    assert loss == pytest.approx(want, rel=2e-3)  # The bundle holds float16.
  assert tuned.result.best_step == STEPS
  assert tuned.result.best_loss < tuned.result.base_loss - 0.1


def test_bundle_tells_where_it_comes_from(tuned, bases):
  bundle = load_bundle(tuned.result.bundle_dir)
  assert (bundle.codec_name, bundle.style_hash) == ('level', 's' * 64)
  assert bundle.card['base']['card'] == {'from': 'nothing'}
  assert bundle.card['catalog'] == {
    'tracks': 7, 'hours': pytest.approx(7 * 8 / 3600, abs=1e-3), 'licences': {'not stated': 7}
  }  # fmt: skip
  assert bundle.card['held_out']['tuned'][LOSS] == tuned.result.best_loss
  # The stand-in's embedding of a track is its mean magnitude, which levelling makes the same.
  folder = source.find_token_folder(tuned.output_dir / 'corpus')
  embeddings = [tokens.style_embeddings for tokens, _ in records.read_split(folder, 'train')]
  np.testing.assert_allclose(
    bundle.presets['catalog'], np.concatenate(embeddings).mean(0), rtol=1e-3
  )
  assert set(bundle.presets) == {'catalog', *(f'catalog-{i}' for i in range(1, 6))}


def test_printed_command_is_the_same_run(tuned, bases):
  (line,) = [line for line in tuned.printed.splitlines() if line.startswith('The same run: ')]
  bindings, others = gin_config.split_flags(shlex.split(line.removeprefix('The same run: ')))
  assert others[:2] == ['python', 'train.py']
  gin_config.parse_gin([flag.removeprefix('--gin_file=') for flag in others[2:]], bindings)
  for name, want in [('TRAIN_STEPS', STEPS), ('BATCH_SIZE', 2), ('BASE_LEARNING_RATE', RATE),
                     ('INITIAL_CHECKPOINT_PATH', bases[0])]:  # fmt: skip
    assert gin_config.macro_value(name) == want
  model = gin_config.macro_value('MODEL')
  dropout = gin_config.macro_value('DROPOUT_RATE')
  want = CONFIG.to_dict() | {'dropout_rate': dropout}
  assert dropout > 0 and model.config.to_dict() == want


def test_given_again_it_trains_no_further(tuned, bases, catalog, refusing, monkeypatch):
  data_dir = tuned.output_dir / 'corpus'  # As a catalog that prepare.py wrote.
  monkeypatch.setattr(runs.HeldOutLoss, '__call__', None)
  again = finetune.finetune(
    data_dir, tuned.output_dir, base=bases[0], total_steps=STEPS, batch_size=2, learning_rate=RATE
  )
  assert again == tuned.result


def test_output_of_another_base_is_refused(tuned, bases, catalog):
  before = (tuned.result.bundle_dir / 'weights.safetensors').read_bytes()
  with pytest.raises(ValueError, match='base0.*base1.*another output directory'):
    finetune.finetune(tuned.output_dir / 'corpus', tuned.output_dir, base=bases[1])
  assert (tuned.result.bundle_dir / 'weights.safetensors').read_bytes() == before


def test_lowest_loss_is_kept_also_over_a_restart(tuned, bases, tmp_path, monkeypatch):
  losses = []

  def held_out(model, feed, num_batches, name):
    return lambda state: [(LOSS, losses.pop(0)), ('accuracy', 0.25)]

  monkeypatch.setattr(finetune.runs, 'HeldOutLoss', held_out)
  base = load_source(bases[0])

  def offer(keeper, step, loss):
    """The kept step's mark in the bundle, after step `step` had this loss."""
    losses.append(loss)
    if step:
      params = jax.tree.map(lambda x: x + jnp.float32(step), base.bundle.params)
      assert dict(keeper(TrainState(step=step, params=params, opt_state={}, aux={})))[LOSS] == loss
    else:
      keeper.offer_base()
    assert not losses
    kept = load_bundle(tmp_path / 'bundle')
    shift = np.mean(kept.params['decoder_norm'] - base.bundle.params['decoder_norm'])
    assert kept.card['step'] == round(float(shift)) == keeper.result().best_step
    return keeper.result().best_step

  keeper = finetune.BestBundle(base, tuned.output_dir / 'corpus', tmp_path / 'bundle')
  assert [offer(keeper, step, loss) for step, loss in [(0, 5.0), (1, 5.5), (2, 4.0), (3, 4.0)]] == [
    0, 0, 2, 2
  ]  # fmt: skip
  keeper = finetune.BestBundle(base, tuned.output_dir / 'corpus', tmp_path / 'bundle')
  keeper.offer_base()  # Known: evaluating it again would find no loss.
  assert [offer(keeper, step, loss) for step, loss in [(4, 4.5), (5, 3.5)]] == [2, 5]
  assert (keeper.result().base_loss, keeper.result().best_loss) == (5.0, 3.5)


@pytest.mark.parametrize(
  'make, error, message',
  [
    (lambda folder: None, FileNotFoundError, 'catalog is not a folder'),
    (lambda folder: folder.mkdir(), ValueError, 'no audio'),
  ],
  ids=['missing', 'empty'],
)
def test_catalogs_without_audio_end_before_any_work(
  make, error, message, bases, tmp_path, refusing
):
  make(tmp_path / 'catalog')
  with pytest.raises(error, match=message):
    finetune.finetune(tmp_path / 'catalog', tmp_path / 'out', base=bases[0])
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  'options', [{'total_steps': 0}, {'batch_size': -1}, {'learning_rate': float('nan')},
              {'time_budget_secs': -60.0}]
)  # fmt: skip
def test_numbers_that_make_no_run_end_before_any_work(options, bases, catalog, tmp_path, refusing):
  ((name, value),) = options.items()
  with pytest.raises(ValueError, match=f'{name}={value} is not a number above 0'):
    finetune.finetune(catalog, tmp_path / 'out', base=bases[0], **options)
  assert not (tmp_path / 'out').exists()


def test_a_catalog_of_another_codec_leaves_no_bundle(tuned, tmp_path):
  bundle = Bundle(
    DepthformerModel(CONFIG, SPEC), DepthformerModel(CONFIG, SPEC).init(jax.random.key(0)), SPEC,
    **(IDENTITY | {'codec_hash': 'd' * 64}),
  )  # fmt: skip
  base = str(save_bundle(tmp_path / 'base', bundle))
  with pytest.raises(ValueError, match=f'codec model {"d" * 64}, the data .* {"c" * 64}'):
    finetune.finetune(tuned.output_dir / 'corpus', tmp_path / 'out', base=base)
  assert not (tmp_path / 'out').exists()


def test_unknown_bases_end_before_any_work(catalog, tmp_path, refusing):
  with pytest.raises(FileNotFoundError, match='huge'):
    finetune.finetune(catalog, tmp_path / 'out', base='huge')
  assert not (tmp_path / 'out').exists()


def test_one_track_cannot_be_held_out(bases, catalog, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(STAND_INS)
  import fake_token_models

  monkeypatch.setattr(pipeline, 'load_models', fake_token_models.load)
  (tmp_path / 'one').mkdir()
  (tmp_path / 'one' / 'song.wav').symlink_to(catalog / '00 song 0.wav')
  with pytest.raises(ValueError, match='1 usable tracks: too few for a validation set'):
    finetune.finetune(tmp_path / 'one', tmp_path / 'out', base=bases[0])
  assert not (tmp_path / 'out' / 'run').exists()
