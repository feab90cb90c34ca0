"""How near decoded audio is to its original: mel and STFT distances, SI-SDR, and other codecs.

All take float arrays [samples, channels] of equal shape. The distances are 0 for identical audio
and grow with the difference; they compare magnitudes, so a codec may change phases at no cost.
SI-SDR compares waveforms; it is shown, not ranked by.
"""

import pathlib
import shutil
import subprocess
import tempfile

import numpy as np
import scipy.special
import soundfile

from evaluation import spectra

MEL_WINDOWS = (64, 128, 256, 512, 1024, 2048)
STFT_WINDOWS = (512, 1024, 2048)
MEL_FLOOR_DB = -80.0
_BINS_PER_MEL = 16


class Unavailable(RuntimeError):
  """A comparison that this machine cannot make; the message says what is absent."""


def mel_distance(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
  """Multi-scale mel distance in dB.

  For each window w of 64..2048 samples (hop w/4, Hann, w/16 mel bands from 0 to half the sample
  rate): the mean over frames, bands and channels of |level - level'|, a level being 20 log10 of the
  band's mean magnitude, with a full-scale sine at 0 dB and a floor at -80 dB. The result is the
  mean over windows. The scales are those of the codec literature's multi-scale mel losses
  (arXiv 2306.06546); the unit makes it readable: 3 dB is a clearly audible change of every band.
  """
  _check_pair(reference, estimate)
  distances = []
  for window in MEL_WINDOWS:
    filters = spectra.mel_filters(sample_rate, window, window // _BINS_PER_MEL)
    for channel in range(reference.shape[1]):
      levels = [
        spectra.decibels(
          spectra.magnitudes(audio[:, channel], window, window // 4) @ filters, MEL_FLOOR_DB
        )
        for audio in (reference, estimate)
      ]
      distances.append(np.mean(np.abs(levels[0] - levels[1])))
  return float(np.mean(distances))


def stft_distance(reference: np.ndarray, estimate: np.ndarray) -> float:
  """Multi-scale STFT distance: mean over windows of spectral convergence + log magnitude L1.

  Spectral convergence is ||S - S'|| / ||S|| (Frobenius); the log term is the mean of
  |ln S - ln S'| with a floor at -80 dB (the two terms of arXiv 1910.11480). Windows of 512, 1024
  and 2048 samples, hop w/4.
  """
  _check_pair(reference, estimate)
  floor = 10 ** (MEL_FLOOR_DB / 20)
  distances = []
  for window in STFT_WINDOWS:
    for channel in range(reference.shape[1]):
      s = spectra.magnitudes(reference[:, channel], window, window // 4)
      t = spectra.magnitudes(estimate[:, channel], window, window // 4)
      convergence = np.linalg.norm(s - t) / max(np.linalg.norm(s), floor)
      log_term = np.mean(np.abs(np.log(np.maximum(s, floor)) - np.log(np.maximum(t, floor))))
      distances.append(convergence + log_term)
  return float(np.mean(distances))


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
  """Scale-invariant signal-to-distortion ratio in dB, over all channels jointly.

  10 log10(|a s|^2 / |a s - s'|^2) with a = <s', s> / <s, s> (arXiv 1811.02508), no mean removed.
  Identical audio gives inf, a silent reference NaN.
  """
  _check_pair(reference, estimate)
  s = np.asarray(reference, np.float64).ravel()
  t = np.asarray(estimate, np.float64).ravel()
  energy = s @ s
  if not energy:
    return float('nan')
  target = (t @ s) / energy * s
  error = np.sum((target - t) ** 2)
  if not error:
    return float('inf')
  with np.errstate(divide='ignore'):
    return float(10 * np.log10(np.sum(target**2) / error))


def reconstruction_metrics(
  reference: np.ndarray, estimate: np.ndarray, sample_rate: int
) -> dict[str, float]:
  """The three measures of one reconstruction, by name."""
  return {
    'mel_distance_db': mel_distance(reference, estimate, sample_rate),
    'stft_distance': stft_distance(reference, estimate),
    'si_sdr_db': si_sdr(reference, estimate),
  }


def codebook_use(counts: np.ndarray) -> dict[str, np.ndarray]:
  """How evenly each level's codebook is used, from code counts [levels, codebook_size].

  Returns:
    'entropy_bits' [levels]: of the code histogram; 'perplexity' [levels] = 2 ** entropy;
    'used_share' [levels]: codes seen at least once. A short recording cannot use every code: with N
    frames no share exceeds N / codebook_size.
  """
  p = counts / counts.sum(1, keepdims=True)
  entropy = scipy.special.entr(p).sum(1) / np.log(2)
  return {
    'entropy_bits': entropy,
    'perplexity': 2**entropy,
    'used_share': np.count_nonzero(counts, axis=1) / counts.shape[1],
  }


def opus_round_trip(audio: np.ndarray, sample_rate: int, kbps: float) -> tuple[np.ndarray, float]:
  """Opus at a constant bit rate, by opus-tools.

  Returns:
    Decoded audio of the same shape, and the rate of the file that was written in kbit/s (container
    included).

  Raises:
    Unavailable: opusenc or opusdec is absent, or the rate is below Opus's 6 kbit/s.
  """
  for tool in ('opusenc', 'opusdec'):
    if not shutil.which(tool):
      raise Unavailable(f'{tool} absent (Debian package opus-tools)')
  if kbps < 6:
    raise Unavailable(f'Opus has no rate below 6 kbit/s (asked: {kbps:g})')
  with tempfile.TemporaryDirectory() as folder:
    source, coded, decoded = (pathlib.Path(folder) / name for name in ('a.wav', 'b.opus', 'c.wav'))
    soundfile.write(source, audio, sample_rate, subtype='FLOAT')
    _call('opusenc', '--quiet', '--hard-cbr', '--bitrate', f'{kbps:g}', source, coded)
    _call('opusdec', '--quiet', '--float', '--rate', str(sample_rate), coded, decoded)
    result, _ = soundfile.read(decoded, dtype='float32', always_2d=True)
    rate = coded.stat().st_size * 8 / 1000 / (len(audio) / sample_rate)
  return _same_shape(result, audio), rate


def mp3_round_trip(audio: np.ndarray, sample_rate: int, kbps: float) -> tuple[np.ndarray, float]:
  """MP3 at a constant bit rate, by ffmpeg; below 32 kbit/s at half the sample rate (MPEG-2).

  Returns:
    As `opus_round_trip`.

  Raises:
    Unavailable: ffmpeg is absent, or the rate is below MP3's 8 kbit/s.
  """
  if not shutil.which('ffmpeg'):
    raise Unavailable('ffmpeg absent')
  if kbps < 8:
    raise Unavailable(f'MP3 has no rate below 8 kbit/s (asked: {kbps:g})')
  coded_rate = sample_rate if kbps >= 32 else sample_rate // 2
  with tempfile.TemporaryDirectory() as folder:
    source, coded, decoded = (pathlib.Path(folder) / name for name in ('a.wav', 'b.mp3', 'c.wav'))
    soundfile.write(source, audio, sample_rate, subtype='FLOAT')
    quiet = ('-loglevel', 'error', '-y')
    rate_flags = ('-ar', str(coded_rate), '-c:a', 'libmp3lame', '-b:a', f'{kbps:g}k')
    _call('ffmpeg', *quiet, '-i', source, *rate_flags, coded)
    _call('ffmpeg', *quiet, '-i', coded, '-ar', str(sample_rate), '-c:a', 'pcm_f32le', decoded)
    result, _ = soundfile.read(decoded, dtype='float32', always_2d=True)
    rate = coded.stat().st_size * 8 / 1000 / (len(audio) / sample_rate)
  return _same_shape(result, audio), rate


def _same_shape(decoded: np.ndarray, audio: np.ndarray) -> np.ndarray:
  missing = max(0, len(audio) - len(decoded))
  return np.pad(decoded, ((0, missing), (0, 0)))[: len(audio)]


def _call(*command):
  done = subprocess.run(
    [str(part) for part in command], capture_output=True, text=True, check=False
  )
  if done.returncode:
    raise Unavailable(f'{command[0]} failed: {done.stderr.strip()[-200:]}')


def _check_pair(reference: np.ndarray, estimate: np.ndarray):
  if reference.shape != estimate.shape or reference.ndim != 2:
    raise ValueError(
      f'Audio of shapes {reference.shape} and {estimate.shape} cannot be compared; both are '
      '[samples, channels] of one shape.'
    )
