"""Recorded music under free licences, taken from Debian packages, and synthetic music beside it."""
