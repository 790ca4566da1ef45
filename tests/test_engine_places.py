"""Vision tokens lie where the pictures say: the model's own embeddings change where, and only where, pixels do."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, tiny_model
from engine_prompts import prompts_for
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_configs import LLAVA_IMAGE, LM_ROWS, PATCH, vlm_config
from tiny_processors import tiny_processor, tiny_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessor,
    Gemma3ImageProcessor,
    LlavaImageProcessor,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    SiglipImageProcessor,
)
from transformers.image_processing_utils import select_best_resolution
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from lmms_plam.attention.layouts import anyres, arrangement, cells, even, patches, tiled
from lmms_plam.attention.places import Places, canvas, in_shares, overlap, share_of_picture
from lmms_plam.digits.grids import draw_grid
from lmms_plam.errors import DataError, UnsupportedError
from lmms_plam.microworld.grids import draw_grid as draw_row
from lmms_plam.model import vision_positions
from lmms_plam.model.placing import place
from lmms_plam.paths import PACKAGE

SIZES = ((168, 112), (100, 230), (120, 120), (61, 47), (300, 90))
"""Width and height: wide, high, square, small, very wide."""

BATCH = ((SIZES[0], SIZES[1]), (), (SIZES[2],), (SIZES[4], SIZES[3], SIZES[1]))
"""Sizes of the pictures of four prompts of different lengths, one of them without."""


def local(model):
    """A model whose vision tower doesn't attend, so that a token is changed by the pixels that it shows alone."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "language_model" not in name and any(part in name for part in ("attn", "attention")):
                parameter.zero_()
    return model


def rebuilt(family, **changes):
    """A tiny random model of a family whose config is changed."""
    base = "llava" if family == "llava_next" else family
    content = vlm_config(base, tiny_tokenizer(base).convert_tokens_to_ids)
    for name, value in changes.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    content |= {"model_type": family, "torch_dtype": "float32"}
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(AutoConfig.for_model(**content), dtype=torch.float32).eval()


