"""References for who cites a study: the method, the harness, this package, and the models that are on the hub."""

from __future__ import annotations

import re
from importlib.metadata import version

from lmms_plam.site.found import Study

_FIXED = """@misc{wang2026plam,
  title = {{PlaM}: Training-Free Plateau-Guided Model Merging for Better Visual Grounding in {MLLMs}},
  author = {Zijing Wang and Yongkang Liu and Mingyang Wang and Ercong Nie and Deyuan Chen and Zhengjie Zhao and
    Shi Feng and Daling Wang and Xiaocui Yang and Yifei Zhang and Hinrich Sch{\\"u}tze},
  year = {2026},
  eprint = {2601.07645},
  archivePrefix = {arXiv},
}

@misc{zhang2024lmmseval,
  title = {{LMMs-Eval}: Reality Check on the Evaluation of Large Multimodal Models},
  author = {Kaichen Zhang and Bo Li and Peiyuan Zhang and Fanyi Pu and Joshua Adrian Cahyono and Kairui Hu and
    Shuai Liu and Yuanhan Zhang and Jingkang Yang and Chunyuan Li and Ziwei Liu},
  year = {2024},
  eprint = {2407.12772},
  archivePrefix = {arXiv},
}
"""


def references(study: Study, title: str) -> str:
    """Return BibTeX: the study itself, the package, the method, the harness, and models named by a hub id.

    Args:
        study: what was found.
        title: what the study is called.
    """
    dates = sorted(filter(None, (run.date for run in study.runs)))
    year = dates[-1][:4] if dates else ""
    own = [
        _entry(
            "misc",
            _key(title),
            title=f"{{{title}}}",
            year=year,
            note="Masking probes and merges of vision-language models",
        ),
        _entry(
            "software",
            "lmms_plam",
            title="{lmms-plam}: plateau-guided merging, measured inside {lmms-eval}",
            version=version("lmms-plam"),
        ),
    ]
    ids = {
        name: commit
        for run in study.runs
        if run.answered is not None
        for name, commit in (
            (run.answered.config.vlm, run.answered.vlm_commit),
            (run.answered.config.base_lm, run.answered.merge.base_lm_commit if run.answered.merge else None),
        )
        if name and re.fullmatch(r"[\w.-]+/[\w.-]+", name)
    }
    models = [
        _entry(
            "misc",
            _key(name),
            title=f"{{{name}}}",
            howpublished=rf"\url{{https://huggingface.co/{name}}}",
            note=commit or "",
        )
        for name, commit in ids.items()
    ]
    return "\n".join([*own, _FIXED, *models])


def _entry(kind: str, key: str, **fields: str) -> str:
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items() if value)
    return f"@{kind}{{{key},\n{lines}}}\n"


def _key(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_").lower() or "study"
