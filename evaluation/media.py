"""Audio inside the report: short clips as MP3 data, playable in every browser without a network."""

import base64
import io

import numpy as np
import soundfile

_BLOCK = 65_536


def mp3_bytes(audio: np.ndarray, sample_rate: int) -> bytes:
  """float [samples, channels] in -1..1 -> an MP3 file of variable bit rate (about 190 kbit/s)."""
  buffer = io.BytesIO()
  with soundfile.SoundFile(
    buffer, 'w', sample_rate, audio.shape[1], format='MP3', subtype='MPEG_LAYER_III'
  ) as file:
    clipped = np.clip(audio, -1, 1)
    for start in range(0, len(clipped), _BLOCK):
      file.write(clipped[start : start + _BLOCK])
  return buffer.getvalue()


def data_uri(content: bytes, kind: str = 'audio/mpeg') -> str:
  """Bytes -> 'data:audio/mpeg;base64,...'."""
  return f'data:{kind};base64,{base64.b64encode(content).decode("ascii")}'