@cache
def subject(name):
    """Model and processor under a name: a family, or a family in some other setting."""
    if name in FAMILIES:
        return local(tiny_model(name)), tiny_processor(name)
    family, _, setting = name.partition(", ")
    side = {"height": LLAVA_IMAGE, "width": LLAVA_IMAGE}
    if family == "llava":
        processor = tiny_processor("llava")
        processor.image_processor = {
            "padded": LlavaImageProcessor(size={"shortest_edge": LLAVA_IMAGE}, crop_size=side, do_pad=True),
            "squeezed": SiglipImageProcessor(size=side, do_center_crop=False),
            "cropped small": CLIPImageProcessor(size={"shortest_edge": LLAVA_IMAGE * 5 // 4}, crop_size=side),
            "more padding than crop": CLIPImageProcessor(size={"shortest_edge": LLAVA_IMAGE // 2}, crop_size=side),
        }[setting]
        return local(tiny_model("llava")), processor
    if family == "llava_next":
        grid = [[high * LLAVA_IMAGE, wide * LLAVA_IMAGE] for high, wide in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
        images = LlavaNextImageProcessor(size={"shortest_edge": LLAVA_IMAGE}, crop_size=side, image_grid_pinpoints=grid)
        processor = LlavaNextProcessor(
            images,
            tiny_tokenizer("llava"),
            patch_size=PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=tiny_processor("llava").chat_template,
        )
        return local(rebuilt("llava_next", image_grid_pinpoints=grid)), processor
    pixels = {"too many tokens": 42, "pixels left over": 55}[setting]
    grid = [[high * pixels, wide * pixels] for high in (1, 2, 3, 4) for wide in (1, 2, 3, 4)]
    most = {"too many tokens": "anyres_max_3", "pixels left over": "anyres_max_9"}[setting]
    size = {"height": pixels, "width": pixels}
    plain = tiny_processor("llava_onevision")
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grid),
        plain.tokenizer,
        plain.video_processor,
        num_image_tokens=(pixels // PATCH) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=most,
        chat_template=plain.chat_template,
    )
    model = rebuilt(
        "llava_onevision", image_grid_pinpoints=grid, vision_aspect_ratio=most, vision_config={"image_size": pixels}
    )
    return local(model), processor


def pictures(batch, seed=0):
    """Noise, by prompt."""
    rng = np.random.default_rng(seed)
    return [
        [Image.fromarray(rng.integers(90, 160, (height, width, 3), dtype=np.uint8)) for width, height in sizes]
        for sizes in batch
    ]


def processed(processor, images, nested):
    """What `generate` gets: a left-padded batch of prompts with these pictures."""
    processor.tokenizer.padding_side = "left"
    processor.tokenizer.pad_token = processor.tokenizer.pad_token or processor.tokenizer.eos_token
    texts = []
    for own in images:
        content = [{"type": "text", "text": "Is it a cat or a dog?"}, *[{"type": "image"} for _ in own]]
        texts.append(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))
    given_images = images if nested else [image for own in images for image in own]
    media = {"images": given_images} if any(images) else {}
    return dict(processor(text=texts, padding=True, return_tensors="pt", **media))


def embedded(model, inputs):
    """What the decoder is given, [prompts, length, width]."""
    seen = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad(), hook:
        model(**inputs)
    return seen[0]


def with_marker(images, row, image, marker):
    """The same pictures, one of them with other pixels in a rectangle of left, top, right, bottom."""
    left, top, right, bottom = marker
    pixels = np.array(images[row][image])
    pixels[top:bottom, left:right] = 255 - 2 * (pixels[top:bottom, left:right] % 2)
    pixels[top:bottom, left:right, 1:] = 0
    marked = [list(own) for own in images]
    marked[row][image] = Image.fromarray(pixels)
    return marked


def markers(size):
    """Three rectangles apart from the middle: anything turned, mirrored or swapped moves them."""
    width, height = size
    for across, down in ((0.1, 0.3), (0.6, 0.1), (0.35, 0.7)):
        left, top = round(across * width), round(down * height)
        yield left, top, left + max(width // 4, 4), top + max(height // 5, 4)


def reach(places, image, marker, size, pixels):
    """Which tokens' boxes come nearer to a marker than so many pixels of the picture on each axis."""
    (left, top, right, bottom), (width, height) = marker, size
    across, down = pixels
    boxes = places.boxes
    near = (boxes[:, 0] * width < right + across) & (boxes[:, 2] * width > left - across)
    near &= (boxes[:, 1] * height < bottom + down) & (boxes[:, 3] * height > top - down)
    return near & (places.image == image)


SUBJECTS = (
    *((family, family.startswith("qwen")) for family in FAMILIES),
    ("llava_onevision", True),
    ("llava_onevision, too many tokens", False),
    ("llava_onevision, pixels left over", False),
    ("llava_onevision, pixels left over", True),
    ("llava_next", False),
    ("llava, padded", False),
    ("llava, squeezed", False),
    ("llava, cropped small", False),
    ("llava, more padding than crop", False),
)


@pytest.mark.parametrize(("name", "nested"), SUBJECTS)
def test_what_changes_in_a_picture_changes_the_tokens_of_that_place_and_no_others(name, nested):
    model, processor = subject(name)
    images = pictures(BATCH)
    inputs = processed(processor, images, nested)
    before = embedded(model, inputs)
    vision = vision_positions(model, inputs["input_ids"], inputs)
    shown = 0
    for row, sizes in enumerate(BATCH):
        places = place(model, inputs["input_ids"], inputs, row, sizes, processor)
        assert len(places) == int(vision[row].sum())
        for image, size in enumerate(sizes):
            assert (places.image == image).any()
            for marker in markers(size):
                marked = processed(processor, with_marker(images, row, image, marker), nested)
                change = (embedded(model, marked) - before).norm(dim=-1)
                assert not change[np.arange(len(BATCH)) != row].any(), "another prompt's"
                assert not change[row][~vision[row]].any(), "text"
                change = change[row][vision[row]].numpy()
                region = in_shares([marker], size)
                inside = overlap(places, image, region)
                assert (change[inside > 0.5] > 1e-3).all(), "a token that shows the marker didn't change"
                # resampling reads two pixels further than its own, of the picture or, where it is enlarged, of what
                # it becomes; interpolated tokens read a neighbour
                own = places.boxes[(places.image == image) & places.placed]
                cell = (own[:, 2:] - own[:, :2]).max(axis=0) * size
                beyond = cell if "too many" in name else np.maximum(3, 3 * cell / PATCH)
                near = reach(places, image, marker, size, beyond)
                assert not change[~near].any(), "a token that is somewhere else changed"
                if inside.any():
                    largest = int(change.argmax())
                    assert places.placed[largest]
                    assert inside[largest] > 0, "the token that changes most doesn't show the marker"
                    shown += 1
    assert shown > 12, "hardly any marker was in view: the test shows nothing"


def test_a_picture_squeezed_into_a_square_is_found_again_in_gemma3():
    model = local(tiny_model("gemma3"))
    processor = Gemma3ImageProcessor(size={"height": LLAVA_IMAGE, "width": LLAVA_IMAGE})
    sizes, token = SIZES[:2], LM_ROWS - 1
    ids = torch.tensor([[0, 0, 2, 30, 31, 32, *[33] * 9], [2, 7, *[token] * 4, 8, 30, 7, *[token] * 4, 8, 31]])
    fixed = {"input_ids": ids, "attention_mask": (ids > 0).long(), "token_type_ids": (ids == token).long()}

    def changed(images):
        return embedded(model, {**fixed, **processor(images, return_tensors="pt")})

    images = pictures([sizes])
    before = changed(images[0])
    for image, size in enumerate(sizes):
        for marker in markers(size):
            places = place(model, ids, fixed, 1, sizes)
            change = (changed(with_marker(images, 0, image, marker)[0]) - before).norm(dim=-1)
            own = change[1][ids[1] == token].numpy()
            assert overlap(places, image, in_shares([marker], size))[int(own.argmax())] > 0
            assert not own[~reach(places, image, marker, size, (12, 12))].any()
    assert len(place(model, ids, fixed, 0, ())) == 0


@pytest.mark.parametrize("world", ["digits", "microworld"])
def test_each_cell_of_the_embedded_pairs_is_seen_by_its_own_tokens(world):
    folder = PACKAGE / world / ("vlm" if world == "digits" else "aligned")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    draw, columns, rows = (draw_grid, 3, 2) if world == "digits" else (draw_row, 10, 1)
    indices = list(range(columns * rows))
    before = processed(processor, [[draw(indices)]], nested=True)
    size = draw(indices).size
    places = place(model, before["input_ids"], before, 0, [size])
    for cell in indices:
        other = processed(processor, [[draw([*indices[:cell], 100, *indices[cell + 1 :]])]], nested=True)
        change = (embedded(model, other) - embedded(model, before)).norm(dim=-1)[0]
        vision = vision_positions(model, before["input_ids"], before)[0]
        row, column = divmod(cell, columns)
        region = (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
        np.testing.assert_allclose(overlap(places, 0, [region]), (change[vision].numpy() > 0).astype(float), atol=1e-9)


FILLED = [name for name, _ in SUBJECTS if not name.startswith("llava") or name == "llava, squeezed"]


def boxes_on(name, sizes):
    model, processor = subject(name)
    images = pictures([sizes])
    inputs = processed(processor, images, nested=name.startswith("qwen"))
    return place(model, inputs["input_ids"], inputs, 0, sizes, processor)


@pytest.mark.parametrize("name", FILLED)
@pytest.mark.parametrize("size", SIZES)
def test_tokens_fill_the_picture_once_for_each_time_that_it_is_shown(name, size):
    places = boxes_on(name, [size])
    assert places.placed.all()
    area = (places.boxes[:, 2] - places.boxes[:, 0]) * (places.boxes[:, 3] - places.boxes[:, 1])
    times = 2 if name == "internvl" and len(places) > 4 else 1
    assert area.sum() == pytest.approx(times)
    painted = canvas(area, places, 0, 37, 53)
    np.testing.assert_allclose(painted, times / (37 * 53))


@pytest.mark.parametrize("size", SIZES)
def test_llava_onevision_shows_the_whole_picture_and_then_lines_that_fill_it_again(size):
    places = boxes_on("llava_onevision", [size])
    side = 3
    np.testing.assert_allclose(places.boxes[: side**2], cells(even(side), even(side)))
    lines = Places(places.image[side**2 :], places.boxes[side**2 :])
    width = int(np.flatnonzero(~lines.placed)[0])
    assert (np.flatnonzero(~lines.placed) == np.arange(width, len(lines), width + 1)).all(), "a line ends with no place"
    area = (lines.boxes[:, 2] - lines.boxes[:, 0]) * (lines.boxes[:, 3] - lines.boxes[:, 1])
    assert 0.5 < np.nansum(area) < 1 + 1e-9, "with padding goes a part of the row that shows the picture's edge"
    assert canvas(np.ones(len(lines)), lines, 0, 20, 20).sum() == pytest.approx(lines.placed.sum())


def test_llava_leaves_out_what_the_centred_crop_leaves_out():
    wide, high = boxes_on("llava", [(200, 100)]), boxes_on("llava", [(100, 200)])
    np.testing.assert_allclose(wide.boxes[:, ::2].min(), 0.25)
    np.testing.assert_allclose(wide.boxes[:, ::2].max(), 0.75)
    np.testing.assert_allclose(high.boxes[[0, -1]], [[0, 0.25, 0.25, 0.375], [0.75, 0.625, 1, 0.75]])
    padded = boxes_on("llava, padded", [(200, 100)])
    assert padded.placed.reshape(4, 4).tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]


def test_patches_that_a_tower_cannot_finish_show_nothing():
    spans = patches(384, 14, 2)
    assert len(spans) == 54
    assert spans[26].tolist() == [364, 378]
    assert spans[27].tolist() == [384, 398]


@cache
def real_onevision():
    plain = tiny_processor("llava_onevision")
    return LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(), plain.tokenizer, plain.video_processor, num_image_tokens=729
    )


GRID = [[384 * high, 384 * wide] for high in range(1, 7) for wide in range(1, 7)]


@settings(max_examples=300)
@given(st.integers(30, 4000), st.integers(30, 4000))
def test_llava_onevision_has_as_many_tokens_as_its_processor_counts_at_its_real_size(width, height):
    high, wide = select_best_resolution((height, width), GRID)
    boxes = anyres((width, height), (wide, high), 384, 14, 9)
    assert len(boxes) == real_onevision()._get_number_of_features(height, width, 384, 384)
    placed = boxes[~np.isnan(boxes[:, 0])]
    assert (placed[:, :2] < placed[:, 2:]).all()
    assert placed.min() >= 0
    assert placed.max() <= 1


@settings(max_examples=500)
@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 4), st.integers(1, 24))
@example(1000, 800, 2, 1)  # as near to one tile beside the other as to one above the other
@example(50, 40, 2, 1)
def test_tiles_are_arranged_as_the_processor_chose_them_from_their_number_alone(width, height, fewest, more):
    columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), fewest, fewest + more)
    assert arrangement(columns * rows, (width, height), (448, 448)) == (columns, rows)


