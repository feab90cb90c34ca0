"""A catalog and a base model to a tuned bundle, with stand-ins for codec and style model."""

import contextlib
import dataclasses
import io
import json
import pathlib
import shlex
import shutil
import types

import jax
import numpy as np
import pytest

from models.bundle import Bundle, load_bundle, save_bundle
from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec
from pipelines import (
  adapter_folders,
  finetune,
  finetune_catalog,
  finetune_choice,
  gin_config,
  output_health,
  runs,
)
from pipelines.checkpoint_sources import load_source
from pipelines.finetune import FinetuneOptions
from preprocessing import audio, manifest, records, splits, units
from tasks import source

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
  """Seven square waves of 8 s; pitch and level, and with it the tokens, differ by track."""
  folder = tmp_path_factory.mktemp('catalog')
  for number in range(7):
    wave = (0.2 + 0.05 * number) * np.sign(np.sin(np.arange(8 * 16_000) / (30 + 7 * number) + 0.1))
    audio.write_audio(folder / f'{number:02d} song {number}.wav', np.stack([wave, wave], 1), 16_000)
  return folder


def _options(**changes):
  """A short run whose last evaluation is its last step, judged by nobody."""
  given = {'total_steps': STEPS, 'batch_size': 2, 'learning_rate': RATE, 'judge': False}
  return FinetuneOptions(**(given | changes))


