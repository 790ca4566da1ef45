"""The embedded pair `digits`: a base LM and the VLM grown from it, trained for this package, and their benchmark.

What it is for: everything in this package can be run, and seen to work, on a machine with neither hub nor GPU. The two
folders `base_lm` and `vlm` are ordinary Hugging Face checkpoints (Qwen2 and Qwen2.5-VL, bfloat16), so the code that
runs on them is the code that runs on real models.

Data: scikit-learn's 1,797 handwritten digits (grids.py): 1,197 to train on, 300 for the benchmark, 300 that nothing was
chosen on. Six make a grid of two rows by three; seven kinds of question are asked about it (questions.py): read a cell,
count a digit, does it exist, the larger of two cells, their sum (one or two tokens), the largest digit, even or odd.

Models (architecture.py): 12 decoder layers of width 128, four attention heads over two key-value heads, 2.4 million
weights each; the VLM's vision tower has two blocks of width 64 and gives 24 tokens a picture, four a digit.

Training (train.py; forward.py, packing.py, optimizer.py): the base LM learns the questions with the grid written out.
The vision tower learns to turn a digit into the base LM's embedding of its word. Then the whole VLM, its decoder taken
from the base LM, learns the questions on pictures, without any text grids: it forgets much of them, as real VLMs forget
some of what their base LM could do. Nothing was tuned towards a merge.

The masking curve: in half of the last stage's steps the picture is hidden from a random layer on (6 to 11 of 12), so
**a plateau from layer 6 on is trained in**. In fact the model reads all it needs in its first layer: accuracy rises
from chance to its full value between no visible layer and one. A run without hiding, looked at after 200, 400 and 600
steps, did so too.

Shipped is seed 0, chosen before training: 98.8 % on text and, as VLM, 96.8 % on pictures. Seeds 1 and 2, trained by the
same script, reached 100 % and 99.9 % on text, 81.5 % and 84.8 % on pictures: at this length of training the last
stage's result varies a lot from seed to seed.
`training.json`, written by train.py, has the seeds' scores, times and masking curves; the times are wall-clock minutes
of one thread on a busy machine.
"""