def test_tiles_come_row_by_row_and_the_whole_picture_last():
    boxes = tiled(7, 2, (300, 200), (100, 100)).reshape(7, 2, 2, 4)
    assert [tuple(tile[0, 0, :2].round(3)) for tile in boxes[:6]] == [
        (column, row) for row in (0, 0.5) for column in (0, 0.333, 0.667)
    ]
    np.testing.assert_allclose(boxes[6].reshape(4, 4), cells(even(2), even(2)))


shares = st.floats(0, 1)
spans = st.lists(shares, min_size=2, max_size=2, unique=True).map(sorted).filter(lambda span: span[1] - span[0] > 1e-3)
regions = st.tuples(spans, spans).map(lambda axes: (axes[0][0], axes[1][0], axes[0][1], axes[1][1]))


@given(st.lists(regions, min_size=1, max_size=6), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31))
def test_painting_keeps_the_sum_and_puts_it_inside_the_boxes(boxes, height, width, seed):
    boxes = np.array([*boxes, (np.nan,) * 4, boxes[0]])
    image = np.array([0] * (len(boxes) - 1) + [1])
    values = np.random.default_rng(seed).normal(size=len(boxes))
    painted = canvas(values, Places(image, boxes), 0, height, width)
    assert painted.shape == (height, width)
    assert painted.sum() == pytest.approx(values[: len(boxes) - 2].sum(), abs=1e-9)
    right, bottom = np.nanmax(boxes[:, 2]), np.nanmax(boxes[:, 3])
    assert not painted[int(np.ceil(bottom * height)) :].any()
    assert not painted[:, int(np.ceil(right * width)) :].any()


