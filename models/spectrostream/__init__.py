"""SpectroStream: a neural codec, 48 kHz stereo <-> 25 frames/s of 64 RVQ codes."""
