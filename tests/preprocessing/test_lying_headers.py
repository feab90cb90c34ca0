"""What is decoded counts: MP3, Ogg, FLAC and WAV files whose headers say something else."""

import io
import struct

import numpy as np
import pytest
import soundfile

from preprocessing import audio, mpeg_frames, scan

RATE = 48_000


def _sound(secs, channels=2, seed=0):
  """Notes of changing loudness, so that a variable bit rate varies."""
  rng = np.random.default_rng(seed)
  level = np.repeat(rng.uniform(0.0, 0.15, round(secs * 4) + 1), RATE // 4)[: round(secs * RATE)]
  wave = rng.normal(size=[len(level), channels]) * level[:, None]
  return (wave * (np.arange(len(level)) > RATE)[:, None]).astype(np.float32)


def _encoded(x, form, subtype, rate=RATE, **options):
  data = io.BytesIO()
  with soundfile.SoundFile(
    data, 'w', rate, x.shape[1], format=form, subtype=subtype, **options
  ) as file:
    for at in range(0, len(x), 65_536):
      file.write(x[at : at + 65_536])
  return data.getvalue()


def _vbr(x, rate=RATE):
  return _encoded(x, 'MP3', 'MPEG_LAYER_III', rate, bitrate_mode='VARIABLE', compression_level=0.3)


def _info_frame(data):
  """Where a file's Xing frame has its name, and how long the frame is."""
  place = max(data.find(b'Xing'), data.find(b'Info'))
  begin = data.find(b'\xff\xfb')
  return place, begin, mpeg_frames._parse(struct.unpack_from('>I', data, begin)[0]).length


def _with_frames(data, count):
  place, _, _ = _info_frame(data)
  return data[: place + 8] + struct.pack('>I', count) + data[place + 12 :]


def _without_xing(data):
  _, begin, length = _info_frame(data)
  return data[:begin] + data[begin + length :]


def _read_all(path):
  """The samples, by blocks, as a whole and by ranges: all are the same."""
  rate = audio.read_header(path).sample_rate
  blocks = np.concatenate(list(audio.read_blocks(path, 0.7)))
  whole = audio.read_audio(path, rate, blocks.shape[1])
  np.testing.assert_array_equal(blocks, whole)
  for start, secs in ((0.0, 0.5), (len(whole) / rate * 0.6, 1.0), (len(whole) / rate - 0.5, 5.0)):
    first = round(start * rate)
    part = audio.read_audio(path, rate, blocks.shape[1], start, secs)
    np.testing.assert_allclose(part, whole[first : first + round(secs * rate)], atol=1e-6)
  header = audio.read_header(path)
  assert header.frames == len(whole) and header.complete
  return whole


@pytest.mark.parametrize(
  'change, lost',
  [
    (lambda data: data, 0), (lambda data: _with_frames(data, 0), 0),
    (lambda data: _with_frames(data, 0xFFFFFFFF), 0), (lambda data: _with_frames(data, 99), 0),
    (_without_xing, 1105),
  ],
  ids=['right', 'frames 0', 'frames 2^32 - 1', 'too few', 'no Xing'],
)  # fmt: skip
def test_mp3_of_variable_bit_rate(tmp_path, change, lost, capfd):
  """All samples, whatever the Xing frame says; without one they are `lost` samples late."""
  whole, path = tmp_path / 'whole.mp3', tmp_path / 'lying.mp3'
  data = _vbr(_sound(6.0))
  whole.write_bytes(data)
  path.write_bytes(change(data))
  right, _ = soundfile.read(whole, dtype='float32')
  read = _read_all(path)
  assert len(right) == 6 * RATE
  np.testing.assert_allclose(read[lost : lost + len(right)], right, atol=1e-6)
  assert len(read) == len(right) if not lost else 6.0 <= len(read) / RATE < 6.06
  assert audio.read_header(path).promised_secs is None
  assert scan.scan_file(str(path), scan.ScanSettings()).measured.duration_secs == len(read) / RATE
  assert capfd.readouterr().err == ''  # libmpg123 had something to remark on.


def test_mp3_that_was_read_right_keeps_its_samples(tmp_path):
  """Constant and variable bit rates, with and without tags: soundfile's own samples."""
  x = _sound(3.0)
  constant = _encoded(x, 'MP3', 'MPEG_LAYER_III', bitrate_mode='CONSTANT')
  tag = b'ID3\x04\0\0\0\0\x0f\x76' + bytes(2038)
  for number, data in enumerate((constant, _vbr(x), _without_xing(constant), tag + constant,
                                 constant + b'TAG'.ljust(128, b' '), _vbr(x[:, :1]))):  # fmt: skip
    path = tmp_path / f'{number}.mp3'
    path.write_bytes(data)
    before, _ = soundfile.read(path, dtype='float32', always_2d=True)
    after = audio.read_audio(path, RATE, before.shape[1])
    np.testing.assert_array_equal(after[: len(before)], before)
    assert len(after) - len(before) <= 1152


def test_joined_mp3(tmp_path):
  first, second = _vbr(_sound(3.0)), _vbr(_sound(4.0, seed=1))
  path = tmp_path / 'joined.mp3'
  path.write_bytes(first + second)
  read = _read_all(path)
  assert 7.0 <= len(read) / RATE < 7.1
  assert np.sqrt(np.mean(read[5 * RATE :] ** 2)) > 0.05  # The second one is there.
  header = audio.read_header(path)
  assert header.notes == '2 files joined into one'
  path.write_bytes(first + _vbr(_sound(3.0, channels=1), 44_100))
  with pytest.raises(audio.AudioError, match=r'joined.mp3 is joined of different files: stereo at '
                     r'48000 Hz until 3\.0\d s, then mono at 44100 Hz; cut it there'):  # fmt: skip
    audio.read_audio(path)


def test_damage_in_an_mp3_is_placed(tmp_path):
  data = _vbr(_sound(6.0))
  path = tmp_path / 'damaged.mp3'
  third = len(data) // 3
  head, tail = data[:third], data[third:]
  for damaged in (head + bytes(5000) + tail[5000:], head + bytes(7) + tail, head + tail[9:]):
    path.write_bytes(damaged)
    with pytest.raises(audio.AudioError, match=r'damaged.mp3 is damaged at 1 places: first, \d+ '
                       r'bytes at \d\.\d\d s \(byte \d+\) are not MPEG audio'):  # fmt: skip
      audio.read_header(path)
  # A recording that begins inside a frame and ends inside another.
  _, begin, length = _info_frame(data)
  path.write_bytes(data[begin + length + 50 : -100])
  assert 'passed over' in audio.read_header(path).notes
  assert len(audio.read_audio(path)) >= 5.9 * RATE


def test_mp3_cut_short_promises_more(tmp_path):
  data = _vbr(_sound(6.0))
  path = tmp_path / 'cut.mp3'
  path.write_bytes(data[: len(data) * 6 // 10])
  header = audio.read_header(path)
  assert header.promised_secs == pytest.approx(6.0, abs=0.06)
  assert header.frames == sum(map(len, audio.read_blocks(path))) < 5 * RATE


@pytest.mark.parametrize('subtype, channels', [('VORBIS', 2), ('VORBIS', 1), ('OPUS', 2)])
def test_chained_ogg(tmp_path, subtype, channels):
  """Each stream of a radio recording gives the samples that it gives alone."""
  sounds = _sound(3.0, channels), _sound(4.0, channels, seed=1)
  parts = [_encoded(x, 'OGG', subtype) for x in sounds]
  path = tmp_path / 'radio.ogg'
  path.write_bytes(b''.join(parts))
  right = []
  for part in parts:
    x, _ = soundfile.read(io.BytesIO(part), dtype='float32', always_2d=True)
    right.append(x)
  read = _read_all(path)
  assert len(read) == 7 * RATE
  np.testing.assert_allclose(read, np.concatenate(right), atol=1e-6)
  assert audio.read_header(path).notes == '2 chained Ogg streams'


def test_chained_ogg_of_different_kinds_is_refused(tmp_path):
  path = tmp_path / 'radio.ogg'
  stereo, mono = (_encoded(_sound(2, n), 'OGG', 'VORBIS') for n in (2, 1))
  path.write_bytes(stereo + mono)
  with pytest.raises(audio.AudioError, match=r'radio.ogg is joined of different files: 2 channels '
                     r'at 48000 Hz until 2\.00 s, then 1 channels at 48000 Hz'):  # fmt: skip
    audio.read_audio(path)
  path.write_bytes(stereo + _encoded(_sound(2), 'OGG', 'OPUS'))
  with pytest.raises(audio.AudioError, match='chain of different Ogg streams: Vorbis, Opus'):
    audio.read_audio(path)


def test_damaged_ogg_pages(tmp_path):
  path = tmp_path / 'radio.ogg'
  data = bytearray(_encoded(_sound(4), 'OGG', 'VORBIS'))
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  with pytest.raises(audio.AudioError, match=r'radio.ogg is damaged: the page at byte \d+ does'):
    audio.read_audio(path)


@pytest.mark.parametrize('total', [0, 1000, 3 * RATE])
def test_flac_whose_header_promises_too_little(tmp_path, total):
  x = _sound(3.0)
  data = bytearray(_encoded(x, 'FLAC', 'PCM_24'))
  data[21] &= 0xF0
  data[22:26] = struct.pack('>I', total)
  path = tmp_path / 'total.flac'
  path.write_bytes(data)
  np.testing.assert_allclose(_read_all(path), x, atol=2e-7)


def test_joined_flac_and_wav(tmp_path):
  x, y = _sound(2.0), _sound(2.0, seed=1)
  for form, suffix in (('FLAC', 'flac'), ('WAV', 'wav'), ('AIFF', 'aiff')):
    path = tmp_path / f'joined.{suffix}'
    path.write_bytes(_encoded(x, form, 'PCM_24') + _encoded(y, form, 'PCM_24'))
    np.testing.assert_allclose(_read_all(path), np.concatenate([x, y]), atol=2e-7)
    assert audio.read_header(path).notes == '2 files joined into one'


def test_wav_of_a_recorder_that_lost_its_power(tmp_path):
  """Its sizes are 0 still; one whose data chunk contradicts the file is refused."""
  x = _sound(2.0)
  data = bytearray(_encoded(x, 'WAV', 'PCM_24'))
  at = data.index(b'data') + 4
  data[4:8] = data[at : at + 4] = bytes(4)
  path = tmp_path / 'recorder.wav'
  path.write_bytes(data)
  np.testing.assert_allclose(_read_all(path), x, atol=2e-7)
  data[4:8] = struct.pack('<I', len(data) - 8)
  data[at : at + 4] = struct.pack('<I', 1000)
  path.write_bytes(data)
  with pytest.raises(audio.AudioError, match='recorder.wav is damaged: the data chunk promises'):
    audio.read_audio(path)
