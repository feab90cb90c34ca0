"""Formats that PyAV decodes: the signal, by range too; and no other file is opened."""

import os

import numpy as np
import pytest
import sound_files

from preprocessing import audio, ffmpeg, listing, manifest

RATE = 48_000


@pytest.fixture(scope='module')
def sound():
  """A second of a melody, no part of which is like another."""
  rng = np.random.default_rng(0)
  notes = np.repeat(rng.uniform(300, 3000, [20, 2]), RATE // 20, axis=0)
  return (0.4 * np.sin(2 * np.pi * np.cumsum(notes, axis=0) / RATE)).astype(np.float32)


def _error(x, right):
  """Least mean difference over what a codec may put before the sound, or leave out of it."""
  inner = right[2400:40_000]
  return min(
    float(np.abs(x[delay : delay + len(inner)] - inner).mean())
    for delay in range(4800)
    if len(x) >= delay + len(inner)
  )


@pytest.mark.parametrize('kind', sound_files.PYAV_KINDS)
def test_formats(tmp_path, sound, kind):
  path = tmp_path / f'song.{kind}'
  path.write_bytes(sound_files.encoded(sound, RATE, kind))
  header = audio.read_header(path)
  assert (header.sample_rate, header.channels) == (RATE, 2)
  assert header.duration_secs == pytest.approx(1.0, abs=0.06)
  whole = audio.read_audio(path)
  assert _error(whole, sound) < (1e-4 if kind in ('alac.m4a', 'wv', 'tta') else 0.02)
  part = audio.read_audio(path, start=0.4, duration=0.3)
  np.testing.assert_array_equal(part, whole[19_200 : 19_200 + 14_400])
  with audio.decodable(path) as made:
    np.testing.assert_array_equal(audio.read_audio(made), whole)
  # By the first bytes, not by the name.
  wrong = tmp_path / 'wrong.mp3'
  os.rename(path, wrong)
  np.testing.assert_array_equal(audio.read_audio(wrong), whole)


def test_a_cut_file_is_shorter_than_its_promise(tmp_path, sound):
  data = sound_files.encoded(np.tile(sound, [4, 1]), RATE, 'wv')
  path = tmp_path / 'cut.wv'
  path.write_bytes(data[: len(data) * 6 // 10])
  try:
    header = audio.read_header(path)
    assert header.promised_secs == pytest.approx(4.0, abs=0.1)
    assert sum(map(len, audio.read_blocks(path))) < 3 * RATE
  except audio.AudioError as error:
    assert str(path) in str(error)


@pytest.mark.parametrize(
  'text',
  [
    '#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n',
    'ffconcat version 1.0\nfile {}\n',
    '<?xml version="1.0"?><MPD><BaseURL>{}</BaseURL></MPD>',
    'v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\na={}\n',
  ],
)
@pytest.mark.parametrize('suffix', ['.m4a', '.mp3', '.wma', '.wav'])
def test_no_playlist_is_followed(tmp_path, sound, text, suffix):
  secret = tmp_path / 'secret.m4a'
  secret.write_bytes(sound_files.encoded(sound, RATE, 'm4a'))
  path = tmp_path / f'list{suffix}'
  path.write_text(text.format(secret))
  with pytest.raises(audio.AudioError) as raised:
    audio.read_audio(path)
  assert raised.value.reason == 'not_audio' and str(path) in str(raised.value)


def test_protected_files_are_named(tmp_path, sound):
  data = sound_files.encoded(sound, RATE, 'm4a')
  path = tmp_path / 'bought.m4p'
  path.write_bytes(data.replace(b'mp4a', b'drms', 1))
  with pytest.raises(audio.AudioError, match=r'bought.m4p cannot be decoded: copy protection'):
    audio.read_header(path)
  (tmp_path / 'free.m4a').write_bytes(data)
  (track,), (reject,) = manifest.build_manifest(tmp_path)
  assert track.title == 'free' and reject.reason == 'unsupported_format'


def test_no_file_of_a_folder_goes_unmentioned(tmp_path, sound, capfd):
  data = sound_files.encoded(sound, RATE, 'flac')
  for name in ('a.flac', 'b.webm', 'c.MKA', 'unknown.xyz', 'no suffix'):
    (tmp_path / name).write_bytes(data)
  for name in ('cover.jpg', 'notes.txt', 'list.m3u8', '.hidden.mp3', '._a.flac'):
    (tmp_path / name).write_bytes(b'x')
  for name in ('song.mid', 'game.mod', 'strange.qqq', 'nothing'):
    (tmp_path / name).write_bytes(b'x' * 99)
  (tmp_path / 'link').symlink_to(tmp_path)
  (tmp_path / '.cache').mkdir()
  found, rejects = manifest.find_audio_files(tmp_path)
  assert [os.path.basename(path) for path in found] == [
    'a.flac', 'b.webm', 'c.MKA', 'no suffix', 'unknown.xyz',
  ]  # fmt: skip
  reasons = {os.path.basename(reject.path): reject.detail for reject in rejects}
  assert set(reasons) == {'song.mid', 'game.mod', 'strange.qqq', 'nothing'}
  assert reasons['song.mid'] == '.mid is a score, not a recording'
  assert reasons['strange.qqq'].startswith('.qqq is not the name of an audio format')
  line = capfd.readouterr().err
  assert f'{tmp_path}: 5 audio files; 4 of formats that cannot be read; and not audio' in line
  for part in ('2 hidden files', '1 .jpg', '1 .txt', '1 .m3u8', '1 links to folders',
               '1 hidden folders'):  # fmt: skip
    assert part in line
  manifest.find_audio_files(tmp_path)
  assert capfd.readouterr().err == ''  # Once.


def test_a_folder_without_audio_says_what_it_holds(tmp_path):
  (tmp_path / 'cover.jpg').write_bytes(b'x')
  (tmp_path / 'song.mid').write_bytes(b'x')
  with pytest.raises(ValueError, match=r'1 files cannot be read, e.g. .*song.mid; it holds 1 .jpg'):
    manifest.find_audio_files(tmp_path)
  assert listing.list_folder(str(tmp_path)).others_text() == '1 .jpg'


def test_ffmpeg_messages_name_no_file_of_their_own(tmp_path, capfd):
  path = tmp_path / 'broken.m4a'
  path.write_bytes(b'\0\0\0\x20ftypM4A ' + bytes(1000))
  with pytest.raises(audio.AudioError, match='broken.m4a cannot be decoded'):
    audio.read_header(path)
  assert ffmpeg.demuxer_for(str(path)) == 'mov'
  assert capfd.readouterr().err == ''
