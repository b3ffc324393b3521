"""The command-line page, from the parser: what `dtl --help` knows, as Markdown."""

import argparse


def reference() -> str:
    """Every command of `dtl`, with its flags."""
    from dtl_lib.cli.main import parser  # here, so that the book's other pages render without the command line

    return describe(parser())


def describe(parser: argparse.ArgumentParser) -> str:
    """A parser's commands as Markdown: a section each, a definition list of flags."""
    lines = [parser.description or "", ""]
    for name, command in _commands(parser).items():
        lines += [
            f"## `{parser.prog} {name}`",
            "",
            command.description or "",
            "",
            "```text",
            _usage(command),
            "```",
            "",
        ]
        for action in command._actions:
            if not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS:
                lines += [_flag(action), f": {_explain(action)}", ""]
    return "\n".join(lines)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def _usage(command: argparse.ArgumentParser) -> str:
    return command.format_usage().removeprefix("usage: ").strip()


def _flag(action: argparse.Action) -> str:
    names = action.option_strings or [action.metavar or action.dest]
    value = "" if action.nargs == 0 or not action.option_strings else f" {action.metavar or action.dest.upper()}"
    return ", ".join(f"`{name}{value}`" for name in names)


def _explain(action: argparse.Action) -> str:
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%") or "no description"
    if action.choices:
        text += f" One of {', '.join(f'`{choice}`' for choice in action.choices)}."
    if action.default not in (None, False, argparse.SUPPRESS) and "default" not in text:
        text += f" Default: `{action.default}`."
    return text.replace("\n", " ")
