"""Every command with every path that it takes, wrong in every way: one line that names it.

The main functions run in this process, with stand-ins for long work that fail the test. Flags and
macros are taken from the commands themselves: a new one is either listed here or fails the test.
"""

import contextlib
import functools
import os
import pathlib
import re
import resource
import runpy
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from absl import flags

import gin
from pipelines import demo as demo_command
from pipelines import export, import_style, startup
from preprocessing import audio, demo_corpus, timbres
from recipes.recorded_music import build as recorded_music
from recipes.recorded_music import credits, synthetic

ROOT = pathlib.Path(__file__).parents[2]
# Kinds of paths: what stands there if all is well.
FILE, FOLDER, MODEL, OUT_FILE, OUT_FOLDER = 'file', 'folder', 'model', 'out_file', 'out_folder'
SCRIPTS = {
  'train': {
    'paths': {'gin_file': FILE},
    'others': {
      'dry_run', 'run_mode', 'profile_steps', 'multiprocess_gpu', 'coordinator_address',
      'process_count', 'process_index', 'gin_search_paths', 'assets_dir',
    },
  },
  'finetune': {
    'paths': {'catalog': FOLDER, 'output_dir': OUT_FOLDER, 'base': MODEL, 'replay': FOLDER},
    'others': {
      'output', 'method', 'hours_budget', 'dry_run', 'steps', 'batch_size', 'learning_rate',
      'patience', 'choose_by', 'rank', 'alpha', 'replay_rate', 'style_jitter', 'style_prompt',
      'minutes', 'judge', 'seed', 'assets_dir',
    },
    'base': ['--catalog={music}', '--output_dir={out}', '--nojudge'],
  },
  'prepare': {
    'paths': {
      'audio_dir': FOLDER, 'table': FILE, 'manifest': FILE, 'output_dir': OUT_FOLDER,
      'codec': MODEL, 'style': MODEL,
    },
    'others': {
      'column', 'table_root', 'source', 'licences', 'licence_required', 'duplicates',
      'near_duplicates', 'limit', 'workers', 'name', 'version', 'clip_secs', 'min_clip_secs',
      'validation_fraction', 'test_fraction', 'min_held_out', 'hashed_offset', 'peak_dbfs',
      'loudness_lufs', 'require_stereo', 'codec_levels', 'compression', 'shard_mib', 'num_shards',
      'data', 'split', 'number', 'seed', 'assets_dir', 'beam',
    },
    'base': ['--audio_dir={music}', '--output_dir={out}'],
  },
  'eval': {
    'paths': {'gin_file': FILE},
    'others': {'gin_search_paths', 'budget', 'compare', 'output_dir', 'assets_dir'},
  },
  'generate': {
    'paths': {'output': OUT_FILE, 'bundle': MODEL, 'continue_from': FILE},
    'others': {'prompt', 'secs', 'seed', 'temperature', 'top_k', 'guidance', 'assets_dir'},
    'base': ['--prompt=piano', '--output={out}.wav'],
  },
  'jam': {
    'paths': {'bundle': MODEL},
    'others': {
      'port', 'host', 'token', 'allowed_origin', 'open', 'buffer_secs', 'max_players', 'max_batch',
      'seed', 'prompt', 'osc_port', 'osc_host', 'cache', 'assets_dir',
    },
    'base': ['--noopen', '--port=0'],
  },
  'plan': {
    'paths': {'gin_file': FILE},
    'others': {
      'topology', 'num_slices', 'gin_search_paths', 'batch', 'steps', 'analytic', 'cache_dir',
      'name', 'zone', 'hours', 'track_secs', 'codec', 'style', 'codec_levels', 'shard_mib',
      'workers', 'measure_secs', 'price_core_hour', 'price_accelerator_hour', 'price_gib_month',
    },
    'base': ['--topology=v6e-4', '--analytic'],
  },
}  # fmt: skip
# Further words of a command, the flag that they read, and its kind.
VERBS = [
  ('prepare', ['manifest', 'check'], 'manifest', FILE),
  ('prepare', ['manifest', 'stats'], 'manifest', FILE),
  ('prepare', ['tokens', 'inspect'], 'data', FOLDER),
  ('eval', ['--compare={other},{bad}'], None, FOLDER),
  ('plan', ['corpus', '--hours=1'], 'codec', MODEL),
  ('plan', ['corpus', '--hours=1'], 'style', MODEL),
]
# Run file -> its model file, the script, and the kinds of its path macros.
RUNS = {
  'pretrain': ('tiny', 'train', {'DATA_DIR': FOLDER, 'MODEL_DIR': OUT_FOLDER,
                                 'INITIAL_CHECKPOINT_PATH': MODEL}),
  'finetune': ('tiny', 'train', {'DATA_DIR': FOLDER, 'MODEL_DIR': OUT_FOLDER,
                                 'INITIAL_CHECKPOINT_PATH': MODEL, 'REPLAY_DATA_DIR': FOLDER}),
  'train_codec': ('spectrostream_tiny', 'train', {
    'DATA_DIR': FOLDER, 'HELD_OUT_DIR': FOLDER, 'MODEL_DIR': OUT_FOLDER,
    'INITIAL_CHECKPOINT_PATH': MODEL}),
  'train_style': ('musiccoca_tiny', 'train', {
    'DATA_DIR': FOLDER, 'HELD_OUT_DIR': FOLDER, 'MODEL_DIR': OUT_FOLDER,
    'INITIAL_CHECKPOINT_PATH': MODEL}),
  'eval': (None, 'eval', {'CHECKPOINT_PATH': MODEL, 'DATA_DIR': FOLDER,
                          'EVAL_OUTPUT_DIR': OUT_FOLDER}),
  'eval_codec': (None, 'eval', {'CODEC': MODEL, 'DATA_DIR': FOLDER, 'OUTPUT_DIR': OUT_FOLDER}),
  'eval_style': (None, 'eval', {'STYLE_MODEL': MODEL, 'DEPTHFORMER': MODEL, 'DATA_DIR': FOLDER,
                                'EVAL_OUTPUT_DIR': OUT_FOLDER}),
  'infer': (None, 'eval', {'CHECKPOINT_PATH': MODEL, 'DATA_DIR': FOLDER,
                           'INFER_OUTPUT_DIR': OUT_FOLDER}),
}  # fmt: skip
MODULES = {
  'export': (export.main, {'checkpoint': MODEL, 'output_dir': OUT_FOLDER},
             {'format', 'assets_dir', 'licence', 'data'},
             ['--checkpoint=tiny', '--output_dir={out}']),
  'import_style': (import_style.main, {'output': OUT_FILE}, {'assets_dir'},
                   ['--output={out}.safetensors', '--assets_dir={music}']),
  'demo': (demo_command.main, {'output_dir': OUT_FOLDER}, {'style', 'prompt'}, []),
  'demo_corpus': (demo_corpus.main, {'output_dir': OUT_FOLDER},
                  {'num_works', 'secs_per_work', 'seed', 'styles', 'formats', 'renderer'},
                  ['--num_works=1', '--secs_per_work=2']),
  'timbres': (timbres.main, {'output_dir': OUT_FOLDER}, {'num_clips', 'secs_per_clip', 'seed'},
              ['--num_clips=1', '--secs_per_clip=1']),
  'recorded_music': (recorded_music.main,
                     {'output_dir': OUT_FOLDER, 'table': FILE, 'deb_dir': FOLDER},
                     {'set', 'keep_packages'}, ['--set=train', '--output_dir={out}']),
  'synthetic': (synthetic.main, {'output_dir': OUT_FOLDER, 'deb_dir': FOLDER}, {'hours'},
                ['--output_dir={out}']),
  'credits': (credits.main, {'output': OUT_FILE}, {'set'}, ['--output={out}.wav']),
}  # fmt: skip
WRONG = ('missing', 'other_kind', 'empty', 'long', 'no_text', 'nul', 'forbidden')