@given(st.lists(regions, max_size=5))
def test_areas_of_regions_are_those_of_their_union(found):
    """Against counting points."""
    points = (np.arange(200) + 0.5) / 200
    inside = np.zeros((200, 200), dtype=bool)
    for left, top, right, bottom in found:
        inside |= ((points > top) & (points < bottom))[:, None] & ((points > left) & (points < right))
    assert share_of_picture(found) == pytest.approx(inside.mean(), abs=0.011 * max(len(found), 1))
    grid = Places(np.zeros(20, dtype=int), cells(even(4), even(5)))
    assert overlap(grid, 0, found).mean() == pytest.approx(share_of_picture(found))
    assert not overlap(grid, 1, found).any()


def test_overlap_is_a_share_of_the_tokens_own_area():
    grid = Places(np.array([0, 0, 0, 1]), np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1], [np.nan] * 4, [0, 0, 1, 1]]))
    assert overlap(grid, 0, [(0.25, 0, 0.75, 0.5), (0.25, 0, 0.5, 0.5)]).tolist() == [0.25, 0.25, 0, 0]
    assert overlap(grid, 1, [(0, 0, 0.5, 0.5)]).tolist() == [0, 0, 0, 0.25]


@pytest.mark.parametrize(
    "region", [(0.5, 0, 1.2, 1), (-0.1, 0, 1, 1), (0.5, 0, 0.5, 1), (0, 0.7, 1, 0.2), (np.nan,) * 4]
)
def test_a_region_outside_the_picture_is_refused(region):
    with pytest.raises(DataError, match="isn't one inside the picture"):
        share_of_picture([region])