@contextlib.contextmanager
def _stand_ins():
  """Codec and style model of the tests in the place of the bundled ones; small periods."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(STAND_INS)
    import fake_token_models

    patch.setattr(units, 'load_models', fake_token_models.load)
    patch.setattr(output_health.OutputHealth, '__call__', lambda self, state: ())
    yield


@pytest.fixture(scope='module')
def tuned(bases, catalog, tmp_path_factory):
  """A whole run from the first base: its result, where it wrote, what it printed."""
  output_dir, printed = tmp_path_factory.mktemp('tuned'), io.StringIO()
  with _stand_ins(), contextlib.redirect_stdout(printed):
    result = finetune.finetune(catalog, output_dir, base=bases[0], options=_options())
  return types.SimpleNamespace(result=result, output_dir=output_dir, printed=printed.getvalue())


@pytest.fixture
def refusing(monkeypatch):
  """Makes the models of the long work fail as soon as they are asked for."""

  def load(codec, style):
    raise AssertionError(f'{codec} and {style} were loaded')

  monkeypatch.setattr(units, 'load_models', load)


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
  # Two clips too short for three different crops each: one is left of each.
  assert [row for batch in batches for row in batch['index'].tolist()] == [0, 3]

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
  assert bundle.card['base']['terms'] == 'The base does not state its terms.'
  assert bundle.card['codec'] == {'name': 'level', 'hash': 'c' * 64}
  assert bundle.card['memorization'] == {'measured': False}


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


def test_given_again_it_trains_no_further(tuned, bases, refusing, monkeypatch):
  data_dir = tuned.output_dir / 'corpus'  # As a catalog that prepare.py wrote.
  monkeypatch.setattr(runs.HeldOutLoss, '__call__', None)
  again = finetune.finetune(data_dir, tuned.output_dir, base=bases[0], options=_options())
  assert again == tuned.result


@pytest.mark.parametrize(
  'base, method, message',
  [(1, 'full', 'base0.*base1.*another output directory'), (0, 'lora', "method 'full'.*'lora'")],
)
def test_output_of_another_run_is_refused(base, method, message, tuned, bases):
  before = (tuned.result.bundle_dir / 'weights.safetensors').read_bytes()
  with pytest.raises(ValueError, match=message):
    options = _options(method=method)
    finetune.finetune(
      tuned.output_dir / 'corpus', tuned.output_dir, base=bases[base], options=options
    )
  assert (tuned.result.bundle_dir / 'weights.safetensors').read_bytes() == before


def test_a_catalog_that_has_changed_is_refused(tuned, bases, tmp_path, refusing):
  """The output directory is of the tokens that it was begun with."""
  shutil.copytree(tuned.output_dir / 'corpus', tmp_path / 'changed')
  stats = source.find_token_folder(tmp_path / 'changed') / 'stats.json'
  stats.write_text(json.dumps(json.loads(stats.read_text()) | {'fingerprint': 'f2'}))
  with pytest.raises(ValueError, match=r'holds a run on .* \[\w{12}\], the catalog now gives .*f2'):
    finetune.finetune(tmp_path / 'changed', tuned.output_dir, base=bases[0], options=_options())


def _run_of(folder, losses, saved):
  """A MODEL_DIR that evaluated step -> loss and holds checkpoints of the steps `saved`."""
  for step in saved:
    (folder / f'checkpoint_{step}').mkdir(parents=True)
  lines = [
    {'step': step, 'stream': 'training_eval/held_out', LOSS: loss, 'accuracy': 0.5}
    for step, loss in losses.items()
  ]
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return folder


@pytest.mark.parametrize(
  'losses, saved, step',
  [
    ({0: 5.0, 25: 4.0, 50: 4.5}, (25, 50), 25),
    ({0: 5.0, 25: 4.0, 50: 4.5}, (50,), 50),
    ({0: 5.0, 25: 5.1, 50: 5.5}, (25, 50), 0),
    ({0: 5.0, 25: 5.0}, (25,), 0),
    ({0: 5.0, 25: float('nan'), 50: 4.9}, (25, 50), 50),
  ],
)
def test_the_saved_step_with_the_lowest_loss_is_chosen(losses, saved, step, tmp_path):
  choice = finetune_choice.choose(_run_of(tmp_path, losses, saved))
  assert (choice.step, choice.last_step) == (step, max(saved))
  assert (choice.base[LOSS], choice.best[LOSS]) == (5.0, losses[step])
  assert [point[0] for point in choice.curves['catalog']] == list(losses)


@pytest.mark.parametrize(
  'choose_by, values, step',
  [
    ('style_cosine', {0: 0.4, 25: 0.5, 50: 0.6}, 50),
    ('style_cosine', {0: 0.7, 25: 0.5}, 0),
    ('sound_distance', {0: 2.0, 25: 1.5, 50: 1.6}, 25),
    ('loss', {0: 2.0, 25: 1.5, 50: 1.6}, 25),
  ],
)
def test_the_step_that_plays_most_like_the_catalog_can_be_chosen(
  choose_by, values, step, tmp_path
):
  """Whatever the held-out loss says, which is lowest at step 25."""
  run = _run_of(tmp_path, {0: 5.0, 25: 4.0, 50: 4.5}, (25, 50))
  with open(run / 'metrics.jsonl', 'a') as file:
    for at, value in values.items():
      line = {'step': at, 'stream': 'training_eval/output', choose_by: value}
      file.write(json.dumps(line) + '\n')
  choice = finetune_choice.choose(run, finetune_choice.keep_best(choose_by))
  assert choice.step == step and choice.best[LOSS] == {0: 5.0, 25: 4.0, 50: 4.5}[step]


def test_a_choice_that_cannot_be_made_is_refused(tmp_path):
  with pytest.raises(ValueError, match="CHOOSE_BY = 'ear' is none of 'loss', 'style_cosine', 'sou"):
    finetune_choice.keep_best('ear')
  run = _run_of(tmp_path, {0: 5.0, 25: 4.0}, (25,))
  with pytest.raises(ValueError, match='has no training_eval/output/style_cosine of any step'):
    finetune_choice.choose(run, finetune_choice.keep_best('style_cosine'))


def test_a_run_without_its_start_cannot_be_judged(tmp_path):
  with pytest.raises(ValueError, match='no held-out loss of its start'):
    finetune_choice.choose(_run_of(tmp_path, {25: 4.0}, (25,)))


@pytest.fixture(scope='module')
def adapted(tuned, bases, tmp_path_factory):
  """A run with an adapter on the same catalog."""
  output_dir = tmp_path_factory.mktemp('adapted')
  options = _options(method='dora', rank=2, alpha=4.0, learning_rate=0.05)
  with _stand_ins():
    result = finetune.finetune(
      tuned.output_dir / 'corpus', output_dir, base=bases[0], options=options
    )
  return result, output_dir


def test_adapter_alone_is_the_bundle_and_can_be_played_weaker(adapted, bases):
  result, output_dir = adapted
  assert result.best_loss < result.base_loss - 0.01 and result.best_step == STEPS
  base, merged = load_source(bases[0]).bundle.params, load_bundle(result.bundle_dir).params
  alone = load_source(output_dir / 'adapter')
  assert (alone.kind, alone.bundle.card['step']) == ('adapter', STEPS)
  half = load_source(f'{output_dir}/adapter@0.5').bundle
  assert half.card['strength'] == 0.5
  for whole, own, part, start in zip(
    *(jax.tree.leaves(tree) for tree in (merged, alone.bundle.params, half.params, base)),
    strict=True,
  ):
    np.testing.assert_allclose(own, whole, atol=2e-3)  # The bundle holds float16.
    np.testing.assert_allclose(part, (own + start) / 2, atol=1e-5)
  moved = alone.bundle.params['encoder']['layers']['mlp']['gate']
  assert np.abs(moved - base['encoder']['layers']['mlp']['gate']).max() > 1e-3
  np.testing.assert_array_equal(alone.bundle.params['embedding'], base['embedding'])
  run = load_source(output_dir / 'run')
  np.testing.assert_allclose(run.bundle.params['logits'], alone.bundle.params['logits'], atol=1e-6)
  small = (output_dir / 'adapter' / 'adapter.safetensors').stat().st_size
  assert small < (result.bundle_dir / 'weights.safetensors').stat().st_size


def test_adapters_do_not_go_on_other_bases_nor_at_no_strength(adapted, bases, tmp_path):
  _, output_dir = adapted
  folder = tmp_path / 'adapter'
  folder.mkdir()
  for path in (output_dir / 'adapter').iterdir():
    (folder / path.name).write_bytes(path.read_bytes())
  with pytest.raises(ValueError, match="the strength 'loud' is not a number"):
    load_source(f'{folder}@loud')
  other = lambda path: types.SimpleNamespace(  # noqa: E731
    bundle=Bundle(DepthformerModel(CONFIG, SPEC), {'logits': np.ones([2, 2])}, SPEC, **IDENTITY)
  )
  with pytest.raises(ValueError, match='the adapter means nothing there'):
    adapter_folders.load(folder, 1.0, other)


def test_plan_counts_and_refuses(tuned, bases, tmp_path, catalog):
  plan = finetune.plan(tuned.output_dir / 'corpus', tmp_path / 'out', bases[0], _options())
  assert not (tmp_path / 'out').exists() and not plan.refusals
  assert (plan.catalog.tracks, plan.catalog.train_tracks, plan.catalog.prepared) == (7, 5, True)
  assert plan.catalog.train_secs == pytest.approx(40)
  assert plan.trained == plan.whole > plan.available * 0
  text = str(plan)
  assert f'8 of 2 examples: every target {8 * 2 * 2 / 40:.1f} times' in text
  assert f'{40 * 25 * 16:,} of 16 levels' in text and '40 s to train on' in text
  empty = dataclasses.replace(plan, catalog=dataclasses.replace(plan.catalog, train_secs=0.0))
  assert '8 of 2 examples: there is no music to train on' in str(empty)
  with _stand_ins():
    lora = finetune.plan(
      catalog, tmp_path / 'out', bases[0], _options(method='lora', rank=1, hours_budget=1e-4)
    )
  assert lora.trained < lora.whole / 2 and not lora.catalog.prepared
  assert 'leaves no time to train' in lora.refusals[0] and '--hours_budget=' in lora.refusals[0]


def test_one_process_tunes_on_several_catalogs(tuned, bases, tmp_path):
  catalog = shutil.copytree(tuned.output_dir / 'corpus', tmp_path / 'another')
  with _stand_ins():
    result = finetune.finetune(
      catalog, tmp_path / 'out', base=bases[0], options=_options(total_steps=1)
    )
  assert result.best_step in (0, 1) and result.bundle_dir.is_dir()


@pytest.mark.parametrize(
  'changes, rate, decay',
  [({}, 0.01, 0.98), ({'method': 'lora'}, 0.005, None), ({'learning_rate': 0.2}, 0.2, 0.98),
   ({'average_decay': 0.5}, 0.01, 0.5), ({'total_steps': 199}, 0.01, None),
   ({'gin_bindings': ('BASE_LEARNING_RATE=0.3', 'AVERAGE_DECAY=None')}, 0.3, None)],
)  # fmt: skip
def test_small_bases_have_values_of_their_own_unless_others_are_given(
  changes, rate, decay, tuned, bases, tmp_path
):
  options = _options(**({'learning_rate': None, 'total_steps': None} | changes))
  finetune.plan(tuned.output_dir / 'corpus', tmp_path / 'out', bases[0], options)
  assert gin_config.macro_value('BASE_LEARNING_RATE') == rate
  assert gin_config.macro_value('AVERAGE_DECAY') == decay


def test_plan_names_what_would_fit(tuned, bases, tmp_path, monkeypatch):
  whole = finetune.plan(
    tuned.output_dir / 'corpus', tmp_path / 'out', bases[0], _options(batch_size=8)
  )
  monkeypatch.setattr(
    finetune.finetune_plan, 'available_bytes', lambda device: 0.8 * whole.memory / 0.9
  )
  plan = finetune.plan(
    tuned.output_dir / 'corpus', tmp_path / 'out', bases[0], _options(batch_size=8)
  )
  assert 'NUM_MICROBATCHES = ' in plan.refusals[0] and 'fits' in plan.refusals[0]


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
  'options, message',
  [({'total_steps': 0}, 'total_steps=0 is not a number above 0'),
   ({'batch_size': -1}, 'batch_size=-1'), ({'learning_rate': float('nan')}, 'learning_rate=nan'),
   ({'time_budget_secs': -60.0}, 'time_budget_secs=-60'), ({'method': 'half'}, 'depth_only'),
   ({'replay_rate': 0.5}, 'needs --replay'), ({'rank': 8}, "rank=8 has no effect with method="),
   ({'method': 'depth_only', 'alpha': 2.0}, "alpha=2.0 has no effect with method='depth_only'"),
   ({'style_prompt': 'a', 'style_jitter': 0.1}, 'style_jitter=0.1 has no effect with style_prompt'),
   ({'seed': 2**32}, 'seed=4294967296'),
   ({'style_prompt': 'a\udcff'}, 'not valid Unicode'), ({'style_prompt': ' '}, 'is empty'),
   ({'style_prompt': '0.5:organ'}, "has a weight, and nothing to be mixed with; write 'organ'"),
   ({'style_prompt': 'preset:mean'}, 'is a preset of a bundle')],
)  # fmt: skip
def test_options_that_make_no_run_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    FinetuneOptions(**options)


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


def _both(message, catalog, output_dir, base, options):
  """What the run refuses, the dry run refuses, in the same words; neither writes anything."""
  with pytest.raises(ValueError, match=message) as run:
    finetune.finetune(catalog, output_dir, base=base, options=options)
  try:
    told = finetune.plan(catalog, output_dir, base, options).refusals[0]
  except ValueError as error:
    told = str(error)
  assert told == str(run.value)
  assert not output_dir.exists()


@pytest.mark.parametrize(
  'changes, message',
  [({'method': 'lora', 'rank': 100_000}, r'rank=100000 is not in 1..8: .* 8 x '),
   ({'gin_bindings': ('NUM_MICROBATCHES=3',)}, 'NUM_MICROBATCHES = 3 does not divide BATCH_SIZE'),
   ({'gin_bindings': ('ADAPTER_RANK=4',)}, "ADAPTER_RANK = 4 has no effect with METHOD = 'full'"),
   ({'gin_bindings': ('NUM_PARTITIONS=64',)}, 'devices do not divide into groups of 64'),
   ({'gin_bindings': ('BACH_SIZE=64',)}, 'Did you mean BATCH_SIZE'),
   ({'replay': '/none'}, 'No token records at or below /none')],
)  # fmt: skip
def test_wrong_options_end_both_before_any_work(
  changes, message, bases, catalog, tmp_path, refusing
):
  _both(message, catalog, tmp_path / 'out', bases[0], _options(**changes))


def _copies(folder, catalog):
  for number in range(3):
    shutil.copy(catalog / '00 song 0.wav', folder / f'copy {number}.wav')
  return '3 usable tracks: .* 3 of them are copies of one file .*: copy 0.wav, copy 1.wav, copy 2'


def _one(folder, catalog):
  (folder / 'song.wav').symlink_to(catalog / '00 song 0.wav')
  return '1 usable tracks: too few for a validation set .* 2 different ones are the least, 1 is'


def _short(folder, catalog):
  for number in range(20):
    wave = np.sin(np.arange(3 * 16_000) / (30 + number))
    audio.write_audio(folder / f'{number}.wav', np.stack([wave, wave], 1), 16_000)
  return r'0 usable tracks: .* 20 too_short \(shorter than .*\); the first is .* 3.00 s'


@pytest.mark.parametrize('make', [_copies, _one, _short])
def test_catalogs_of_too_little_end_both_before_any_work(make, bases, catalog, tmp_path):
  (tmp_path / 'few').mkdir()
  message = make(tmp_path / 'few', catalog)
  with _stand_ins():
    _both(message, tmp_path / 'few', tmp_path / 'out', bases[0], _options())


def test_two_works_are_enough_and_two_versions_of_one_are_not(catalog):
  tracks, _ = manifest.build_manifest(catalog)
  two = [dataclasses.replace(t, work=w) for t, w in zip(tracks, ('song', 'other'), strict=False)]
  assert finetune_catalog.refusal(catalog, splits.assign_splits(two, test_fraction=0.0), []) == ''
  one = [dataclasses.replace(track, work='song') for track in two]
  told = finetune_catalog.refusal(catalog, splits.assign_splits(one, test_fraction=0.0), [])
  assert '2 of them are versions of one work by their tags or names (song)' in told


def test_tracks_that_prove_unusable_are_told_with_their_reasons(bases, catalog, tmp_path):
  """What headers do not tell: the run decodes, and then says what is missing and why."""
  (tmp_path / 'silent').mkdir()
  for number in range(3):
    audio.write_audio(tmp_path / 'silent' / f'{number}.wav', np.zeros([5 * 16_000, 2]), 16_000)
  (tmp_path / 'silent' / 'song.wav').symlink_to(catalog / '00 song 0.wav')
  with _stand_ins(), pytest.raises(ValueError, match='1 usable tracks.*3 silent.*rejects.jsonl'):
    finetune.finetune(tmp_path / 'silent', tmp_path / 'out', base=bases[0], options=_options())
  assert not (tmp_path / 'out' / 'run').exists()


def test_models_that_changed_end_both_before_any_work(catalog, tmp_path):
  model = DepthformerModel(CONFIG, SPEC)
  other = IDENTITY | {'style_hash': 'e' * 64}
  bundle = Bundle(model, model.init(jax.random.key(0)), SPEC, **other)
  base = str(save_bundle(tmp_path / 'base', bundle))
  with _stand_ins():
    message = f"the style model {'e' * 64}, but 'mean' is now {'s' * 64}"
    _both(message, catalog, tmp_path / 'out', base, _options())
