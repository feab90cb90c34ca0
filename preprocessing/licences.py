"""Licences: one name for each however it is written, and a policy of which are let in."""

import dataclasses
import re
from collections.abc import Sequence

_CC_URL = re.compile(r'creativecommons\.org/licen[sc]es/([a-z-]+)/?(\d\.\d)?')
_CC_NAME = re.compile(
  r'^(?:licen[sc]ed under )?(?:a )?(?:cc|creative commons)[ _-]*'
  r'((?:by|attribution|nc|non-?commercial|nd|no-?deriv\w*|sa|share-?alike|[ ,_-])+)'
  r'(?:v|version)?[ _-]*(\d(?:\.\d)?)?'
)
_CC_ZERO = re.compile(r'\bcc[ _-]?0\b|publicdomain/zero|creative commons zero')
_PUBLIC_DOMAIN = re.compile(r'\bpublic[ _-]?domain\b|publicdomain/mark|^pd$|^pdm\b')
_RESERVED = re.compile(r'all rights reserved|^(\(c\)|©|℗|copyright\b)|^\d{4} ')
_VERSION = re.compile(r'-\d+(\.\d+)*$')


def licence_name(text: str) -> str:
  """One name for a licence: 'CC-BY-4.0', 'CC0-1.0', 'public-domain', 'all-rights-reserved'.

  Creative Commons licences by SPDX name, from their address or their words; what is not known stays
  as it is. '' stays ''.
  """
  text = ' '.join(text.split())
  lowered = text.casefold()
  if _CC_ZERO.search(lowered):
    return 'CC0-1.0'
  found = _CC_URL.search(lowered) or _CC_NAME.search(lowered)
  if found and (parts := _cc_parts(found[1])):
    version = found[2] or ''
    version = f'-{version}' if '.' in version else f'-{version}.0' if version else ''
    return f'CC-{parts}{version}'
  if _PUBLIC_DOMAIN.search(lowered):
    return 'public-domain'
  if _RESERVED.search(lowered):
    return 'all-rights-reserved'
  return text


def _cc_parts(words: str) -> str:
  order = (('BY', r'by|attribution'), ('NC', r'nc|non-?commercial'), ('ND', r'nd|no-?deriv\w*'),
           ('SA', r'sa|share-?alike'))  # fmt: skip
  parts = [name for name, pattern in order if re.search(rf'(?<![a-z])({pattern})', words)]
  return '-'.join(parts) if 'BY' in parts else ''


@dataclasses.dataclass(frozen=True)
class LicencePolicy:
  """Which licences are let in.

  Attributes:
    allow: names; without a version ('CC-BY') every version is meant. () allows all.
    required: whether a track without a licence is left out.
  """

  allow: tuple[str, ...] = ()
  required: bool = False

  def check(self):
    """Raises ValueError for a name that stands for nothing."""
    for name in self.allow:
      if not name.strip() or '*' in name:
        raise ValueError(
          f'{name!r} is not a licence; name each, e.g. CC0-1.0, CC-BY (any version), public-domain.'
        )

  def refusal(self, licence: str) -> str:
    """Why a track with this licence is left out, '' where it is let in."""
    name = licence_name(licence)
    if not name:
      return 'no licence is given, and the policy asks for one' if self.required else ''
    if not self.allow:
      return ''
    allowed = {licence_name(entry).casefold() for entry in self.allow}
    if name.casefold() in allowed or _VERSION.sub('', name).casefold() in allowed:
      return ''
    return f'{name!r} is not one of {", ".join(self.allow)}'


def parse_policy(allow: Sequence[str], required: bool) -> LicencePolicy:
  """A checked policy; with an allow-list, CC-BY-4.0 in it does not let CC-BY-3.0 in."""
  policy = LicencePolicy(tuple(entry.strip() for entry in allow), required)
  policy.check()
  return policy
