"""lmms-eval's finished runs: their samples, joined, compared and ranked."""
