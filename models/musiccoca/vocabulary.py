"""Text -> ids of the text tower, by SentencePiece."""

import io
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece

from models.musiccoca.inputs import check_unicode

START_ID = 1
PAD_ID = 0
_SPACE = '\u2581'  # How pieces write it.
_REQUIRED_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789#&'+,-./:"


class TextVocabulary:
  """A SentencePiece model and the framing of its ids: start id, ids, padding; no end.

  Text is lower-cased. Characters that the pieces lack become the unknown id, a text of spaces
  alone is the start id alone, and what exceeds `max_text_length - 1` ids is cut.
  """

  def __init__(self, model: bytes, max_text_length: int):
    """Takes the content of a SentencePiece model file."""
    self.model = bytes(model)
    self.max_text_length = max_text_length
    self._processor = sentencepiece.SentencePieceProcessor(model_proto=self.model)

  def __len__(self) -> int:
    return self._processor.get_piece_size()

  def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Texts -> ids [N, max_text_length] int32, paddings [N, max_text_length] float32 (1 = padding).

    Raises:
      StyleError: a text has a lone surrogate.
      TypeError: a bare string instead of a list.
    """
    if isinstance(texts, str):
      raise TypeError(f'A list of texts is needed, not the bare string {texts!r}.')
    ids = np.full([len(texts), self.max_text_length], PAD_ID, np.int32)
    paddings = np.ones(ids.shape, np.float32)
    for row, text in enumerate(texts):
      check_unicode(text, f'The text {text!a}')
      pieces = self._processor.encode(text.lower())[: self.max_text_length - 1]
      ids[row, : len(pieces) + 1] = [START_ID, *pieces]
      paddings[row, : len(pieces) + 1] = 0
    return ids, paddings

  def num_chars_read(self, text: str) -> int:
    """Returns how many characters of a text fit into `max_text_length`, approximately."""
    pieces = self._processor.encode(text.lower(), out_type=str)
    if len(pieces) < self.max_text_length:
      return len(text)
    return min(len(text), sum(map(len, pieces[: self.max_text_length - 1])))

  def knows(self, text: str) -> bool:
    """Returns whether a text has any piece that is not the unknown id."""
    unknown = self._processor.unk_id()
    pieces = self._processor.encode(text.lower(), out_type=str)
    return any(self._processor.piece_to_id(piece) != unknown for piece in pieces if piece != _SPACE)

  def decode(self, ids: Sequence[int]) -> str:
    """Ids -> text; start and padding are dropped."""
    return self._processor.decode([int(i) for i in ids if int(i) not in (START_ID, PAD_ID)])


def train_vocabulary(
  texts: Iterable[str], vocab_size: int, max_text_length: int
) -> TextVocabulary:
  """Trains unigram pieces on lower-cased texts.

  `vocab_size` is an upper limit: texts with few words give fewer pieces. Letters, digits and common
  punctuation are always there. Equal texts give an equal vocabulary.
  """
  output = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([text.lower() for text in texts]),
    model_writer=output,
    vocab_size=vocab_size,
    hard_vocab_limit=False,
    model_type='unigram',
    character_coverage=1.0,
    required_chars=_REQUIRED_CHARACTERS,
    pad_id=PAD_ID,
    bos_id=START_ID,
    unk_id=2,
    eos_id=-1,
    num_threads=1,
    minloglevel=2,
  )
  return TextVocabulary(output.getvalue(), max_text_length)