@pytest.fixture(scope='module')
def places():
  """A folder of music, and places for outputs; everybody may look and write there."""
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder).resolve()
    root.chmod(0o777)
    yield from _filled_places(root)


def _filled_places(root):
  (root / 'music').mkdir()
  wave = np.sin(np.arange(5 * 16_000) / 30)
  for number in range(2):
    tone = np.roll(wave, 100 * number) * (0.4 + 0.1 * number)
    audio.write_audio(root / 'music' / f'{number}.wav', np.stack([tone, tone], 1), 16_000)
  (root / 'file').write_bytes(b'\x00\x01 neither text nor audio \xff')
  (root / 'folder').mkdir()
  (root / 'folder.safetensors').mkdir()
  demo_corpus.write_corpus(
    root / 'works', num_works=2, secs_per_work=10.0, seed=0, formats=('wav',)
  )
  (root / 'locked').mkdir()
  (root / 'locked' / 'file').write_text('secret')
  (root / 'locked').chmod(0)
  yield root
  (root / 'locked').chmod(0o700)


def _bad(kind, wrong, root):
  """A value of a path that is wrong in one way; None where that is not wrong."""
  output = kind in (OUT_FILE, OUT_FOLDER)
  suffix = '.wav' if kind == OUT_FILE else ''
  return {
    'missing': None if output else str(root / 'none' / 'here'),
    'other_kind': str(root / ('folder' if kind in (FILE, OUT_FILE) else 'file')),
    'empty': '',
    'long': str(root / ('n' * 3000)) + suffix,
    'no_text': None if output else str(root / 'song \udcff'),
    'nul': str(root / 'a\0b') + suffix,
    'forbidden': str(root / 'locked' / ('new' if output else 'file')) + suffix,
  }[wrong]


