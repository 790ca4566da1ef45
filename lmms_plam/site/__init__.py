"""The page of a study: whatever runs left in a folder, as one HTML file, and tables, matrices and references beside it.

`found` reads a folder, `plan` what a study says of its cells, `records` what each file holds; `numbers` turns them into
what `words` says in sentences, by rules, and `tables` shows; `model_part`, `examples`, `boards` and `cards` are parts
of the page, whose pictures `vectors` makes small; `build` writes it all.
"""
