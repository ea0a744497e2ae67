"""The command ``ncollapse completion``: a script that lets the shell complete commands, options, recipes and models."""

from __future__ import annotations

import argparse
from typing import Any

_BASH = """\
_ncollapse() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands} --help --version"
  else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _ncollapse ncollapse
"""
_HOW = {"bash": 'eval "$(ncollapse completion bash)"', "zsh": 'eval "$(ncollapse completion zsh)"'}
_HOW["fish"] = "ncollapse completion fish | source"


def add_completion(commands: Any) -> None:
    """Add the command to a parser."""
    lines = "\n".join(f"  {shell:<5} {line}" for shell, line in _HOW.items())
    completion = commands.add_parser(
        "completion",
        help="print a script with which your shell completes commands, options, recipes and models",
        epilog=f"Add the line of your shell to its start file (.bashrc, .zshrc, config.fish):\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    completion.add_argument("shell", metavar="SHELL", choices=list(_HOW), help="bash, zsh or fish")
    completion.set_defaults(call=lambda options: print(_script(options.shell, commands), end=""))


def _script(shell: str, commands: Any) -> str:
    words = {name: _words(name, parser) for name, parser in commands.choices.items()}
    if shell == "fish":
        return _fish(words, {choice.dest: choice.help for choice in commands._choices_actions})
    cases = "\n".join(f'      {name}) words="{" ".join(found)}" ;;' for name, found in words.items())
    script = _BASH.format(commands=" ".join(words), cases=cases)
    return script if shell == "bash" else f"autoload -Uz compinit bashcompinit && compinit && bashcompinit\n{script}"


def _fish(words: dict[str, list[str]], about: dict[str, str]) -> str:
    first, after = "__fish_use_subcommand", "__fish_seen_subcommand_from"
    quoted = {name: text.replace("'", "\\'") for name, text in about.items()}
    lines = [f"complete -c ncollapse -n {first} -a {name} -d '{quoted[name]}'" for name in words]
    lines += [f"complete -c ncollapse -n '{after} {name}' -a '{' '.join(found)}'" for name, found in words.items()]
    return "\n".join(lines) + "\n"


def _words(name: str, parser: argparse.ArgumentParser) -> list[str]:
    """Collect what may follow a command: its options, and the names that it takes."""
    from ncollapse.cli.surrogate_models import MODELS
    from ncollapse.recipes import RECIPES

    options = [word for action in parser._actions for word in action.option_strings if word.startswith("--")]
    choices = [str(choice) for action in parser._actions for choice in action.choices or ()]
    recipes = list(RECIPES)
    names = {"solve": list(MODELS), "run": recipes, "sweep": recipes, "recipes": recipes}
    return [*options, *choices, *names.get(name, [])]