class LongWorkError(AssertionError):
  """The command went on to what takes long."""


@pytest.fixture(autouse=True)
def no_long_work(monkeypatch, places):
  from inference import session
  from models.musiccoca import MusicCoCa
  from models.spectrostream import SpectroStream
  from preprocessing import dataset
  from training import loop

  def begun(*args, **kwargs):
    raise LongWorkError

  monkeypatch.chdir(places)
  monkeypatch.setattr(demo_command, 'run', begun)
  monkeypatch.setattr(recorded_music, 'build', begun)
  monkeypatch.setattr(synthetic, 'make', begun)
  monkeypatch.setattr(loop, 'train', begun)
  monkeypatch.setattr(dataset, 'tokenize', begun)
  monkeypatch.setattr(session.LiveSession, 'next_chunk', begun)
  monkeypatch.setattr(MusicCoCa, 'embed_clips', begun)
  monkeypatch.setattr(SpectroStream, 'load', _loaded_once(SpectroStream.load))
  yield
  gin.clear_config()


@functools.cache
def _loaded_once(load):
  """`load` for all cases together; what it refuses it looks at each time."""
  return functools.cache(load)


@contextlib.contextmanager
def _nobody():
  """The rights of a user without any; root may read and write everything."""
  if os.geteuid():
    yield
    return
  os.seteuid(65534)
  try:
    try:
      (ROOT / 'train.py').read_bytes()
    except OSError:
      pytest.skip('Nobody else may read this checkout.')
    yield
  finally:
    os.seteuid(0)


@contextlib.contextmanager
def _script(name):
  """The main function of a root script, with its flags and no other's."""
  before = set(flags.FLAGS)
  main = runpy.run_path(str(ROOT / f'{name}.py'), run_name=name)['main']
  own = set(flags.FLAGS) - before

  def run(arguments):
    flags.FLAGS.unparse_flags()
    for flag in own:
      flags.FLAGS[flag].unparse()
    main(startup.parse_flags([f'{name}.py', *arguments]))

  try:
    yield run, own
  finally:
    for flag in own:
      delattr(flags.FLAGS, flag)


