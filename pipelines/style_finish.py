"""Makes a style model of trained towers: text onto audio, style tokens, one weights file."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm

from evaluation.retrieval import retrieval_scores, token_agreement
from models.musiccoca import MusicCoCa, MusicCoCaConfig, towers
from models.musiccoca.codebooks import CodebookRecipe, fit_codebooks
from models.musiccoca.quantizer import float16_values
from models.musiccoca.training import locked_audio_loss
from models.musiccoca.vocabulary import TextVocabulary
from pipelines.style_feed import StyleFeed
from preprocessing.captions import caption_variant, whole_caption

WEIGHTS_FILE = 'style.safetensors'
_EMBED_BLOCK = 16


@dataclasses.dataclass(frozen=True)
class FinishRecipe:
  """How a trained pair of towers becomes a style model: text onto audio, then tokens.

  Attributes:
    text_steps: steps in which the text tower alone is tuned, the audio tower locked; 0 for none.
    text_learning_rate: of these steps (Adam, cosine decay).
    text_batch_size: pairs in such a step.
    temperature: of the contrastive loss in these steps.
    codebooks: how the style tokens are fitted.
    windows_per_track: evenly spaced 10 s windows of each training track.
    texts_per_track: caption variants of each training track; the caption itself comes on top.
    seed: of caption variants.
  """

  text_steps: int = 150
  text_learning_rate: float = 5e-4
  text_batch_size: int = 64
  temperature: float = 0.07
  codebooks: CodebookRecipe = CodebookRecipe()
  windows_per_track: int = 3
  texts_per_track: int = 5
  seed: int = 0


def finish_style_model(
  params: dict[str, Any],
  feed: StyleFeed,
  recipe: FinishRecipe,
  model_dir: str,
  held_out: StyleFeed | None = None,
  card: dict[str, Any] | None = None,
) -> MusicCoCa:
  """Tunes text onto audio, fits the style tokens and writes the weights with their figures."""
  # The towers as they will be loaded: codebooks must fit those.
  audio_params = _rounded(params['audio'])
  audio = embed_windows({'audio': audio_params}, feed, recipe.windows_per_track)
  text_params = _rounded(tune_text(params['text'], audio, feed, recipe))
  params = {'audio': audio_params, 'text': text_params}
  texts = []
  for index, track in enumerate(feed.tracks):
    rng = np.random.default_rng([recipe.seed, index])
    texts.append(whole_caption(track.facts))
    texts.extend(caption_variant(track.facts, rng) for _ in range(recipe.texts_per_track))
  text = embed_texts(params, texts, feed.vocabulary, feed.config)
  spec = feed.spec
  fitted = fit_codebooks(
    audio, text, spec.style_rvq_levels, spec.codebook_size, recipe.codebooks
  )
  model = MusicCoCa(
    feed.config, params, feed.vocabulary, fitted, feed.spec, mel_matrix=feed.mel_matrix
  )
  model.card = {
    **(card or {}),
    'training_tracks': len(feed.tracks),
    'finish': dataclasses.asdict(recipe),
  }
  if held_out is not None:
    figures = style_figures(model, *embed_pairs(params, held_out))
    model.card['held_out_tracks'] = len(held_out.tracks)
    model.card['held_out'] = {name: round(value, 4) for name, value in figures.items()}
    print('\n'.join(f'  {name}: {value:.3f}' for name, value in figures.items()))
  path = model.save(pathlib.Path(model_dir) / WEIGHTS_FILE)
  print(f'{path}: {path.stat().st_size / 1e6:.2f} MB, {model.content_hash}.')
  return model


def tune_text(
  text_params: dict[str, Any], audio: np.ndarray, feed: StyleFeed, recipe: FinishRecipe
) -> dict[str, Any]:
  """Tunes the text tower onto a finished audio tower; see `training.locked_audio_loss`.

  A contrastive loss leaves the two clouds of embeddings apart (arXiv 2203.02053), and then a text's
  tokens are not those of the music it describes.

  Args:
    text_params: of the text tower.
    audio: [tracks * windows_per_track, style_dim], the tracks' windows in order.
    feed: gives captions and vocabulary.
    recipe: steps, rate, batch size.
  """
  rate = optax.cosine_decay_schedule(recipe.text_learning_rate, max(recipe.text_steps, 1))
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
  opt_state = optimizer.init(text_params)

  @jax.jit
  def step(params: Any, opt_state: Any, batch: dict[str, jax.Array]):
    (_, distance), gradients = jax.value_and_grad(locked_audio_loss, has_aux=True)(
      params, batch, feed.config, recipe.temperature
    )
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, distance

  with tqdm(range(recipe.text_steps), desc='text onto audio', unit='step') as bar:
    for number in bar:
      rng = np.random.default_rng([recipe.seed, number])
      rows = rng.integers(len(audio), size=recipe.text_batch_size)
      facts = [feed.tracks[row // recipe.windows_per_track].facts for row in rows]
      ids, paddings = feed.vocabulary.encode([caption_variant(f, rng) for f in facts])
      batch = {
        'audio_embedding': audio[rows],
        'text_ids': ids[:, : feed.text_length],
        'text_paddings': paddings[:, : feed.text_length],
      }
      text_params, opt_state, distance = step(text_params, opt_state, batch)
      if number % 10 == 9:
        bar.set_postfix_str(f'relative distance {float(distance):.3f}', refresh=False)
  return text_params


def _rounded(params: dict[str, Any]) -> dict[str, Any]:
  return jax.tree.map(lambda x: float16_values(np.asarray(x)), params)


def style_figures(model: MusicCoCa, audio: np.ndarray, text: np.ndarray) -> dict[str, float]:
  """Figures of N held-out pairs of embeddings [N, style_dim].

  Retrieval both ways; `modality_gap`: distance between the two means relative to the mean norm;
  `pair_cosine`; `token_agreement_<level>`: how often caption and clip have the same code.
  """
  figures = retrieval_scores(audio, text)
  norm = np.linalg.norm(np.concatenate([audio, text]), axis=1).mean()
  figures['modality_gap'] = float(np.linalg.norm(audio.mean(0) - text.mean(0)) / norm)
  unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (audio, text)]
  figures['pair_cosine'] = float((unit[0] * unit[1]).sum(1).mean())
  levels = model.spec.style_levels
  agreement = token_agreement(model.tokenize(audio), model.tokenize(text), levels)
  for level, share in enumerate(agreement):
    figures[f'token_agreement_{level}'] = float(share)
  return figures


def embed_pairs(params: dict[str, Any], feed: StyleFeed) -> tuple[np.ndarray, np.ndarray]:
  """The middle window of each of the feed's tracks, and its caption -> [N, style_dim] twice."""
  audio = embed_windows(params, feed, 1)
  texts = [whole_caption(track.facts) for track in feed.tracks]
  return audio, embed_texts(params, texts, feed.vocabulary, feed.config)


