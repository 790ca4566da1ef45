"""Where layers look before and after a merge, and whether looking helps: pure numpy on what was read out."""