def test_values_for_other_tokens_are_refused():
    with pytest.raises(DataError, match="3 values for 4 vision tokens"):
        canvas(np.ones(3), Places(np.zeros(4, dtype=int), cells(even(2), even(2))), 0, 10, 10)


def asked(name, sizes, told, **changes):
    model, processor = subject(name)
    inputs = processed(processor, pictures([sizes]), nested=name.startswith("qwen"))
    return place(model, inputs["input_ids"], {**inputs, **changes}, 0, told, processor)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava", "llava_onevision", "internvl"])
def test_another_number_of_pictures_is_an_error(name):
    with pytest.raises(DataError, match=name):
        asked(name, SIZES[:2], SIZES[:1])
    with pytest.raises(DataError, match=name):
        asked(name, SIZES[:2], SIZES[:3])


def test_tokens_that_do_not_fit_the_layout_are_an_error():
    with pytest.raises(DataError, match="qwen2_vl: 24 vision tokens after 0 don't fit"):
        asked("qwen2_vl", SIZES[:1], SIZES[:1], image_grid_thw=torch.tensor([[1, 8, 10]]))
    with pytest.raises(DataError, match=r"llava_onevision: .* vision tokens after 0 don't fit"):
        asked("llava_onevision", SIZES[:1], SIZES[:1], image_sizes=torch.tensor([[300, 90]]))
    with pytest.raises(DataError, match="llava: 16 vision tokens don't fit the 9 of"):
        asked("llava", SIZES[:1], SIZES[:1], pixel_values=torch.zeros(1, 3, 42, 42))


def test_pictures_in_another_order_are_an_error_where_it_can_be_told():
    with pytest.raises(DataError, match="a picture of 168 x 112 pixels where the prompt has one of 100 x 230"):
        asked("llava_onevision", SIZES[:2], SIZES[1::-1])


def test_llava_without_its_processor_is_refused():
    model, processor = subject("llava")
    inputs = processed(processor, pictures([SIZES[:1]]), nested=False)
    with pytest.raises(UnsupportedError, match="known to its processor alone"):
        place(model, inputs["input_ids"], inputs, 0, SIZES[:1])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl"])
def test_the_tokens_of_a_video_have_no_places(family):
    model, inputs = tiny_model(family), prompts_for(family, "video")
    with pytest.raises((UnsupportedError, DataError), match=family):
        place(model, inputs["input_ids"], inputs, 0, ())


def test_a_family_that_is_not_known_is_refused_by_name():
    model, processor = subject("qwen2_vl")
    inputs = processed(processor, pictures([SIZES[:1]]), nested=True)
    model = copy.deepcopy(model)
    model.config.model_type = "paligemma"
    with pytest.raises(UnsupportedError, match=r"'paligemma' lie in a picture isn't known\. Known are: qwen2_vl"):
        place(model, inputs["input_ids"], inputs, 0, SIZES[:1])
