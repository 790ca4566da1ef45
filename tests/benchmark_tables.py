"""Documents of the papers' benchmarks, a few made-up ones each, in the real columns and the real structure.

What depends on each other does so here: MME's image pairs, POPE's images with the same positives in three parts,
MMBench's rotations at index + 1,000,000, GQA's questions on images of another config, HallusionBench's questions
crossed with figures. Of GQA's columns the functional programs are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
from lmms_eval.tasks.mme.utils import eval_type_dict as MME_CATEGORIES
from lmms_eval.tasks.mmstar.utils import eval_type_dict as MMSTAR_PARTS
from tiny_tasks import picture

Document = dict[str, Any]
Columns = Mapping[str, Any]
LETTERS = "ABCD"
TEXT, INTEGER, IMAGE, TEXTS = (
    datasets.Value("string"),
    datasets.Value("int64"),
    datasets.Image(),
    datasets.List(datasets.Value("string")),
)


def columns(*texts: str, **others: Any) -> Columns:
    """Return features: the named text columns and the given others."""
    return {**dict.fromkeys(texts, TEXT), **others}


@dataclass(frozen=True, slots=True)
class Table:
    """A split of a dataset on the hub, with its documents."""

    path: str
    split: str
    columns: Columns
    documents: Callable[[], Iterator[Document]]
    config: str = "default"


def table(path: str, split: str, columns: Columns, config: str = "default") -> Callable[..., Table]:
    """Make a table of a function that yields its documents."""
    return lambda documents: Table(path, split, columns, documents, config)


@table(
    "Lin-Chen/MMStar",
    "val",
    columns(
        *("question", "answer", "category", "l2_category"),
        index=INTEGER,
        image=IMAGE,
        meta_info=columns("source", "split", "image_path"),
    ),
)
def mmstar() -> Iterator[Document]:
    every = [(category, part) for category, parts in MMSTAR_PARTS.items() for part in parts]
    for index, (category, part) in enumerate(every + every[::3]):  # sizes differ, so that macro is not micro
        yield {
            "index": index,
            "question": f"Which shape is in picture {index}?\nOptions: A: circle, B: square, C: star, D: none",
            "image": picture(index),
            "answer": LETTERS[index % 4],
            "category": category,
            "l2_category": part,
            "meta_info": {"source": "MMBench", "split": "val", "image_path": f"images/{index}.jpg"},
        }


@table("lmms-lab-encoder/MME", "test", columns("question_id", "question", "answer", "category", image=IMAGE))
def mme() -> Iterator[Document]:
    categories = [*MME_CATEGORIES["Perception"], *MME_CATEGORIES["Cognition"]]
    for number, category in enumerate(categories + categories[::7]):
        for shape, answer in (("circle", "Yes"), ("square", "No")):
            yield {
                "question_id": f"{category}/{number:04d}.png",
                "image": picture(number),
                "question": f"Is there a {shape} in this image? Please answer yes or no.",
                "answer": answer,
                "category": category,
            }


@table(
    "lmms-lab-encoder/MMMU",
    "validation",
    columns(
        *("id", "question", "options", "explanation", "img_type", "answer", "topic_difficulty"),
        *("question_type", "subfield"),
        **{f"image_{place}": IMAGE for place in range(1, 8)},
    ),
)
def mmmu() -> Iterator[Document]:
    subjects = ("Accounting", "Art_Theory", "Biology", "Clinical_Medicine", "Energy_and_Power", "Sociology")
    for number in range(18):
        subject, opened, two = subjects[number % 6], number % 5 == 4, number % 7 == 3
        images = {f"image_{place}": None for place in range(1, 8)}
        images |= {"image_1": picture(number)} | ({"image_2": picture(number + 1)} if two else {})
        yield {
            "id": f"validation_{subject}_{1 + number // 6}",
            "question": "Which sum does <image 1> show?" + (" Compare with <image 2>." if two else ""),
            "options": "[]" if opened else str(["$10", "$20", "$30", "$40"]),
            "explanation": "",
            **images,
            "img_type": "['Diagrams']",
            "answer": str(7 + number) if opened else LETTERS[number % 4],
            "topic_difficulty": "Easy",
            "question_type": "open" if opened else "multiple-choice",
            "subfield": subject,
        }


_MMBENCH = columns(
    *("question", "hint", "answer", *LETTERS, "category", "source", "L2-category", "comment", "split"),
    index=INTEGER,
    image=IMAGE,
)


def _rotations(names: Mapping[str, str] | None = None, without: tuple[str, ...] = ()) -> Iterator[Document]:
    """Yield MMBench's questions, each once for every rotation of its options, with columns renamed or left out."""
    for group, (category, options) in enumerate(
        (
            ("object_localization", ("left", "right", "top", "bottom")),
            ("attribute_recognition", ("red", "green", "blue", "white")),
            ("image_emotion", ("happy", "sad", "nan", "nan")),
            ("ocr", ("stop", "go", "slow", "exit")),
            ("object_localization", ("near", "far", "nan", "nan")),
            ("ocr", ("open", "closed", "nan", "nan")),
            ("image_emotion", ("calm", "angry", "nan", "nan")),
        )
    ):
        texts = [text for text in options if text != "nan"]
        for rotation in range(len(texts)):
            shown = texts[rotation:] + texts[:rotation]
            document = {
                "index": group + rotation * 1_000_000,
                "question": f"What does picture {group} show?",
                "hint": "nan" if group % 2 else "Look at the circle.",
                "answer": LETTERS[shown.index(texts[group % len(texts)])],
                **dict(zip(LETTERS, shown + ["nan"] * (4 - len(texts)), strict=True)),
                "category": category,
                "image": picture(group),
                "source": "made up",
                "L2-category": "finegrained_perception (instance-level)" if group % 2 else "coarse_perception",
                "comment": "nan",
                "split": "dev",
            }
            yield {(names or {}).get(name, name): value for name, value in document.items() if name not in without}


