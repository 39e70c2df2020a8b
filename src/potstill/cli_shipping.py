"""The commands about what is shipped: ask it, measure it, push it."""

from pathlib import Path
from typing import Annotated

import typer

Artefact = Annotated[Path, typer.Argument(help="A folder below export/ of a run directory, or a copy of one.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads that the model answers with.")]


def add_commands(app: typer.Typer) -> None:
    app.command()(predict)
    app.command()(bench)
    app.command()(push)
    app.command()(playground)


def predict(
    artefact: Artefact,
    file: Annotated[Path | None, typer.Argument(help="Rows as lines of JSON; without it, standard input.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write; without it, standard output.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows that are read together.")] = 32,
    threads: Threads = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Ask an exported model: a line of JSON in, one out, in the same order."""
    from potstill.progress import for_console
    from potstill.quiet import quiet_libraries
    from potstill.shipping.predict import predict_rows

    quiet_libraries()
    predict_rows(artefact, file, out, batch_size=batch_size, threads=threads, progress=for_console(quiet=quiet))


def bench(
    artefact: Artefact,
    rows: Annotated[
        Path | None, typer.Option("--rows", help="Rows to measure with; without it, texts as long as the test rows.")
    ] = None,
    threads: Threads = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Fresh processes, of which the fastest counts.")] = 3,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Of the throughput, 32 if none; of several, speed is measured at each. Repeatable."),
    ] = None,
    length: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Tokens of queries, made of --rows, at which speed is measured too. Repeatable."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Measure an exported model on this machine: latency, throughput, memory, time to load."""
    from potstill.shipping.bench import bench_artefact, lines_of

    found = bench_artefact(
        artefact, rows, threads=threads, rounds=rounds, batch_sizes=batch_size or (), lengths=length or ()
    )
    if json_:
        import json

        typer.echo(json.dumps(found, indent=2))
        return
    for line in lines_of(found):
        typer.echo(line)


def push(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    target: Annotated[str, typer.Argument(help="The repository: hf:organisation/name.")],
    artefact: Annotated[
        str | None, typer.Option("--artefact", help="Which of those that passed; without it the smallest.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Upload an artefact that passed to the Hugging Face hub, with its card; the token is read from HF_TOKEN."""
    from potstill.quiet import quiet_libraries
    from potstill.shipping.push import push_artefact

    quiet_libraries()
    typer.echo(f"pushed: {push_artefact(run, target, artefact, private=private)}")


def playground(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Where to listen; without it, a free one.")] = None,
    threads: Threads = 1,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Open a page on this machine where all models of a run answer what you type, side by side."""
    from potstill.playground import require_gradio
    from potstill.playground.answers import open_playground
    from potstill.progress import for_console
    from potstill.quiet import quiet_libraries

    require_gradio()
    quiet_libraries()
    opened = open_playground(run, threads, for_console(quiet=quiet))
    from potstill.playground.page import serve

    serve(opened, port, browser=browser, told=lambda address: typer.echo(f"playground: {address} (Ctrl-C ends it)"))
