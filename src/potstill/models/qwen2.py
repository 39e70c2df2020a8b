"""Qwen2 and Qwen2.5 (Qwen Team 2024, arXiv:2412.15115): Llama's modules, with biases of queries, keys and values."""

from dataclasses import replace

from potstill.models import llama

FAMILY = replace(llama.FAMILY, name="qwen2")