def embed_windows(params: dict[str, Any], feed: StyleFeed, count: int) -> np.ndarray:
  """`count` evenly spaced windows of each track in turn -> [tracks * count, style_dim]."""
  blocks = []
  for first in range(0, len(feed.tracks), _EMBED_BLOCK):
    tracks = range(first, min(first + _EMBED_BLOCK, len(feed.tracks)))
    clips = np.concatenate([_even_windows(feed, index, count) for index in tracks])
    blocks.append(embed_log_mels(params, clips, feed.config))
  return np.concatenate(blocks)


def embed_log_mels(
  params: dict[str, Any], log_mels: np.ndarray, config: MusicCoCaConfig
) -> np.ndarray:
  """[N, frames, bands] -> float32 [N, style_dim], in blocks."""
  blocks = []
  for start in range(0, len(log_mels), _EMBED_BLOCK):
    rows = log_mels[start : start + _EMBED_BLOCK]
    padded = np.pad(rows, [(0, _EMBED_BLOCK - len(rows)), (0, 0), (0, 0)])
    blocks.append(np.asarray(_embed_log_mel(params['audio'], padded, config))[: len(rows)])
  return np.concatenate(blocks)


def embed_texts(
  params: dict[str, Any], texts: Sequence[str], vocabulary: TextVocabulary, config: MusicCoCaConfig
) -> np.ndarray:
  """Texts -> float32 [N, style_dim], in blocks."""
  ids, paddings = vocabulary.encode(texts)
  blocks = []
  for start in range(0, len(ids), _EMBED_BLOCK):
    rows = slice(start, start + _EMBED_BLOCK)
    missing = _EMBED_BLOCK - len(ids[rows])
    parts = [np.pad(x[rows], [(0, missing), (0, 0)]) for x in (ids, paddings)]
    block = np.asarray(_embed_ids(params['text'], *parts, config))
    blocks.append(block[: _EMBED_BLOCK - missing])
  return np.concatenate(blocks)


_embed_ids = jax.jit(towers.embed_text_ids, static_argnums=3)


@functools.partial(jax.jit, static_argnums=2)
def _embed_log_mel(params: dict[str, Any], log_mels: jax.Array, config: MusicCoCaConfig):
  return towers.embed_log_mel(params, log_mels.astype('float32'), config)


def _even_windows(feed: StyleFeed, index: int, count: int) -> np.ndarray:
  """`count` evenly spaced windows of a track, [count, frames, bands]; 1 = the middle."""
  log_mel = feed.track_log_mel(index)
  room = max(len(log_mel) - feed.clip_frames, 0)
  starts = [round(room * (i + 0.5) / count) for i in range(count)]
  return np.stack([feed.window(log_mel, start) for start in starts])
