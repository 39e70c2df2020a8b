"""`potstill report`: the page of one run, or several runs beside each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from potstill.errors import RecipeError

PAGE = Path("comparison.html")


def add_report(app: typer.Typer, run: Callable[..., None]) -> None:
    """Add the command; `run` works on a recipe up to a stage."""

    @app.command()
    def report(
        given: Annotated[
            list[Path], typer.Argument(metavar="RECIPE | RUN RUN...", help="A recipe, or the runs to compare.")
        ],
        out: Annotated[
            Path | None,
            typer.Option("--out", help="Of a recipe the run directory; of runs the page, else comparison.html."),
        ] = None,
        set_: Annotated[list[str] | None, typer.Option("--set", help="Override a value: --set train.epochs=3.")] = None,
        quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
        rehash: Annotated[
            bool, typer.Option("--rehash", help="Hash the teacher's weights anew, whatever is remembered of them.")
        ] = False,
    ) -> None:
        """Write the report, with the stages before it; or compare several runs on the same test rows."""
        if len(given) > 1:
            if set_ or rehash:
                raise typer.BadParameter("--set and --rehash are of a recipe: runs are compared as they are")
            _compare(given, PAGE if out is None else out)
            return
        if out is None and given[0].is_dir():
            raise typer.BadParameter(
                f"{given[0]}: one run has its page already, {given[0] / 'report/report.html'}. Give two or more runs "
                "to compare them, or a recipe with --out"
            )
        if out is None:
            raise typer.BadParameter("expected --out RUN beside a recipe, or two or more runs")
        run(given[0], out, set_ or [], quiet, until="report", rehash=rehash)


def _compare(runs: list[Path], page: Path) -> None:
    from potstill.quiet import quiet_libraries

    quiet_libraries()
    from potstill.comparison.row_changes import against_the_first, change_lines
    from potstill.comparison.runs import read_runs
    from potstill.comparison.sections import overview, sections
    from potstill.presentation.page import render_comparison
    from potstill.presentation.terminal import comparison_table
    from potstill.run_dir import write_text

    _require_writable(page)
    _require_outside(page, runs)
    read = read_runs(runs)
    changes = against_the_first(read)
    title = f"{len(read)} runs on the same test rows"
    write_text(page, render_comparison(title, sections(read, changes)))
    comparison_table(overview(read), change_lines(read[0], changes))
    typer.echo(f"page: {page}")


def _require_writable(page: Path) -> None:
    """Before anything is read, for a comparison can take long."""
    if page.is_dir():
        raise RecipeError(f"--out {page}: a folder. Of several runs it is the file for their page, such as {PAGE}.")
    if not page.parent.is_dir():
        raise RecipeError(f"--out {page}: there is no folder {page.parent}. Make it, or name another file.")
    if page.exists() and page.suffix.lower() not in (".html", ".htm"):
        raise RecipeError(f"--out {page}: is there already, and is no page. Name another file.")


def _require_outside(page: Path, runs: list[Path]) -> None:
    """What lies in a run is known to its stages, such as the page of its own."""
    for run in runs:
        if page.resolve().is_relative_to(run.resolve()):
            raise RecipeError(f"--out {page}: within {run}, which is compared. Name a file outside of the runs.")
