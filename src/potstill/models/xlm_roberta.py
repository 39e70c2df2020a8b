"""XLM-RoBERTa (Conneau et al. 2019, arXiv:1911.02116): RoBERTa in other words of the configuration alone."""

from dataclasses import replace

from potstill.models import roberta

FAMILY = replace(roberta.FAMILY, name="xlm-roberta")
