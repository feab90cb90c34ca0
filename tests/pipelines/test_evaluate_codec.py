"""The codec report from end to end: a codec of one band, on files that are made here."""

import csv
import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from evaluation import other_codecs
from models.spec import LiveMusicSpec
from pipelines import evaluate_codec as evaluate_codec_lib
from pipelines.codec_recordings import find_recordings, read_excerpts
from pipelines.evaluate_codec import CodecReportOptions, evaluate_codec
from pipelines.measurements import Measurements
from preprocessing.manifest import Track, write_manifest

SPEC = LiveMusicSpec()
RATE, FRAME = SPEC.sample_rate, SPEC.samples_per_frame


class Codec:
  """Plays what it was last given, with noise that shrinks by the number of levels.

  Level l of frame t gets the code (t + l) % `used`: `used` of 1024 codes occur at every level.
  """

  spec = SPEC
  content_hash = 'tokens-a'

  def __init__(self, noise=0.02, used=20):
    self.noise, self.used = noise, used
    self.params, self.codebooks = {'noise': jnp.float32(noise)}, jnp.zeros([1])
    self.encoded = self.decoded = 0

  def encode(self, audio):
    self.encoded += 1
    self.audio = audio
    frames = -(-len(audio) // FRAME)
    return ((np.arange(frames)[:, None] + np.arange(64)) % self.used).astype(np.int32)

  def decode(self, codes):
    self.decoded += 1
    rng = np.random.default_rng(0)
    noise = self.noise / codes.shape[1] * rng.standard_normal(self.audio.shape)
    return (self.audio + noise).astype(np.float32)


def tone(seed, secs=1.6):
  t = np.arange(round(secs * RATE)) / RATE
  left, right = (np.sin(2 * np.pi * f * t) for f in (200 + 50 * seed, 300 + 30 * seed))
  return (0.3 * np.stack([left, 0.5 * left + 0.5 * right], -1)).astype(np.float32)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Four tones, a broken, a silent and a short file."""
  folder = tmp_path_factory.mktemp('music')
  for seed in range(4):
    (folder / f'band{seed % 2}').mkdir(exist_ok=True)
    soundfile.write(folder / f'band{seed % 2}' / f'song{seed}.wav', tone(seed), RATE)
  (folder / 'broken.wav').write_bytes(b'RIFF, but nothing else')
  soundfile.write(folder / 'silent.wav', np.zeros([RATE, 2]), RATE)
  soundfile.write(folder / 'short.wav', tone(0, 0.2), RATE)
  return folder


OPTIONS = CodecReportOptions(
  num_tracks=20, excerpt_secs=1.0, start_secs=0.4, code_secs=1.6, depths=(4, 64), num_listen=2
)


def run(monkeypatch, codecs, folder, out, num_listen=2, **options):
  monkeypatch.setattr(evaluate_codec_lib, '_load_codec', codecs.__getitem__)
  monkeypatch.setattr(other_codecs.shutil, 'which', lambda name: None)
  chosen = dataclasses.replace(OPTIONS, num_listen=num_listen)
  return evaluate_codec(tuple(codecs), folder, out, options=chosen, **options)


@pytest.fixture(scope='module')
def result(folder, tmp_path_factory):
  out = tmp_path_factory.mktemp('report')
  codecs = {'before': Codec(0.2, 10), 'after': Codec(0.02, 20)}
  with pytest.MonkeyPatch.context() as patch:
    return run(patch, codecs, folder, out, operative_config=lambda: 'A = 1'), out


def test_figures_are_those_of_the_noise(result):
  """SI-SDR of white noise 0.02 / depth on tones of known power."""
  report, out = result
  values = json.loads((out / 'report.json').read_text())
  assert [codec['name'] for codec in values['codecs']] == ['before', 'after']
  power = [np.mean(tone(seed)[:RATE].astype(float) ** 2) for seed in range(4)]
  for row in values['codecs'][1]['depths']:
    expected = np.mean(10 * np.log10(np.array(power) / (0.02 / row['levels']) ** 2))
    assert row['si_sdr_db'][0] == pytest.approx(expected, abs=0.1)
  assert [row['kbps'] for row in values['codecs'][1]['depths']] == [1, 16]
  assert values['num_tracks'] == report.num_tracks == 4
  assert values['codecs'][1]['misordered'] == []


def test_dead_codes_and_what_their_number_shows(result):
  use = result[0].codecs[0]['use']
  assert use['num_frames'] == 4 * 40
  np.testing.assert_allclose(use['unused_share'], 1 - 10 / 1024)
  np.testing.assert_allclose(use['entropy_bits'], np.log2(10))
  assert use['chance_share'] == pytest.approx((1023 / 1024) ** 160)
  assert any('160 frames were counted' in line and '53 frames' in line for line in result[0].limits)


def test_before_and_after_are_compared_track_by_track(result):
  rows = {(row['codec'], row['levels']): row for row in result[0].comparisons}
  assert set(rows) == {('after', 4), ('after', 64)}
  row = rows['after', 4]
  assert row['against'] == 'before at 4 levels' and row['num_nearer'] == 4
  assert row['si_sdr_db'][0] == pytest.approx(20, abs=0.05)  # A tenth of the noise.
  assert row['mel_distance_db'][2] < 0


def test_broken_files_and_absent_programs_are_listed(result):
  reasons = {entry['what']: entry['why'] for entry in result[0].skipped}
  assert 'set aside' in reasons['Audio of broken']
  assert 'silent' in reasons['Audio of silent']
  assert '0.20 s are shorter' in reasons['Audio of short']
  assert 'Debian package opus-tools' in reasons['Opus at 16 kbit/s']
  assert 'Debian package ffmpeg' in reasons['MP3 at 16 kbit/s']


def test_tables_and_audio_are_written(result):
  report, out = result
  with open(out / 'files.csv', encoding='utf-8', newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 4 * (2 * 2 + 1)  # Two codecs at two depths, and noise.
  song = next(r for r in rows if r['track'] == 'band0/song0' and r['codec'] == 'after')
  assert (song['levels'], song['start_secs'], song['secs']) == ('4', '0.4', '1.0')
  assert float(song['si_sdr_db']) > 20
  codebooks = (out / 'codebooks.csv').read_text().splitlines()
  assert codebooks[0] == 'codec,level,num_frames,entropy_bits,unused_share'
  assert len(codebooks) == 1 + 2 * 64 and codebooks[1] == 'before,0,160,3.3219,0.990234'
  keys = [clip.key for clip in report.clips]
  assert keys[:5] == ['t0_original', 't0_c0_4', 't0_c0_64', 't0_c1_4', 't0_c1_64']
  assert all((out / clip.file).stat().st_size > 1000 for clip in report.clips)
  page = (out / 'report.html').read_text()
  assert page.count('<audio') == len(keys) == 10
  assert 'http' not in page and 'src="data:audio' in page
  assert 'Debian package opus-tools' in page and 'A = 1' in page


def test_a_second_run_measures_nothing_again(result, folder, monkeypatch, capsys):
  _, out = result
  codecs = {'before': Codec(0.2, 10), 'after': Codec(0.02, 20)}
  again = run(monkeypatch, codecs, folder, out)
  assert codecs['after'].encoded == 2  # For the two recordings to listen to.
  assert again.codecs == result[0].codecs
  said = capsys.readouterr().out
  assert 'has a report already' in said and 'of an earlier run' in said


def test_ctrl_c_says_one_line_and_the_next_run_goes_on(folder, tmp_path, monkeypatch, capsys):
  class Stopped(Codec):
    def decode(self, codes):
      if self.decoded == 3:
        raise KeyboardInterrupt
      return super().decode(codes)

  with pytest.raises(SystemExit) as stop:
    run(monkeypatch, {'one': Stopped()}, folder, tmp_path, num_listen=0)
  assert stop.value.code == 130
  said = capsys.readouterr().err.splitlines()[-1]
  assert said == 'eval.py: interrupted; the same command goes on from here.'
  codec = Codec()
  run(monkeypatch, {'one': codec}, folder, tmp_path, num_listen=0)
  assert codec.decoded == 3 * 2  # One of four was measured.


def test_a_codec_that_gets_worse_with_depth_is_warned_of(folder, tmp_path, monkeypatch):
  class Worse(Codec):
    def decode(self, codes):
      return super().decode(np.zeros([1, 68 - codes.shape[1]]))

  report = run(monkeypatch, {'worse': Worse()}, folder, tmp_path, num_listen=0)
  entries = {entry['measure']: entry for entry in report.codecs[0]['misordered']}
  entry = entries['mel_distance_db']
  assert (entry['deeper'], entry['shallower'], entry['certain']) == (64, 4, True)
  bad = [line['text'] for line in report.summary if line['status'] == 'bad']
  assert any(text.startswith('Not in order with depth: Mel distance of worse') for text in bad)


def test_recordings_of_a_manifest_are_its_held_out_split(tmp_path, folder):
  def track(name, split):
    return Track(
      track_id=name, path=str(folder / 'band0' / 'song0.wav'), sha256=name * 64, duration_secs=1.6,
      sample_rate=RATE, channels=2, title=name, artist='Band', work=name, split=split,
    )  # fmt: skip

  path = tmp_path / 'manifest.jsonl'
  write_manifest(path, [track('a', 'train'), track('b', 'validation'), track('c', 'validation')])
  recordings, described = find_recordings(tmp_path, None)
  assert [item.title for item in recordings] == ['b (Band)', 'c (Band)']
  assert "'validation'" in described
  assert len(find_recordings(path, 'train')[0]) == 1
  with pytest.raises(ValueError, match='no track of split test'):
    find_recordings(path, 'test')
  with pytest.raises(ValueError, match='has no manifest'):
    find_recordings(folder, 'test')


def test_excerpts_near_the_end_and_fewer_than_there_are(folder):
  recordings = [item for item in find_recordings(folder, None)[0] if 'song' in item.path]
  options = {'secs': 1.0, 'start_secs': 5.0, 'code_secs': 0.5, 'seed': 0}
  chosen = list(read_excerpts(recordings, SPEC, [], number=3, **options))
  assert len({excerpt.recording for excerpt in chosen}) == 3
  fewer = list(read_excerpts(recordings, SPEC, [], number=2, **options))
  assert [e.recording for e in fewer] == [e.recording for e in chosen[:2]]
  for excerpt in chosen:
    assert excerpt.start_secs == pytest.approx(0.6)  # The last second of 1.6 s.
    whole, _ = soundfile.read(excerpt.recording.path, dtype='float32')
    np.testing.assert_array_equal(excerpt.audio, whole[-RATE:])
    np.testing.assert_array_equal(excerpt.beginning, whole[: RATE // 2])


def test_measurements_survive_a_line_cut_short(tmp_path):
  path = tmp_path / 'measured.jsonl'
  store = Measurements(path)
  assert store.take(['a', 1], lambda: {'x': 1.5}) == {'x': 1.5}
  store.take(['b'], lambda: float('inf'))
  path.write_text(path.read_text()[:-5])
  again = Measurements(path)
  assert again.known == 1
  assert again.take(['a', 1], lambda: pytest.fail('was measured again')) == {'x': 1.5}
  assert again.take(['b'], lambda: float('inf')) == np.inf
  assert Measurements(path).known == 2
  assert (again.reused, again.measured) == (1, 1)


@pytest.mark.parametrize(
  'wrong', [{'depths': ()}, {'depths': (0,)}, {'num_tracks': 0}, {'excerpt_secs': 0.1}]
)
def test_options_out_of_range_are_refused(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    CodecReportOptions(**wrong)


def test_nothing_usable_and_wrong_names(tmp_path, monkeypatch):
  (tmp_path / 'a.wav').write_bytes(b'no audio')
  with pytest.raises(ValueError, match='None of 1 recordings is usable: Audio of a: set aside'):
    run(monkeypatch, {'one': Codec()}, tmp_path, tmp_path / 'out')
  with pytest.raises(ValueError, match='2 codecs need as many different names'):
    run(monkeypatch, {'a': Codec(), 'b': Codec()}, tmp_path, tmp_path / 'out', names=('x', 'x'))
