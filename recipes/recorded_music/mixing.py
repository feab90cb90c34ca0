"""Adding up the stems of a song, such as the guitar and all else, to what a listener would hear."""

import io
from collections.abc import Sequence

import numpy as np
import soundfile

# Peak that a sum may have, in dB of full scale.
_PEAK_DBFS = -0.1


def mix(stems: Sequence[bytes]) -> bytes:
  """Adds up stems.

  Args:
    stems: files that libsndfile reads, of one sample rate, length and number of channels.

  Returns:
    A FLAC file of 16 bits: the sum, made softer if it would exceed -0.1 dB of full scale.

  Raises:
    ValueError: the stems differ in rate, length or channels.
  """
  read = [soundfile.read(io.BytesIO(stem), always_2d=True) for stem in stems]
  shapes = {(rate, *x.shape) for x, rate in read}
  if len(shapes) > 1:
    raise ValueError(f'The stems differ in (rate, samples, channels): {sorted(shapes)}.')
  total = np.sum([x for x, _ in read], axis=0)
  highest = 10 ** (_PEAK_DBFS / 20)
  total *= min(1.0, highest / max(np.abs(total).max(), highest))
  written = io.BytesIO()
  soundfile.write(written, total, read[0][1], format='FLAC', subtype='PCM_16')
  return written.getvalue()
