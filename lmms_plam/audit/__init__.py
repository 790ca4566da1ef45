"""The format audit: how much of a difference is other answers, and how much is whether answers could be read."""
