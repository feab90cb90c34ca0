"""generate.py's pipeline: lengths, continuation, help that tells the truth."""

import subprocess
import sys
import types

import numpy as np
import pytest
import soundfile

from inference import SamplingOptions
from models.spec import LiveMusicSpec
from pipelines.generate import Generation, generate_audio, generate_file

SPEC = LiveMusicSpec()


class Session:
  """Chunk i is filled with (i + 1) / 100; remembers its calls."""

  spec = SPEC

  def __init__(self):
    self.calls = []

  def reset(self):
    self.calls.append('reset')
    self.made = 0

  def set_style(self, style):
    self.calls.append(style)

  def continue_audio(self, audio):
    self.calls.append('continue')
    return audio[:-1920]

  def next_chunk(self):
    self.made += 1
    return np.full([96_000, 2], self.made / 100, np.float32)


@pytest.mark.parametrize('secs, chunks', [(2, 1), (2.5, 2), (7.0, 4), (0.1, 1)])
def test_length_is_exact_and_chunks_follow_each_other(secs, chunks):
  session = Session()
  result = generate_audio(session, ['organ'], secs, progress=False)
  assert len(result.audio) == round(secs * 48_000)
  assert session.made == chunks == len(result.chunk_secs)
  assert session.calls == ['reset', ['organ']]
  np.testing.assert_allclose(result.audio[-1], chunks / 100)


def test_a_session_starts_over_each_time():
  session = Session()
  first = generate_audio(session, None, 4, progress=False)
  second = generate_audio(session, None, 4, progress=False)
  np.testing.assert_array_equal(first.audio, second.audio)


def test_continuation_comes_after_what_was_given():
  given = np.full([48_000, 2], 0.5, np.float32)
  result = generate_audio(Session(), None, 2, continue_from=given, progress=False)
  assert result.given_secs == pytest.approx(0.96)
  assert (result.audio[: 48_000 - 1920] == 0.5).all()
  assert len(result.audio) == 48_000 - 1920 + 96_000
  np.testing.assert_allclose(result.audio[48_000 - 1920], 0.01)


def test_real_time_factor_leaves_the_compilation_out():
  result = Generation(np.zeros([0, 2]), 0, [30.0, 1.0, 0.5], 2.0)
  assert result.real_time_factor == pytest.approx(4 / 1.5)
  assert Generation(np.zeros([0, 2]), 0, [4.0], 2.0).real_time_factor == 0.5


@pytest.mark.parametrize('secs', [0, -1, float('nan'), float('inf')])
def test_no_length_is_refused(secs):
  with pytest.raises(ValueError, match=f'secs={secs} is not a number above 0'):
    generate_audio(Session(), None, secs, progress=False)


def test_help_names_the_true_defaults():
  done = subprocess.run(
    [sys.executable, 'generate.py', '--help'], capture_output=True, text=True, check=False
  )
  options = SamplingOptions()
  text = ' '.join(done.stdout.split())
  for value in (options.temperature, options.top_k, options.guidance_weight):
    assert f'Default {value:g}.' in text


def test_formats_that_cannot_be_written_stop_before_anything_is_loaded():
  with pytest.raises(ValueError, match=r'out\.xyz does not end in one of \.wav'):
    generate_file(['organ'], 'out.xyz', secs=2, bundle='none')


def test_what_cannot_be_written_or_continued_stops_before_anything_is_loaded(tmp_path):
  (tmp_path / 'folder.wav').mkdir()
  (tmp_path / 'file').write_text('')
  for output, reason in (('folder.wav', 'is a folder'), ('file/a/b.wav', 'file is a file')):
    with pytest.raises(ValueError, match=reason):
      generate_file([], tmp_path / output, secs=2, bundle='none')
  with pytest.raises(FileNotFoundError, match=r'no audio file nowhere\.wav to go on from'):
    generate_file([], tmp_path / 'a.wav', secs=2, bundle='none', continue_from='nowhere.wav')
  with pytest.raises(ValueError, match='secs=inf'):
    generate_file([], tmp_path / 'a.wav', secs=float('inf'), bundle='none')
  with pytest.raises(ValueError, match='secs=1000000000000 is above 21600'):
    generate_file([], tmp_path / 'a.wav', secs=1e12, bundle='none')
  with pytest.raises(ValueError, match='File name too long'):
    generate_file([], tmp_path / f'{"x" * 300}.wav', secs=2, bundle='none')
  for seed in (-1, 2**32, 10**20, True):
    with pytest.raises(ValueError, match=r'seed=.* is not a whole number in 0\.\.4294967295'):
      generate_file([], tmp_path / 'a.wav', secs=2, bundle='none', seed=seed)


@pytest.mark.parametrize(
  'option, reason',
  [
    ({'temperature': 1e-300}, 'temperature=1e-300 is not 0 and below 0.001'),
    ({'temperature': 1e30}, r'temperature=1e\+30 is above 1000'),
    ({'guidance_weight': float('nan')}, 'guidance_weight=nan is not a finite'),
    ({'guidance_weight': 1e300}, r'guidance_weight=1e\+300 is above 1000'),
    ({'top_k': -1}, 'top_k=-1 is not a finite number of at least 0'),
  ],
)
def test_sampling_options_have_ranges(option, reason):
  with pytest.raises(ValueError, match=reason):
    SamplingOptions(**option)


def spoiled(path, value):
  audio = np.full([48_000, 2], 0.1)
  audio[24_000, 1] = value
  soundfile.write(path, audio, 48_000, subtype='FLOAT')
  return str(path)


@pytest.mark.parametrize('value, reason', [
  (np.nan, r'.*holds NaN .* nan at 0.500 s \(sample 24000 of channel 2\)'),
  (-np.inf, '.*holds NaN or infinite'),
  (1e30, '.*has a peak of 1e'),
])  # fmt: skip
def test_spoiled_audio_is_refused_by_name_and_nothing_is_written(tmp_path, value, reason):
  path, output = spoiled(tmp_path / 'in.wav', value), tmp_path / 'out.wav'
  with pytest.raises(ValueError, match=f'The audio prompt .*in.wav{reason}'):
    generate_file([path], output, secs=2, bundle='none')
  with pytest.raises(ValueError, match=f'The audio file .*in.wav to go on from{reason}'):
    generate_file([], output, secs=2, bundle='none', continue_from=path)
  assert not output.exists()


def test_an_output_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
  def fails(path, audio, rate):
    path.write_text('half')
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('preprocessing.audio.write_audio', fails)
  monkeypatch.setattr(
    'pipelines.generate.generate_audio',
    lambda *_, **__: Generation(np.zeros([10, 2]), 0, [1.0], 2.0),
  )
  source = types.SimpleNamespace(bundle=types.SimpleNamespace(spec=SPEC), name='toy')
  monkeypatch.setattr('pipelines.checkpoint_sources.load_source', lambda _: source)
  monkeypatch.setattr('pipelines.generate.LiveSession', lambda *_, **__: Session())
  (tmp_path / 'out.wav').write_text('old')
  with pytest.raises(ValueError, match='out.wav cannot be written: No space left.*make room'):
    generate_file([], tmp_path / 'out.wav', secs=2)
  assert [p.name for p in tmp_path.iterdir()] == ['out.wav']
  assert (tmp_path / 'out.wav').read_text() == 'old'


def test_bad_prompts_stop_before_anything_is_loaded():
  done = subprocess.run(
    [sys.executable, 'generate.py', '--prompt=-1:drums'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert done.stderr.strip().endswith('the space that the model was trained on.')
  assert 'Traceback' not in done.stderr
