"""The ways a command ends early, each with the exit code it is known by."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Something the user gave cannot be used. The message is one line: what, where, and the remedy."""

    exit_code = 2


class HealthStop(Exception):
    """The health check ended a pretraining run (collapse, divergence, no learning)."""

    exit_code = 3


class Preempted(Exception):
    """The run was asked to leave the machine (SIGTERM) and has saved its state."""

    exit_code = 75


class WorkerDied(Exception):
    """A data worker was killed or had no memory left; the message is one line."""

    exit_code = 1


class Interrupted(Exception):
    """A signal came while a batch was waited for."""

    exit_code = 1


def shortened(text: object, most: int = 300) -> str:
    """``text`` in one line of at most ``most`` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """The tail of an error about an unknown ``name``: the nearest valid one, else all of them."""
    choices = sorted(valid)
    lowered = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    if close:
        return f"did you mean '{lowered[close[0]]}'?"
    if not choices:
        return "there are none to choose from"
    return shortened("choose from: " + ", ".join(choices))
