"""Which recipe is best, and is its gain real? Choosing among many recipes on a benchmark, and what the choice costs."""
