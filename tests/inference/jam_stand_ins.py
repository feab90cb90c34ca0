"""Small stand-ins of what jam plays: an engine that answers at once, and a server around it."""

import concurrent.futures
import contextlib
import threading
import time

import numpy as np

from inference import mix
from inference.batching import ChunkResult
from inference.players import Players
from inference.protocol import Limits
from inference.server import JamServer
from inference.styles import StyleBook
from models.spec import LiveMusicSpec

SPEC = LiveMusicSpec(
  sample_rate=8000,
  frame_rate=5,
  codec_levels=4,
  codebook_size=8,
  context_frames=6,
  context_levels=2,
  chunk_frames=4,
  target_levels=3,
  style_dim=5,
  style_rvq_levels=3,
  style_levels=2,
  style_offset=40,
  vocab_size=64,
)
FRAME = SPEC.samples_per_frame


class Codec:
  """One code, one level of sound."""

  spec = SPEC

  def __init__(self):
    self.encoded = []

  def encode(self, audio, num_levels):
    self.encoded.append(np.array(audio))
    frames = audio[: len(audio) // FRAME * FRAME].reshape(-1, FRAME, 2)
    level = np.abs(frames).mean((1, 2))
    return np.stack([np.int32(level * k) % 8 for k in (10, 100, 1000)], -1)[:, :num_levels]


class Style:
  def embed_text(self, texts):
    return np.stack([np.full(5, len(text), np.float32) for text in texts])

  def embed_audio(self, audio, sample_rate):
    return np.full(5, np.abs(audio).max(), np.float32)

  def tokenize(self, embedding):
    return (np.int32(embedding[..., :3]) + np.arange(3, dtype=np.int32)) % 8


class Engine:
  """Chunks whose level names index and seed; each takes `secs`, and waits while `hold` is clear."""

  def __init__(self, secs=0.0):
    self.spec, self.codec = SPEC, Codec()
    self.requests = []
    self.hold = threading.Event()
    self.hold.set()
    self.ready = True
    self.error = None
    self._pool = concurrent.futures.ThreadPoolExecutor(4)
    self._secs = secs

  def is_ready(self, sampling):
    return self.ready

  def submit(self, request):
    self.requests.append(request)
    return self._pool.submit(self._make, request)

  def _make(self, request):
    self.hold.wait(120)
    time.sleep(self._secs)
    if self.error:
      raise self.error
    codes = np.full([SPEC.chunk_frames, SPEC.target_levels], request.chunk_index % 8, np.int32)
    value = (1 + request.chunk_index) / 1000 + request.seed / 10
    audio = np.full([(SPEC.chunk_frames + 1) * FRAME, 2], value, np.float32)
    return ChunkResult(codes, audio, 0.001, 1, 0.0)


@contextlib.contextmanager
def running_server(limits=None, engine=None, **options):
  """A JamServer on a free port, with its engine."""
  engine = engine or Engine()
  styles = StyleBook(Style(), {'mean': np.full(5, 2, np.float32)})
  settings = mix.Settings(prompts=mix.on_a_ring(['organ', 'drums']), buffer_secs=0.5)
  players = Players(engine, styles, limits or Limits(), settings)
  server = JamServer(players, model_name='toy', port=0, **options)
  server.start()
  try:
    yield server
  finally:
    server.stop()
