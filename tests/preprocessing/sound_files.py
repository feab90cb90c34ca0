"""Small files of every kind, as bytes: by soundfile, or by PyAV's encoders."""

import io
import pathlib
import tempfile

import numpy as np
import soundfile

# Suffix -> PyAV's encoder, sample format and container.
_PYAV = {
  'm4a': ('aac', 'fltp', 'ipod'), 'alac.m4a': ('alac', 's16p', 'ipod'),
  'aac': ('aac', 'fltp', 'adts'), 'wv': ('wavpack', 's16p', 'wv'), 'wma': ('wmav2', 'fltp', 'asf'),
  'webm': ('libopus', 'flt', 'webm'), 'mka': ('libopus', 'flt', 'matroska'),
  'mp2': ('mp2', 's16', 'mp2'), 'tta': ('tta', 's16', 'tta'), 'ac3': ('ac3', 'fltp', 'ac3'),
  'mov': ('aac', 'fltp', 'mov'), 'avi': ('libmp3lame', 'fltp', 'avi'),
  'ts': ('aac', 'fltp', 'mpegts'), 'flv': ('aac', 'fltp', 'flv'), 'mpg': ('mp2', 's16', 'mpeg'),
}  # fmt: skip
PYAV_KINDS = tuple(_PYAV)
_SUBTYPES = {
  'wav': ('WAV', 'PCM_16'), 'flac': ('FLAC', 'PCM_16'), 'mp3': ('MP3', 'MPEG_LAYER_III'),
  'ogg': ('OGG', 'VORBIS'), 'opus': ('OGG', 'OPUS'), 'aiff': ('AIFF', 'PCM_16'),
  'au': ('AU', 'PCM_16'), 'w64': ('W64', 'PCM_16'), 'caf': ('CAF', 'PCM_16'),
}  # fmt: skip
_LAYOUTS = {1: 'mono', 2: 'stereo', 6: '5.1'}


def encoded(x: np.ndarray, rate: int, kind: str, **options: str) -> bytes:
  """float32 [n, channels] as a file of a kind: a suffix of `_SUBTYPES` or `PYAV_KINDS`.

  `options` are those of PyAV's container.
  """
  data = io.BytesIO()
  if kind in _SUBTYPES:
    form, subtype = _SUBTYPES[kind]
    soundfile.write(data, x, rate, format=form, subtype=subtype)
    return data.getvalue()
  import av

  codec, sample_format, container = _PYAV[kind]
  if sample_format.startswith('s16'):
    x = np.round(x * 32_767).astype(np.int16)
  planar = sample_format.endswith('p')
  samples = np.ascontiguousarray(x.T if planar else x.reshape(1, -1))
  frame = av.AudioFrame.from_ndarray(samples, sample_format, _LAYOUTS[x.shape[-1]])
  frame.sample_rate = rate
  with tempfile.TemporaryDirectory() as folder:
    target = pathlib.Path(folder, 'sound')  # A file: the options may make FFmpeg read it again.
    with av.open(str(target), 'w', format=container, container_options=options) as file:
      stream = file.add_stream(codec, rate=rate)
      stream.layout, stream.format = _LAYOUTS[x.shape[-1]], sample_format
      stream.bit_rate = 192_000
      size = stream.codec_context.frame_size or 1024
      fifo = av.AudioFifo()
      fifo.write(frame)
      while (piece := fifo.read(size, partial=True)) is not None:
        file.mux(stream.encode(piece))
      file.mux(stream.encode(None))
    return target.read_bytes()