def _told(call, capsys):
  """(exit status, what is told) of a command that must end with an error that a user can mend."""
  with pytest.raises(SystemExit) as stopped:
    call()
  code = stopped.value.code
  text = code if isinstance(code, str) else capsys.readouterr().err
  return (1 if isinstance(code, str) else code), text


def _check(call, value, capsys, script):
  status, text = _told(call, capsys)
  assert status in (1, 2), text
  assert 'Traceback' not in text and 'defect' not in text
  shown = value if len(value) < 200 else value[:55]  # The middle of a long name is left out.
  forms = {shown, repr(shown)[1:-1], ascii(shown)[1:-1], shown.replace('\udcff', '?')}
  assert any(form in text for form in forms), f'{text!r} does not name {shown!r}'
  if text.startswith(script):
    assert text.count('\n') <= 12
  return text


def _filled(words, root, number):
  """Places for the words of a command; outputs of their own for each case."""
  values = {'music': root / 'music', 'out': root / f'out{number}', 'other': root / 'folder'}
  return [word.format(**values, bad='{bad}') for word in words]


def _call(run, arguments, wrong):
  def call():
    with _nobody() if wrong == 'forbidden' else contextlib.nullcontext():
      run(arguments)

  return call


@pytest.mark.parametrize('name', SCRIPTS)
def test_every_flag_of_a_script_is_known_here(name):
  with _script(name) as (_, own):
    known = {*SCRIPTS[name]['paths'], *SCRIPTS[name]['others']}
    assert own - {f'no{flag}' for flag in known} == known


@pytest.mark.parametrize('name', MODULES)
def test_every_flag_of_a_module_is_known_here(name, capsys):
  main, paths, others, _ = MODULES[name]
  with pytest.raises(SystemExit):
    main(['--help'])
  found = set(re.findall(r'^  (?:-h, )?--(\w+)', capsys.readouterr().out, re.M))
  assert found == {*paths, *others, 'help'}


def test_every_path_macro_of_a_run_file_is_known_here():
  """Those that end in _DIR or _PATH; variants of a run have the macros of what they include."""
  variants = {path for _, _, macros in RUNS.values() for path in macros}
  for file in (ROOT / 'gin' / 'runs').glob('*.gin'):
    macros = set(re.findall(r'^([A-Z_]+(?:_DIR|_PATH)) =', file.read_text(), re.M))
    known = set(RUNS[file.stem][2]) if file.stem in RUNS else variants
    assert macros <= known, f'{file.name}: {sorted(macros - known)}'


@pytest.mark.parametrize('wrong', WRONG)
@pytest.mark.parametrize('name', SCRIPTS)
def test_flags_of_scripts(name, wrong, places, capsys):
  with _script(name) as (run, _):
    for number, (flag, kind) in enumerate(SCRIPTS[name]['paths'].items()):
      value = _bad(kind, wrong, places)
      base = _filled(SCRIPTS[name].get('base', []), places, f'{name}{wrong}{number}')
      if value is None or (wrong == 'empty' and flag in MAY_BE_EMPTY):
        continue
      _check(_call(run, [*base, f'--{flag}={value}'], wrong), value, capsys, name)


@pytest.mark.parametrize('wrong', WRONG)
@pytest.mark.parametrize('name, words, flag, kind', VERBS)
def test_further_words_of_scripts(name, words, flag, kind, wrong, places, capsys):
  value = _bad(kind, wrong, places)
  words = [word.replace('{bad}', value) for word in _filled(words, places, 0)]
  if flag:
    words.append(f'--{flag}={value}')
  with _script(name) as (run, _):
    _check(_call(run, words, wrong), value if flag else '', capsys, name)


