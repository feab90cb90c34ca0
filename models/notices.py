"""Lines for the person at the terminal: what was skipped, changed or taken for something else.

Root scripts silence logging below errors, because libraries log much that nobody needs.
"""

import sys

from tqdm import tqdm


def say(line: str):
  """Writes a line to the standard error, above a progress bar where there is one."""
  tqdm.write(line, file=sys.stderr)
  sys.stderr.flush()
