"""Reading the masking curve: plateau onset with its interval, verdicts and stages; pure numpy on a score matrix."""
