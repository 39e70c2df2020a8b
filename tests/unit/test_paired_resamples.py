"""What differs between two models is measured on the same resamples, which a seed decides alone."""

from pathlib import Path

import numpy as np

from potstill.measure.quality import bootstrap_weights
from potstill.progress import Progress
from potstill.recipe.yaml_file import load_recipe
from potstill.run_dir import open_run
from potstill.stages import evaluate
from potstill.stages.common import read_inputs


def test_resamples_depend_on_their_seed_alone() -> None:
    assert np.array_equal(bootstrap_weights(20, seed=3, resamples=9), bootstrap_weights(20, seed=3, resamples=9))
    assert not np.array_equal(bootstrap_weights(20, seed=3, resamples=9), bootstrap_weights(20, seed=4, resamples=9))


def test_two_models_that_say_the_same_differ_by_exactly_nothing(project: Path) -> None:
    """Drawn for each model by itself, the interval of the difference would be as wide as that of the accuracy."""
    recipe = load_recipe(project / "recipe.yaml", ["evaluate.floor=false"])
    inputs = read_inputs(recipe, project)
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 3, len(inputs.splits["test"].rows))
    teacher, baseline = (generator.normal(size=(len(truth), 3)).astype(np.float32) for _ in range(2))
    logits = {"teacher": teacher, "student": teacher.copy(), "baseline": baseline}
    with open_run(project / "run", Progress()) as run:
        judged = evaluate._judged(run, recipe, inputs, logits, truth)
    found = {(each.of, each.against): each for each in judged.comparisons}
    same, other = found["student", "teacher"].accuracy_points, found["student", "baseline"].accuracy_points
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert other.high - other.low > 5
    macro = found["student", "teacher"].macro_f1_points
    assert macro is not None and (macro.low, macro.high) == (0, 0)
