"""The command-line page, from the parser: what `dtl --help` knows, as Markdown."""

import argparse
from dataclasses import fields

MODELS = "models_and_recipes.md"


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
    from dtl_lib.config import configurations

    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%") or "no description"
    text = text.replace(
        f": {', '.join(sorted(configurations()))}", f": [{len(configurations())} have a name]({MODELS})"
    )
    text = text.replace("one of those below", f"[what to begin with]({MODELS})")
    text = text if text.endswith(".") else f"{text}."
    if action.choices and not all(str(choice) in text for choice in action.choices):
        text += f" One of {', '.join(f'`{choice}`' for choice in action.choices)}."
    if action.option_strings and "(default: " not in text:
        text += f" Default: {_default(action)}."
    return text.replace("\n", " ")


def _default(action: argparse.Action) -> str:
    """What holds where a flag is not given."""
    from book.tools.reference import value
    from dtl_lib.train.recipe import Recipe

    recipe = {field.name: field.default for field in fields(Recipe)}
    if action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction):
        return "off"
    if action.default is not argparse.SUPPRESS:
        return f"`{value(action.default)}`"
    return f"`{value(recipe[action.dest])}` unless the recipe sets it" if action.dest in recipe else "the model's"
