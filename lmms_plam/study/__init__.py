"""A study in one file: a YAML to cells, each of which is one command, run here or on as many machines as there are."""
