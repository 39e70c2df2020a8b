"""What `potstill list` and `potstill --help` show."""

from pathlib import Path

from potstill.catalogue import LISTED
from potstill.evaluation.metrics import METRICS
from potstill.recipe.yaml_file import load_recipe
from tests.commands import potstill


def test_all_that_can_be_listed_is_named_in_the_help_and_the_error() -> None:
    listed = ", ".join(LISTED)
    assert f"there are: {listed}." in potstill("list", "loss", check=1).stderr
    words = " ".join(potstill("list", "--help").stdout.replace("│", " ").split())
    assert listed.replace(", metrics", " or metrics.") in words


def test_divergences_are_listed_by_the_names_that_a_loss_can_give(project: Path) -> None:
    names = [line.split()[0] for line in potstill("list", "divergences").stdout.splitlines()]
    assert names == ["forward_kl", "reverse_kl", "generalised_jsd", "skew_kl", "total_variation"]
    for name in names:
        loss = f"losses=[{{kind: soft_targets, weight: 1, divergence: {name}}}]"
        assert load_recipe(project / "recipe.yaml", [loss]).losses[0].divergence.kind == name


def test_metrics_are_listed_with_what_a_gate_must_know_of_them() -> None:
    lines = {line.split()[0]: line for line in potstill("list", "metrics").stdout.splitlines()}
    assert list(lines) == [metric.name for metric in METRICS]
    for metric in METRICS:
        better = metric.better or "neither direction"
        assert f"{metric.words} ({metric.unit}): {better} is better" in lines[metric.name]
        assert (", takes (95%)" in lines[metric.name]) == metric.has_interval
    assert lines["macro_f1"].endswith("; of one class, several labels")
    assert lines["perplexity"].endswith("; of causal_lm, seq2seq") and lines["speedup"].endswith("higher is better")


def test_the_help_begins_with_what_the_program_is_for() -> None:
    words = " ".join(potstill("--help").stdout.split())
    assert "Distil a large model into a small one that you can ship" in words and "imports" not in words
