"""The damage that fuzz tests do: every kind occurs, and changes what it says it changes."""

import hypothesis

from tests.fuzz import mutations

VALID = bytes(range(1, 256)) * 4


def test_every_kind_of_damage_is_drawn():
  seen = set()

  @mutations.settings(200)
  @hypothesis.given(mutations.mutations(VALID))
  def draw(mutation):
    seen.update(name for name in mutations.CHANGES if name in mutation.story)
    if mutation.story.startswith('cut at ') and ';' not in mutation.story:
      assert mutation.data == VALID[: int(mutation.story.split()[-1])]
    if mutation.story.startswith('append ') and ';' not in mutation.story:
      assert mutation.data.startswith(VALID)

  draw()
  assert seen == set(mutations.CHANGES)
