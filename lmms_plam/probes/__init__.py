"""The masking curve: plateau onset with its interval, verdicts and stages, and how they are kept on disk."""
