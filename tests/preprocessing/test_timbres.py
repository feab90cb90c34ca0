"""Isolated sounds: the same for a seed, stereo, within full scale, of many kinds."""

import numpy as np
import pytest
import soundfile

from models.spec import LiveMusicSpec
from preprocessing import timbres

SPEC = LiveMusicSpec()


def test_a_clip_depends_on_seed_and_number_only():
  one = timbres.render_clip(3, 1, 2.0, SPEC)
  assert one.shape == (96_000, 2) and one.dtype == np.float32
  np.testing.assert_array_equal(one, timbres.render_clip(3, 1, 2.0, SPEC))
  assert not np.array_equal(one, timbres.render_clip(3, 2, 2.0, SPEC))
  assert not np.array_equal(one, timbres.render_clip(4, 1, 2.0, SPEC))
  assert 0.01 < np.abs(one).max() <= 0.9 and not np.array_equal(one[:, 0], one[:, 1])


@pytest.mark.parametrize('sound', timbres.SOUNDS)
def test_every_sound_is_finite_and_heard(sound):
  x = sound(np.random.default_rng(0), 9600, SPEC.sample_rate)
  assert x.shape == (9600,) and np.isfinite(x).all() and np.abs(x).max() > 1e-4


def test_command_writes_clips_and_keeps_those_that_exist(tmp_path, capsys):
  arguments = [f'--output_dir={tmp_path}', '--num_clips=2', '--secs_per_clip=1']
  timbres.main(arguments)
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['timbres-0000.flac', 'timbres-0001.flac']
  audio, rate = soundfile.read(tmp_path / names[1])
  assert rate == 48_000 and audio.shape == (48_000, 2)
  np.testing.assert_allclose(audio, timbres.render_clip(0, 1, 1.0, SPEC), atol=2**-14)
  before = (tmp_path / names[0]).stat().st_mtime_ns
  timbres.main(arguments)
  assert (tmp_path / names[0]).stat().st_mtime_ns == before
  with pytest.raises(SystemExit):
    timbres.main([f'--output_dir={tmp_path}', '--num_clips=0'])
  assert '--num_clips is at least 1' in capsys.readouterr().err
