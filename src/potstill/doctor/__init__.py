"""`potstill doctor`: what this machine has, and whether training here keeps its promises on tiny models."""

from potstill.doctor.checks import Check, run_checks
from potstill.doctor.environment import environment_lines, unmet_requirements

__all__ = ["Check", "environment_lines", "run_checks", "unmet_requirements"]