@pytest.mark.parametrize('wrong', WRONG)
@pytest.mark.parametrize('name', RUNS)
def test_macros_of_run_files(name, wrong, places, capsys):
  model, script, macros = RUNS[name]
  with _script(script) as (run, _):
    for macro, kind in macros.items():
      value = _bad(kind, wrong, places)
      if value is None or (wrong == 'empty' and macro in MAY_BE_EMPTY):
        continue
      files = [f'--gin_file=gin/models/{model}.gin'] if model else []
      files.append(f'--gin_file=gin/runs/{name}.gin')
      music = places / ('works' if 'style' in name else 'music')  # Works have captions.
      well = {FOLDER: music, OUT_FOLDER: places / f'run{name}{wrong}', MODEL: 'tiny'}
      given = {other: str(well[its]) for other, its in macros.items()} | {macro: value}
      if name in ('pretrain', 'train_codec', 'train_style') and macro != 'INITIAL_CHECKPOINT_PATH':
        del given['INITIAL_CHECKPOINT_PATH']
      if macro == 'INITIAL_CHECKPOINT_PATH' and name in ('pretrain', 'finetune'):
        continue  # Read behind the data, which must be tokens.
      bindings = [f'--gin.{key}={text!r}' for key, text in given.items()]
      _check(_call(run, [*files, *bindings], wrong), value, capsys, script)


@pytest.mark.parametrize('wrong', WRONG)
@pytest.mark.parametrize('name', MODULES)
def test_flags_of_modules(name, wrong, places, capsys):
  main, paths, _, base = MODULES[name]
  for number, (flag, kind) in enumerate(paths.items()):
    value = _bad(kind, wrong, places)
    if value is None:
      continue
    value += '.safetensors' if name == 'import_style' and wrong != 'empty' else ''
    words = [*_filled(base, places, f'{name}{wrong}{number}'), f'--{flag}={value}']
    _check(_call(main, words, wrong), value, capsys, name)


# An empty one is the default: nothing is given.
MAY_BE_EMPTY = {'table', 'manifest', 'replay', 'INITIAL_CHECKPOINT_PATH', 'REPLAY_DATA_DIR'}


def _without_room():
  """No file may grow; native writers meet the limit, too."""
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@pytest.mark.slow
@pytest.mark.parametrize('words', [
  ['prepare.py', '--audio_dir={music}', '--output_dir={out}'],
  ['prepare.py', 'manifest', 'build', '--audio_dir={music}', '--output_dir={out}'],
  ['finetune.py', '--catalog={music}', '--output_dir={out}', '--nojudge'],
  ['generate.py', '--prompt=piano', '--secs=2', '--output={out}.wav'],
  ['train.py', '--gin_file=gin/models/spectrostream_tiny.gin',
   '--gin_file=gin/runs/train_codec.gin', '--gin.DATA_DIR="{music}"', '--gin.MODEL_DIR="{out}"'],
  ['eval.py', '--gin_file=gin/runs/eval_codec.gin', '--gin.CODEC="tiny"',
   '--gin.DATA_DIR="{music}"', '--gin.OUTPUT_DIR="{out}"'],
  ['-m', 'pipelines.export', '--checkpoint=tiny', '--output_dir={out}'],
  ['-m', 'preprocessing.demo_corpus', '--output_dir={out}', '--num_works=1', '--secs_per_work=2'],
], ids=lambda words: ' '.join(words[:2]))  # fmt: skip
def test_a_disk_without_room_is_named(words, places):
  words = _filled(words, places, f'full{abs(hash(tuple(words)))}')
  done = subprocess.run(
    [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, preexec_fn=_without_room,
    timeout=300,
  )  # fmt: skip
  assert done.returncode == 1, done.stderr
  last = done.stderr.strip().splitlines()[-1]
  assert 'Traceback' not in done.stderr
  # A fine-tuning meets the folder of temporary files first.
  assert str(places) in last or 'No usable temporary directory' in last, last
