"""How a benchmark's answers become records and a score matrix."""
