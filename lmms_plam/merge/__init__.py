"""Merging a base language model into the decoder of a vision-language model that grew from it."""

from __future__ import annotations

from lmms_plam.merge.apply import MergeReport, merge_into, merged_tensors
from lmms_plam.merge.checkpoint import Checkpoint
from lmms_plam.merge.digests import digest_all, digest_tensors
from lmms_plam.merge.further import Further, FurtherFiles
from lmms_plam.merge.layers import check_probed, resolve_layers, resolve_start_layer
from lmms_plam.merge.lazy import Donor, Donors, Kept, digest_read, lazy_layers, untouched_keys
from lmms_plam.merge.lineage import Lineage, lineage, sampled_lineage
from lmms_plam.merge.plan import MergedTensor, MergePlan, Way, plan_merge
from lmms_plam.merge.schedules import Coefficients
from lmms_plam.merge.variants import BASE, Parts, untouched_tensors
from lmms_plam.merge.vocabulary import read_vocabulary

__all__ = [
    "BASE",
    "Checkpoint",
    "Coefficients",
    "Donor",
    "Donors",
    "Further",
    "FurtherFiles",
    "Kept",
    "Lineage",
    "MergePlan",
    "MergeReport",
    "MergedTensor",
    "Parts",
    "Way",
    "check_probed",
    "digest_all",
    "digest_read",
    "digest_tensors",
    "lazy_layers",
    "lineage",
    "merge_into",
    "merged_tensors",
    "plan_merge",
    "read_vocabulary",
    "resolve_layers",
    "resolve_start_layer",
    "sampled_lineage",
    "untouched_keys",
    "untouched_tensors",
]
