"""What libmpg123 writes to the terminal is told with the file's name; the rest comes through."""

import os

from preprocessing import decoder_messages

NOTE = b'[src/libmpg123/layer3.c:INT123_do_layer3():1844] error: dequantization failed!\n'


def test_notes_are_told_once_with_the_name(capfd):
  with decoder_messages.named('a song.mp3'):
    os.write(2, NOTE)
    os.write(2, b'another program speaks\n')
    os.write(2, b'Warning: Xing stream size off by more than 1%\n')
  other, line = capfd.readouterr().err.splitlines()
  assert other == 'another program speaks'
  assert line.startswith('a song.mp3: the MP3 decoder says: [src/libmpg123/layer3.c')
  assert line.endswith('dequantization failed! (and 1 more)')
  with decoder_messages.named('a song.mp3'):
    os.write(2, NOTE)
  os.write(2, b'afterwards\n')
  assert capfd.readouterr().err == 'afterwards\n'


def test_others_come_through_while_two_files_are_decoded(capfd):
  with decoder_messages.named('one.mp3'), decoder_messages.named('two.mp3'):
    os.write(2, b'not mine\n')
  os.write(2, b'later\n')
  err = capfd.readouterr().err
  assert 'not mine\n' in err and err.endswith('later\n')
