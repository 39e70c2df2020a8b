"""Mistral (Jiang et al. 2023, arXiv:2310.06825): Llama's modules, and attention that may look back through a window."""

from dataclasses import replace

from potstill.models import llama

FAMILY = replace(
    llama.FAMILY,
    name="mistral",
    laid_out_as="llama",
    # transformers gives every Mistral a window that is not told otherwise.
    not_taken_over={"sliding_window": None},
)
