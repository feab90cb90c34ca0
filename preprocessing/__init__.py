"""From a folder of audio to token records: manifest, audio input, features, demo corpus."""
