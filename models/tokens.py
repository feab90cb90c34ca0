"""The token layout of the language model, both ways: RVQ codes <-> vocabulary ids.

Every RVQ level has its own `codebook_size` ids. Codec ids start at `spec.codec_offset`, style ids
at `spec.style_offset`; id 0 pads and starts the decoder, id 1 marks missing context or style.
Sequences are time-major and level-minor. All functions take and give NumPy arrays.
"""

import numpy as np

from models.spec import LiveMusicSpec


def codes_to_ids(codes: np.ndarray, offset: int, codebook_size: int) -> np.ndarray:
  """RVQ codes [..., levels] -> vocabulary ids of the same shape, int32.

  Raises:
    ValueError: a code lies outside 0..codebook_size-1.
  """
  codes = np.asarray(codes)
  bad = (codes < 0) | (codes >= codebook_size)
  if bad.any():
    raise ValueError(f'Code {int(codes[bad][0])} is not in 0..{codebook_size - 1}.')
  levels = np.arange(codes.shape[-1], dtype=np.int32)
  return (codes + offset + levels * codebook_size).astype(np.int32)


def ids_to_codes(ids: np.ndarray, offset: int, codebook_size: int) -> np.ndarray:
  """Vocabulary ids [..., levels] -> RVQ codes of the same shape, int32.

  v1 folds an id of a wrong level into 0..1023 in silence; here it is an error.

  Raises:
    ValueError: an id does not belong to the level at its position.
  """
  ids = np.asarray(ids)
  levels = np.arange(ids.shape[-1], dtype=np.int32)
  codes = ids - offset - levels * codebook_size
  bad = (codes < 0) | (codes >= codebook_size)
  if bad.any():
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    low = offset + where[-1] * codebook_size
    raise ValueError(
      f'Id {int(ids[where])} at {where} is not of level {where[-1]} '
      f'({low}..{low + codebook_size - 1}).'
    )
  return codes.astype(np.int32)


def codec_ids(codes: np.ndarray, spec: LiveMusicSpec) -> np.ndarray:
  """Codec codes [..., levels] -> ids."""
  return codes_to_ids(codes, spec.codec_offset, spec.codebook_size)


def codec_codes(ids: np.ndarray, spec: LiveMusicSpec) -> np.ndarray:
  """Codec ids [..., levels] -> codes."""
  return ids_to_codes(ids, spec.codec_offset, spec.codebook_size)


def style_ids(tokens: np.ndarray | None, spec: LiveMusicSpec) -> np.ndarray:
  """Style tokens [..., >= style_levels] -> ids [..., style_levels]; None -> all masked."""
  if tokens is None:
    return np.full([spec.style_levels], spec.mask_id, np.int32)
  tokens = np.asarray(tokens)
  if tokens.shape[-1] < spec.style_levels:
    raise ValueError(f'{tokens.shape[-1]} style tokens; the model needs {spec.style_levels}.')
  return codes_to_ids(tokens[..., : spec.style_levels], spec.style_offset, spec.codebook_size)


def context_ids(codes: np.ndarray | None, spec: LiveMusicSpec) -> np.ndarray:
  """Context codes [frames <= context_frames, >= context_levels] -> ids [context_length].

  The oldest frame comes first; what is missing is filled on the left with `mask_id`. Codes of -1
  mean "not there yet" and become `mask_id` too.
  """
  ids = np.full([spec.context_frames, spec.context_levels], spec.mask_id, np.int32)
  if codes is not None and len(codes):
    codes = np.asarray(codes)[-spec.context_frames :, : spec.context_levels]
    if codes.shape[-1] != spec.context_levels:
      raise ValueError(f'{codes.shape[-1]} levels; the context needs {spec.context_levels}.')
    known = codec_ids(np.maximum(codes, 0), spec)
    ids[len(ids) - len(codes) :] = np.where(codes >= 0, known, spec.mask_id)
  return ids.reshape(-1)


def encoder_inputs(
  context: np.ndarray | None, style: np.ndarray | None, spec: LiveMusicSpec
) -> np.ndarray:
  """Context codes and style tokens -> encoder input ids [inputs_length] int32."""
  return np.concatenate([context_ids(context, spec), style_ids(style, spec)])


def decoder_targets(codes: np.ndarray, spec: LiveMusicSpec) -> np.ndarray:
  """Codes [chunk_frames, >= target_levels] -> target ids [targets_length] int32."""
  return codec_ids(np.asarray(codes)[:, : spec.target_levels], spec).reshape(-1)


def mask_style(inputs: np.ndarray, spec: LiveMusicSpec) -> np.ndarray:
  """Encoder inputs [..., inputs_length] with the style ids masked (the unconditional form)."""
  masked = np.array(inputs)
  masked[..., spec.context_length :] = spec.mask_id
  return masked
