"""First parameters from the codebooks of the data's codec and style model."""

import jax
import numpy as np
import pytest

from models import tokens
from models.depthformer import DepthformerConfig, DepthformerModel
from models.musiccoca import MusicCoCa
from models.spec import LiveMusicSpec
from models.spectrostream import SpectroStream
from pipelines import initial_params

SPEC = LiveMusicSpec()
CONFIG = DepthformerConfig(embed_dim=64, num_heads=1, head_dim=4, mlp_dim=8)
MODEL = DepthformerModel(CONFIG, SPEC)


@pytest.fixture(scope='module')
def identity():
  codec, style = SpectroStream.load('tiny'), MusicCoCa.load('tiny')
  return {
    'codec_name': 'tiny', 'codec_hash': codec.content_hash,
    'style_name': 'tiny', 'style_hash': style.content_hash,
  }  # fmt: skip


def test_near_codes_of_the_bundled_models_start_near(identity):
  params = initial_params.from_codebooks(MODEL, identity, seed=3)
  embedding = np.asarray(params['embedding'])
  for codebooks, offset in (
    (SpectroStream.load('tiny').codebooks, SPEC.codec_offset),
    (MusicCoCa.load('tiny').codebooks, SPEC.style_offset),
  ):
    rows, codes = embedding[offset:][:1024], np.asarray(codebooks[0])
    # Style codes out of use are all in one far place.
    used = np.linalg.norm(codes - codes[0], axis=1) < 10 * np.linalg.norm(codes[1] - codes[0])
    rows, codes = rows[used], codes[used]
    assert np.std(rows) == pytest.approx(1, abs=0.5)
    far = np.argsort(np.linalg.norm(codes - codes[7], axis=1))
    distances = np.linalg.norm(rows - rows[7], axis=1)
    near = distances[far[1 : 1 + len(far) // 50 + 1]]
    assert near.max() < np.median(distances)
  untouched = MODEL.init(jax.random.key(3))
  np.testing.assert_array_equal(params['encoder']['norm'], untouched['encoder']['norm'])
  np.testing.assert_array_equal(embedding[:2], untouched['embedding'][:2])


class _Feed:
  """Batches of three examples; the first of each is padded, the others repeat two codes a level."""

  def batch(self, index):
    codes = np.full([3, SPEC.chunk_frames, SPEC.target_levels], 5)
    codes[2] = 9
    targets = tokens.codec_ids(codes, SPEC).reshape(3, -1)
    targets[0, -SPEC.target_levels :] = SPEC.pad_id
    return {
      'encoder_input_tokens': np.full([3, SPEC.inputs_length], SPEC.mask_id, np.int32),
      'decoder_target_tokens': targets.astype(np.int32),
    }  # fmt: skip


def test_the_output_layer_starts_from_the_codes_of_the_feed(identity):
  plain = initial_params.from_codebooks(MODEL, identity, seed=3)
  params = initial_params.from_codebooks(MODEL, identity, seed=3, feed=_Feed())
  row = np.asarray(params['logits'])[0]
  codec = row[SPEC.codec_offset :][: SPEC.target_levels * 1024].reshape(-1, 1024)
  for level in codec:
    # Both codes as often, all others never.
    assert level[5] == level[9] > 0 > level[0] and np.ptp(np.delete(level, [5, 9])) == 0
  np.testing.assert_array_equal(params['logits'][1:], plain['logits'][1:])


def test_a_changed_codec_is_refused(identity):
  with pytest.raises(ValueError, match="codec model 0ld, 'tiny' is now .*Prepare the audio again"):
    initial_params.from_codebooks(MODEL, identity | {'codec_hash': '0ld'}, 0)


def test_other_models_have_no_codes_to_start_from():
  with pytest.raises(ValueError, match='Set CODEBOOK_START = False'):
    initial_params.from_codebooks(object(), None, 0)
