"""How babyllava is built and trained: the tower of few tokens, DINOv2's own files, the fast forward, going on."""

from __future__ import annotations

import json
import random
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_harness_runs import evaluate

from lmms_plam.babyllava import train
from lmms_plam.babyllava.architecture import VISION, build_lm, build_processor, build_tokenizer, build_vlm
from lmms_plam.babyllava.corpus import batches, draw_corpus
from lmms_plam.babyllava.encoder import features, patch_labels, to_pixels
from lmms_plam.babyllava.forward import logits_of
from lmms_plam.babyllava.pictures import THINGS, black, draw_captions, draw_scene, picture, picture_of_row
from lmms_plam.babyllava.tower import POOLINGS, pool
from lmms_plam.errors import ConfigError
from lmms_plam.harness.model import Plam

RELEASED = (
    "embeddings.cls_token",
    "embeddings.mask_token",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.projection.bias",
    "embeddings.position_embeddings",
    *(
        f"encoder.layer.{layer}.{name}"
        for layer in range(2)
        for name in (
            *(f"attention.attention.{one}.{kind}" for one in ("query", "key", "value") for kind in ("weight", "bias")),
            *(
                f"{one}.{kind}"
                for one in ("attention.output.dense", "mlp.fc1", "mlp.fc2")
                for kind in ("weight", "bias")
            ),
            *(f"{one}.{kind}" for one in ("norm1", "norm2") for kind in ("weight", "bias")),
            "layer_scale1.lambda1",
            "layer_scale2.lambda1",
        )
    ),
    "layernorm.weight",
    "layernorm.bias",
)
"""The keys of facebook/dinov2-large's model.safetensors, for two layers."""


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    """A folder as DINOv2 is released, of a tiny random one: 16 x 16 patches of 14 pixels, two layers."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(3)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=224)
    Dinov2Model(config).save_pretrained(folder)
    shapes = {name: tensor.shape for name, tensor in load_file(folder / "model.safetensors").items()}
    assert set(shapes) == set(RELEASED)
    save_file(
        {name: 0.1 * torch.randn(shapes[name]) for name in RELEASED}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    corpus = draw_corpus(2000)
    return build_tokenizer([*corpus.text, *(scene.caption for scene in corpus.scenes)])


def grown(tokenizer, dinov2, pooling: str):
    from transformers import Dinov2Model

    torch.manual_seed(0)
    lm = build_lm(tokenizer)
    for parameter in lm.parameters():  # far from the initial near-zero attention scores
        torch.nn.init.normal_(parameter, std=0.1)
    return lm, build_vlm(lm, tokenizer, Dinov2Model.from_pretrained(dinov2), pooling).eval()


@pytest.mark.parametrize(("pooling", "tokens"), [("mean", 1), ("grid", 16), ("patches", 256)])
def test_a_picture_is_as_many_tokens_as_its_pooling_says_in_the_harness_too(
    pooling, tokens, tokenizer, dinov2, tmp_path
):
    lm, vlm = grown(tokenizer, dinov2, pooling)
    processor = build_processor(tokenizer, vlm)
    for model, words, name in ((lm, tokenizer, "text"), (vlm, processor, "multimodal")):
        model.save_pretrained(tmp_path / name)
        words.save_pretrained(tmp_path / name)
    image = picture_of_row(draw_captions("benchmark", 1)[0])
    inputs = processor(text="<image><s>a red circle.", images=[image], return_tensors="pt")
    assert int((inputs["input_ids"] == vlm.config.image_token_id).sum()) == tokens == vlm.config.image_seq_length
    settings = {"vlm": str(tmp_path / "multimodal"), "base_lm": str(tmp_path / "text"), "search.start_layers": 0}
    plam = Plam(config="babyllava", device="cpu", **settings)
    results = evaluate(plam, "", ["plam_compare_babyllava_captions", "plam_probe_babyllava_captions"], limit=2)
    assert {proof.way for proof in plam.proofs.values()} == {"engine"}
    assert 0 <= results["results"]["plam_compare_babyllava_captions"]["merged,none"] <= 1


def test_dinov2s_released_files_give_the_features_that_dinov2_gives(tokenizer, dinov2, tmp_path):
    from transformers import AutoModelForImageTextToText, Dinov2Model

    _, vlm = grown(tokenizer, dinov2, "mean")
    vlm.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    released = load_file(dinov2 / "model.safetensors")
    for name, tensor in released.items():
        (found,) = (value for key, value in stored.items() if key.endswith(f"vision_tower.dinov2.{name}"))
        assert torch.equal(found, tensor), name
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        own = Dinov2Model.from_pretrained(dinov2).eval()(pixels).last_hidden_state[:, 1:].mean(1, keepdim=True)
        told = loaded.model.vision_tower(pixels).last_hidden_state
        by_hand = loaded.model.multi_modal_projector(own)
        shown = torch.stack(list(loaded.model.get_image_features(pixels).pooler_output))
    torch.testing.assert_close(told, own)
    torch.testing.assert_close(shown, by_hand)


def test_pooling_averages_the_parts_of_the_picture():
    places = torch.arange(64.0).view(8, 8)
    patches = places.flatten()[None, :, None]
    assert pool(patches, "mean").flatten().tolist() == [31.5]
    expected = [
        float(places[row : row + 2, column : column + 2].mean()) for row in (0, 2, 4, 6) for column in (0, 2, 4, 6)
    ]
    assert pool(patches, "grid").flatten().tolist() == expected
    assert torch.equal(pool(patches, "patches"), patches)


def test_poolings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"no pooling 'gird'. Did you mean 'grid'\? Known: mean, grid, patches"):
        pool(torch.zeros(1, 64, 1), "gird")
    with pytest.raises(ConfigError, match="pooling 'grid': 7 patches in a row can't be averaged into 4 tokens"):
        pool(torch.zeros(1, 49, 1), "grid")


@torch.no_grad()
@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_fast_forward_gives_the_logits_of_the_plain_models(pooling, tokenizer):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(1)
    encoder = Dinov2Model(Dinov2Config(**VISION)).eval()
    lm = build_lm(tokenizer)
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    vlm = build_vlm(lm, tokenizer, encoder, pooling).eval()
    processor = build_processor(tokenizer, vlm)
    images = [picture_of_row(row) for row in draw_captions("benchmark", 1)[:2]]
    rows = [
        [tokenizer.bos_token_id, *tokenizer.encode(text)] for text in ("two red circles.", "the dog sleeps near a cat.")
    ]
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[tokenizer.pad_token_id] * (width - len(row))] for row in rows])
    seen, bare = logits_of(vlm, ids, features(encoder, images, pooling)), logits_of(lm, ids)
    for place, (row, image) in enumerate(zip(rows, images, strict=True)):
        inputs = processor(text=f"<image><s>{tokenizer.decode(row[1:])}", images=[image], return_tensors="pt")
        plain = vlm(**inputs).logits[0, -len(row) :]
        torch.testing.assert_close(seen[place, : len(row)], plain, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(bare[place, : len(row)], lm(torch.tensor([row])).logits[0], atol=1e-4, rtol=1e-4)
    assert torch.allclose(
        to_pixels([black()])[0],
        processor(text="<image>", images=[black()], return_tensors="pt")["pixel_values"][0],
        atol=1e-5,
    )


def test_patches_are_labelled_by_what_covers_them():
    scene = draw_scene(random.Random(0), "train", "size")
    labels = patch_labels([scene])[0].view(8, 8)
    assert picture(scene.shapes).size == (64, 64)
    for shape in scene.shapes:
        assert labels[shape.y // 8, shape.x // 8] == 1 + THINGS.index((shape.colour, shape.shape))
    assert set(labels.flatten().tolist()) == {0} | {1 + THINGS.index((one.colour, one.shape)) for one in scene.shapes}


def test_orders_hold_what_they_say():
    lengths, halves = [5, 9] * 300, (range(300), range(300, 600))
    mixed, parted = (batches(lengths, halves, order, 3, 64, 1) for order in ("mixed", "text_first"))
    for found in (mixed, parted):
        counted = sorted(row for batch in found for row in batch)
        assert counted == sorted([*range(600)] * 3)
    first = [row for batch in parted for row in batch][:900]
    assert set(first) == set(range(300))
    assert not set([row for batch in mixed for row in batch][:300]) <= set(range(300))


SHORT = ["--words", "1500", "--passes", "3", "--encoder-steps", "3", "--seed", "5"]


def run(monkeypatch, folder, *options):
    monkeypatch.setattr(sys, "argv", ["train", *SHORT, "--output", str(folder), *options])
    train.main()


def weights(folder, kind):
    place = folder / "seed_5" / "mixed" / kind
    last = max(place.glob("step_*"), key=lambda path: int(path.name.partition("_")[2]))
    return load_file(last / "model.safetensors")


def test_training_leaves_checkpoints_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    run(monkeypatch, tmp_path / "whole")
    for kind in ("text", "multimodal"):
        steps = sorted(
            int(path.name.partition("_")[2]) for path in (tmp_path / "whole/seed_5/mixed" / kind).glob("step_*")
        )
        assert len(steps) == 8
        assert not list((tmp_path / "whole/seed_5/mixed" / kind).glob("*.pt*"))
    own = train._keep

    def stop(model, words, place, step, optimizer):
        own(model, words, place, step, optimizer)
        if place.name == "multimodal" and len(list(place.glob("step_*"))) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(train, "_keep", stop)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path / "parts")
    monkeypatch.setattr(train, "_keep", own)
    run(monkeypatch, tmp_path / "parts")
    for kind in ("text", "multimodal"):
        whole, parts = weights(tmp_path / "whole", kind), weights(tmp_path / "parts", kind)
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
    report = json.loads((tmp_path / "parts/training.json").read_text())["seed 5"]["mixed"]
    assert set(report) == {"minutes", "development", "benchmark"}
    assert set(report["minutes"]) == {"multimodal"}


def test_a_seeds_two_models_start_from_the_same_weights(tmp_path):
    trainer = train.Trainer(train.Plan(7, "mixed", words=500, encoder_steps=1), tmp_path)
    text, multimodal = trainer.build("text"), trainer.build("multimodal")
    for name, value in text.model.state_dict().items():
        assert torch.equal(value, multimodal.model.language_model.state_dict()[name]), name
    assert not torch.equal(
        trainer.build("text").lm_head.weight,
        train.Trainer(train.Plan(8, "mixed", words=500, encoder_steps=1), tmp_path).build("text").lm_head.weight,
    )