@table("lmms-lab-encoder/MMBench", "dev", _MMBENCH, config="en")
def mmbench() -> Iterator[Document]:
    return _rotations()


@table("lmms-lab-encoder/MMBench", "dev", _MMBENCH, config="cn")
def mmbench_cn() -> Iterator[Document]:
    for document in _rotations():
        yield document | {"question": f"图片 {document['index'] % 1_000_000} 里有什么？", "hint": "nan"}


_NOT_IN_CC = ("hint", "L2-category", "comment", "split")


@table(
    "lmms-lab-encoder/MMBench",
    "test",
    {name: kind for name, kind in _MMBENCH.items() if name not in _NOT_IN_CC},
    config="cc",
)
def mmbench_cc() -> Iterator[Document]:
    return _rotations(without=_NOT_IN_CC)


_IN_RU = {"L2-category": "l2-category"}


@table("deepvk/MMBench-ru", "dev", {_IN_RU.get(name, name): kind for name, kind in _MMBENCH.items()})
def mmbench_ru() -> Iterator[Document]:
    return _rotations(_IN_RU)


@table(
    "doolayer/SEED-Bench-2-Plus",
    "test",
    columns(
        *("question_id", "question", *(f"choice_{letter}" for letter in LETTERS), "answer"),
        *("question_image_type", "question_image_subtype", "data_id", "data_source", "data_type", "level", "subpart"),
        "version",
        image=IMAGE,
    ),
)
def seedbench_2_plus() -> Iterator[Document]:
    for number in range(22):
        kind = ("chart", "map", "web")[number // 4 % 3]  # four questions an image
        yield {
            "question_id": str(number),
            "question": f"Which value stands in row {number}?",
            **{f"choice_{letter}": str(10 * place + number) for place, letter in enumerate(LETTERS)},
            "answer": LETTERS[number % 4],
            "question_image_type": kind,
            "question_image_subtype": "tree diagram",
            "data_id": f"text_rich/{number // 4}.png",
            "data_source": "SEED-Bench v2 plus",
            "data_type": "Single Image",
            "level": "L1",
            "subpart": "Single-Image & Text Comprehension",
            "version": "v2+",
            "image": picture(number // 4),
        }


@table("lmms-lab-encoder/RealWorldQA", "test", columns("image_path", "question", "answer", image=IMAGE))
def realworldqa() -> Iterator[Document]:
    letter = "Please answer directly with only the letter of the correct option and nothing else."
    for index in range(12):
        opened = index % 3 == 2
        options = "" if opened else "\n\nA. Left.\nB. Straight.\nC. Right.\n"
        ending = "Please answer directly with a single word or number." if opened else letter
        yield {
            "image_path": f"{index // 2}.webp",
            "image": picture(index // 2),  # two questions an image
            "question": f"Where does lane {index} lead?{options}{ending}",
            "answer": str(index) if opened else LETTERS[index % 3],
        }


_POPE = columns("id", "question_id", "question", "answer", "image_source", "category", image=IMAGE)
_ABSENT = {"random": "ski", "popular": "chair", "adversarial": "fork"}


def _pope_part(category: str) -> Iterator[Document]:
    part = list(_ABSENT).index(category)
    for question in range(12):
        image, present = question // 6, question % 2 == 0
        thing = f"circle {question % 6}" if present else f"{_ABSENT[category]} {question % 6}"
        yield {
            "id": str(12 * part + question),
            "question_id": str(question + 1),
            "question": f"Is there a {thing} in the image?",  # of what is there, the same in each part
            "answer": "yes" if present else "no",
            "image_source": f"COCO_val2014_{image:012d}",
            "image": picture(image),
            "category": category,
        }


@table("lmms-lab-encoder/POPE", "test", _POPE)
def pope() -> Iterator[Document]:
    for category in _ABSENT:
        yield from _pope_part(category)


@table("lmms-lab-encoder/POPE", "random", _POPE, config="Full")
def pope_random() -> Iterator[Document]:
    return _pope_part("random")


@table("lmms-lab-encoder/POPE", "popular", _POPE, config="Full")
def pope_popular() -> Iterator[Document]:
    return _pope_part("popular")


@table("lmms-lab-encoder/POPE", "adversarial", _POPE, config="Full")
def pope_adversarial() -> Iterator[Document]:
    return _pope_part("adversarial")


@table(
    "lmms-lab-encoder/GQA",
    "testdev",
    columns(
        *("id", "imageId", "question", "answer", "fullAnswer", "entailed", "equivalent", "semanticStr"),
        isBalanced=datasets.Value("bool"),
        groups=columns("global", "local"),
        types=columns("structural", "semantic", "detailed"),
    ),
    config="testdev_balanced_instructions",
)
def gqa_questions() -> Iterator[Document]:
    for number in range(12):
        answer = ("red", "yes", "left")[number % 3]
        yield {
            "id": f"20{number:07d}",
            "imageId": f"n{number // 4}",
            "question": f"What about thing {number}?",
            "answer": answer,
            "fullAnswer": f"It is {answer}.",
            "isBalanced": True,
            "groups": {"global": "color", "local": f"10q-{number}"},
            "entailed": "[]",
            "equivalent": f"['20{number:07d}']",
            "types": {"structural": "query", "semantic": "attr", "detailed": "color"},
            "semanticStr": "select: thing->query: color",
        }


@table("lmms-lab-encoder/GQA", "testdev", columns("id", image=IMAGE), config="testdev_balanced_images")
def gqa_images() -> Iterator[Document]:
    return ({"id": f"n{image}", "image": picture(image)} for image in range(3))


@table(
    "lmms-lab-encoder/textvqa",
    "validation",
    columns(
        *("image_id", "question", "flickr_original_url", "flickr_300k_url", "set_name"),
        question_id=datasets.Value("int32"),
        question_tokens=TEXTS,
        image=IMAGE,
        image_width=datasets.Value("int32"),
        image_height=datasets.Value("int32"),
        answers=TEXTS,
        image_classes=TEXTS,
        ocr_tokens=TEXTS,
    ),
)
def textvqa() -> Iterator[Document]:
    for number in range(10):
        word = ("stop", "bakery", "7 up", "exit", "40")[number % 5]
        question = f"what does sign {number} say?"
        yield {
            "image_id": f"00{number // 2:04x}",  # two questions an image
            "question_id": 34_602 + number,
            "question": question,
            "question_tokens": question.rstrip("?").split(),
            "image": picture(number // 2),
            "image_width": 84,
            "image_height": 84,
            "flickr_original_url": "",
            "flickr_300k_url": "",
            "answers": [word] * (2 + number % 9) + ["unanswerable"] * (8 - number % 9),  # full and partial credit
            "image_classes": ["Sign"],
            "set_name": "val",
            "ocr_tokens": [word],
        }


@table(
    "lmms-lab-encoder/ScienceQA",
    "test",
    columns(
        *("question", "hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution"),
        image=IMAGE,
        choices=TEXTS,
        answer=datasets.Value("int8"),
    ),
    config="ScienceQA-IMG",
)
def scienceqa() -> Iterator[Document]:
    for number in range(12):
        yield {
            "image": picture(number // 2),
            "question": f"Which property do the objects in figure {number} share?",
            "choices": ["hard", "soft", "sweet", "blue"][: 2 + number % 3],
            "answer": number % 2,
            "hint": "Select the better answer." if number % 2 else "",
            "task": "closed choice",
            "grade": "grade4",
            "subject": "natural science",
            "topic": "physics",
            "category": "Materials",
            "skill": "Compare properties of objects",
            "lecture": "",
            "solution": "",
        }


@table(
    "lmms-lab-encoder/HallusionBench",
    "image",
    columns(
        *("category", "subcategory", "visual_input", "set_id", "figure_id", "sample_note", "question_id"),
        *("question", "gt_answer_details", "gt_answer", "filename"),
        image=IMAGE,
    ),
)
def hallusion() -> Iterator[Document]:
    for category, subcategory in (("VD", "illusion"), ("VD", "math"), ("VS", "chart"), ("VS", "map")):
        first = 0 if category == "VD" else 1  # figure 0 of VS is no figure: those questions are in another split
        for set_id in range(2):
            for figure in (first, first + 1):
                for question in range(2):
                    yes = (figure + question) % 2 == 0
                    yield {
                        "category": category,
                        "subcategory": subcategory,
                        "visual_input": "1" if figure == first else "2",
                        "set_id": str(set_id),
                        "figure_id": str(figure),
                        "sample_note": "circles",
                        "question_id": str(question),
                        "question": f"Is the left circle {'larger' if question else 'smaller'}?",
                        "gt_answer_details": f"{'Yes' if yes else 'No'}, as drawn.",
                        "gt_answer": "1" if yes else "0",
                        "filename": f"./hallusion_bench/{category}/{subcategory}/{set_id}_{figure}.png",
                        "image": picture(figure),
                    }


@table("lmms-lab-encoder/ai2d", "test", columns("question", "answer", options=TEXTS, image=IMAGE))
def ai2d() -> Iterator[Document]:
    for number in range(10):
        yield {
            "question": f"Which letter marks stem {number} in diagram {number // 2}?",
            "options": ["root", "stem", "leaf", "flower"],
            "answer": str(number % 4),
            "image": picture(number // 2),
        }


@table(
    "MathLLMs/MathVision",
    "testmini",
    columns(
        *("id", "question", "image", "answer", "solution", "subject"),
        options=TEXTS,
        decoded_image=IMAGE,
        level=INTEGER,
    ),
)
def mathvision() -> Iterator[Document]:
    for number in range(10):
        choices = number % 2 == 0
        yield {
            "id": str(number + 1),
            "question": "How many circles are there?\n<image1>",
            "options": ["3", "4", "5", "6", "7"] if choices else [],
            "image": f"images/{number + 1}.jpg",
            "decoded_image": picture(number),
            "answer": LETTERS[number % 4] if choices else str(number),
            "solution": None,
            "level": 1 + number % 5,
            "subject": "counting",
        }


@table(
    "AI4Math/MathVista",
    "testmini",
    columns(
        *("pid", "question", "image", "unit", "answer", "question_type", "answer_type", "query"),
        decoded_image=IMAGE,
        choices=TEXTS,
        precision=datasets.Value("float64"),
        metadata=columns(
            *("category", "context", "grade", "language", "source", "split", "task"),
            img_height=INTEGER,
            img_width=INTEGER,
            skills=TEXTS,
        ),
    ),
)
def mathvista() -> Iterator[Document]:
    kinds = (
        ("text", ["Yes", "No"], None, None, "No"),
        ("integer", None, None, None, "14"),
        ("text", ["-5", "5", "25°", "none"], None, None, "25°"),
        ("float", None, 1.0, "cm", "1.5"),
        ("float", None, 2.0, "$", "13.10"),
        ("list", None, None, None, "[0, 5]"),
    )
    for number in range(15):
        answer_type, choices, precision, unit, answer = kinds[number % 6]
        question = f"What does figure {number} show?"
        yield {
            "pid": str(number + 1),
            "question": question,
            "image": f"images/{number + 1}.jpg",
            "decoded_image": picture(number // 2),  # two questions an image, in files of their own
            "choices": choices,
            "unit": unit,
            "precision": precision,
            "answer": answer,
            "question_type": "multi_choice" if choices else "free_form",
            "answer_type": answer_type,
            "metadata": {
                "category": "math-targeted-vqa",
                "context": "synthetic scene",
                "grade": "daily life",
                "img_height": 84,
                "img_width": 84,
                "language": "english",
                "skills": ["arithmetic reasoning", "statistical reasoning"],
                "source": "made up",
                "split": "testmini",
                "task": ("figure question answering", "math word problem")[number // 8],
            },
            "query": f"Hint: Please answer.\nQuestion: {question}",
        }
