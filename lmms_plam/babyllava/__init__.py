"""The embedded pair `babyllava`: a language model and a LLaVA of one token a picture, in the form of arXiv 2510.01845.

What it is for: the question of Takmaz, Bylinina and Dotlacil (2025), what a multimodal model has lost of language and
what a merge with a text-only one gives back, asked on a machine with neither hub nor GPU. The folders `text` and
`multimodal` are ordinary Hugging Face checkpoints (Llama, and LLaVA with a DINOv2 tower; bfloat16, 3.4 MB together).
What transformers lacks is the averaging of DINOv2's patch features, a small registered class (tower.py): into one
token, as in the paper, 4 x 4, or none.

Text: a seeded grammar (grammar.py, lexicon.py), 36,000 words for each half of a corpus. Pictures: one to eight coloured
shapes, drawn by code (pictures.py), with captions in which who is what can be swapped. In BabyLM's proportions
(corpus.py), the text-only model reads two halves of text; the multimodal one reads one of them, each sentence after a
black picture, and as many words of captions. Six passes, about 500 steps, one to two minutes each on one core.

The models: six layers of width 96, 0.76 million weights, the same initial ones for both. The tower stands for DINOv2,
whose weights can't be had here: three layers of width 64, trained once to tell what lies in each patch (encoder.py),
frozen, its features computed beforehand. The prompt is picture, start token, text.

Benchmarks: `plam_babyllava_pairs`, twelve paradigms of agreement, reference, licensing and gaps, whose main clauses
have subjects and verbs that no training clause joins; `plam_babyllava_captions`, two captions of the same words for
each picture, of things that training never shows together.

What was chosen how: sizes, rates and the number of words and passes by the development split of both benchmarks and
the unmerged models alone, so that neither stood at the top of what can be had. Seed 0, mixed, was to be shipped from
the beginning. Not blindly: the first models read the start token before the picture, which then told the first word
itself and could be hidden from nothing. When that was changed, merges of those models had been seen; nothing else was
changed. `training.json` has every seed's figures.

What came of it. The text-only models know the grammar better than the multimodal ones, as in the paper, and one token
tells what is there, of which colour, size and number, but not where. Yet the merge of the whole doesn't work as in the
paper: half of each has neither the grammar nor the pictures, in all seeds, and alpha = .8 has the grammar and nothing
of the pictures. The same initial weights don't help: training moved both so far that their weights hardly resemble
each other (cosine .07). Read in the order text first, captions later, a model forgets most of its grammar, and learns
less of the pictures, for the rate has fallen by then.
"""
