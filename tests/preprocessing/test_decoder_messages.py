"""What libmpg123 writes to the terminal is logged with the file's name; the rest comes through."""

import os

from preprocessing import decoder_messages

NOTE = b'[src/libmpg123/layer3.c:INT123_do_layer3():1844] error: dequantization failed!\n'


def test_notes_are_logged_once_with_the_name(caplog, capfd):
  with decoder_messages.logged('a song.mp3'):
    os.write(2, NOTE)
    os.write(2, b'another program speaks\n')
    os.write(2, b'Warning: Xing stream size off by more than 1%\n')
  (record,) = caplog.records
  assert record.message.startswith('a song.mp3: the MP3 decoder says: [src/libmpg123/layer3.c')
  assert record.message.endswith('dequantization failed! (and 1 more)')
  with decoder_messages.logged('a song.mp3'):
    os.write(2, NOTE)
  assert len(caplog.records) == 1
  os.write(2, b'afterwards\n')
  assert 'mpg123' not in capfd.readouterr().err.replace(record.message, '')


def test_others_come_through_while_two_files_are_decoded(capfd):
  with decoder_messages.logged('one.mp3'), decoder_messages.logged('two.mp3'):
    os.write(2, b'not mine\n')
  os.write(2, b'later\n')
  err = capfd.readouterr().err
  assert 'not mine\n' in err and err.endswith('later\n')
