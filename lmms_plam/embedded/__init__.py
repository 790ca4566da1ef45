"""What the embedded pairs are made with: handwriting, a tokenizer, packed rows, a fast forward, an optimizer."""
