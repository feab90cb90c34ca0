"""Playing a live music model: prompts, sampling options, the streaming session."""

from inference.prompts import Prompt, PromptError, embed_prompts, parse_prompt, parse_prompts
from inference.sampling import SamplingOptions
from inference.session import LiveSession, SessionState

__all__ = [
  'LiveSession',
  'Prompt',
  'PromptError',
  'SamplingOptions',
  'SessionState',
  'embed_prompts',
  'parse_prompt',
  'parse_prompts',
]
