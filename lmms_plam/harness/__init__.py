"""How lmms-plam meets lmms-eval, which stays unmodified and in charge."""
