# SPDX-License-Identifier: MIT
"""Completion of commands and options for bash and zsh.

User names are not completed: they would have to be asked from the agent at each key press.
"""

from __future__ import annotations

import argparse

from mailseal.admin.cli import build_parser
from mailseal.manual.pages import arguments

_BASH = """\
# bash completion for mailseal(1)
_mailseal() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} command= i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
            -c | --config) ((i++)) ;;
            -*) ;;
            *)
                command=${{COMP_WORDS[i]}}
                break
                ;;
        esac
    done
    case $command:$word in
        :-*) COMPREPLY=($(compgen -W "--config --help --version" -- "$word")) ;;
        :*)
            ((i > COMP_CWORD)) || COMPREPLY=($(compgen -W "{commands}" -- "$word"))
            ;;
{cases}
    esac
}}
complete -o bashdefault -o default -F _mailseal mailseal
"""

_ZSH = """\
#compdef mailseal
_mailseal() {{
    local state
    local -a commands
    _arguments -C \\
        '(-c --config)'{{-c,--config}}'[configuration]:file:_files' \\
        '--version[the version of mailseal]' \\
        '(-h --help)'{{-h,--help}}'[help]' \\
        '1: :->command' '*:: :->arguments'
    case $state in
        command)
            commands=(
{commands}
            )
            _describe -t commands command commands
            ;;
        arguments)
            case $words[1] in
{cases}
            esac
            ;;
    esac
}}
_mailseal "$@"
"""


def bash() -> str:
    """For /usr/share/bash-completion/completions/mailseal."""
    entries = build_parser().commands.entries
    cases = []
    for entry in entries:
        names = " ".join([*_options(entry.parser), "--help"])
        cases.append(f'        {entry.name}:-*) COMPREPLY=($(compgen -W "{names}" -- "$word")) ;;')
    return _BASH.format(commands=" ".join(entry.name for entry in entries), cases="\n".join(cases))


def zsh() -> str:
    """For /usr/share/zsh/vendor-completions/_mailseal."""
    commands, cases = [], []
    for entry in build_parser().commands.entries:
        commands.append(f"                {_quoted(f'{entry.name}:{entry.text}')}")
        specs = [
            _quoted(f"{name}[{_bracketed(about)}]{':value:_files' if value else ''}")
            for name, (value, about) in _options(entry.parser).items()
        ]
        line = " ".join([*specs, "'*:argument:_files'"])
        cases.append(f"                {entry.name}) _arguments {line} ;;")
    return _ZSH.format(commands="\n".join(commands), cases="\n".join(cases))


def _options(parser: argparse.ArgumentParser) -> dict[str, tuple[str, str]]:
    """The value and the help text of each option, by its long name."""
    found = {}
    for names, about in arguments(parser):
        name, _, value = names.rpartition(", ")[2].partition(" ")
        if name.startswith("--"):
            found[name] = (value, about)
    return found


def _quoted(words: str) -> str:
    return "'" + words.replace("'", r"'\''") + "'"


def _bracketed(words: str) -> str:
    return words.replace("[", r"\[").replace("]", r"\]")
