"""What `dsin` and `dsin-export` have in common: their help, their version, sizes on their lines.

Their commands are added by `option_rules.command`, and `terminal.run_app` runs them.
"""

from typing import Annotated

import typer


def command_app(name: str, summary: str) -> typer.Typer:
    """An app without commands yet, which knows `--version`."""
    app = typer.Typer(
        name=name,
        help=summary,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    def print_version(wanted: bool) -> None:
        if wanted:
            from dsin.runtime.version import __version__

            typer.echo(f"{name} {__version__}")
            raise typer.Exit

    @app.callback()
    def _root(
        version: Annotated[
            bool,
            typer.Option(
                "--version",
                callback=print_version,
                is_eager=True,
                help="Print the version and exit.",
            ),
        ] = False,
    ) -> None:
        pass

    return app


def parse_size(text: str, option: str) -> tuple[int, int]:
    """Height and width from HxW; wrong usage of the option for anything else."""
    height, cross, width = text.partition("x")
    if not cross or not height.isdecimal() or not width.isdecimal():
        raise typer.BadParameter(f"{text!r} is not HEIGHTxWIDTH", param_hint=option)
    return int(height), int(width)
