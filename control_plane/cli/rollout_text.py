"""Rollouts in words: lines for people, from the documents of the API. Nothing here prints."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

_BAR_CHARS: Final = 20
_SETTLED: Final = ("shadowing", "committed", "reverted", "superseded")
_OPEN: Final = ("running", "paused", "rolling_back", "rolling_back_phase")


def moment(at: float) -> str:
    """Return a time (Unix seconds) as the user's clock tells it."""
    return datetime.fromtimestamp(at, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def overview(document: dict[str, Any]) -> list[str]:
    """Return a rollout at a glance: phases with counts, gates, and why it stands where it does."""
    what = f"{document['id']}: {document['release_path']} to {document['cohort']}"
    lines = [f"{what} ({_devices(document['members'])}) is {_words(document['state'])}"]
    lines += [_phase(index, phase) for index, phase in enumerate(document["phases"])]
    if any(document["later"].values()):
        lines.append(f"  later    after the end: {_counted(document['later'])}")
    lines += [
        f"  gate {finding['verdict'] or 'not applicable':<14}  {finding['sentence']}"
        for finding in document["gates"]
    ]
    lines += [
        f"  approval  phase {each['phase'] + 1} by {each['by']} at {moment(each['at'])}"
        for each in document["approvals"]
    ]
    lines += [f"  {sentence}" for sentence in awaited(document)]
    if wanted := [each for each in document["approvals_wanted"] if not _awaits(document, each)]:
        named = ", ".join(str(phase + 1) for phase in wanted)
        command = f"shoal rollout approve {document['id']}"
        lines.append(f"  approval wanted before phase {named}: {command}")
    return lines + [f"  why: {sentence}" for sentence in document["why"]]


def awaited(document: dict[str, Any]) -> list[str]:
    """Return in a sentence which approval a rollout waits for now, and how it is given."""
    author = document["created_by"]
    return [
        f"phase {phase + 1} waits for an approval, by an approver other than {author}: "
        f"shoal rollout approve {document['id']} --phase {phase + 1}"
        for phase in document["approvals_wanted"]
        if _awaits(document, phase)
    ]


def explanation(document: dict[str, Any]) -> list[str]:
    """Return every decision with its reasons, why there is no newer one, and the gates' numbers."""
    lines = [f"{document['id']}: {document['release_path']} to {document['cohort']}"]
    for each in document["decisions"]:
        lines += decision(each, document["phase_count"])
    if document["state"] in _OPEN:
        lines += ["now:", *(f"    {sentence}" for sentence in document["why"])]
    if document["gates"]:
        lines += ["gates:", *(f"    {_numbers(finding)}" for finding in document["gates"])]
    return lines


def decision(found: dict[str, Any], phase_count: int) -> list[str]:
    """Return one decision: when, where it led, and its reasons."""
    where = f"phase {found['phase'] + 1} of {phase_count} {found['phase_state']}"
    head = f"{moment(found['at'])}  {_words(found['state'])}, {where}"
    return [head, *(f"    {sentence}" for sentence in found["why"])]


def notes(found: list[dict[str, Any]]) -> list[str]:
    """Return what is doubtful about a rollout, a line each."""
    return [
        f"{note['severity']:<7}  {note['field']}: {note['sentence']} ({note['code']})"
        for note in found
    ]


def _awaits(document: dict[str, Any], phase: int) -> bool:
    return bool(document["phase"] == phase and document["phase_state"] == "awaiting")


def _phase(index: int, phase: dict[str, Any]) -> str:
    counts: dict[str, int] = phase["counts"]
    size = phase["end"] - phase["first"]
    settled = sum(counts[name] for name in _SETTLED)
    filled = _BAR_CHARS * settled // size if size else 0
    bar = "#" * filled + "." * (_BAR_CHARS - filled)
    state = f"{phase['state']} shadow" if phase["mode"] == "shadow" else phase["state"]
    return f"  phase {index + 1}  {state:<9} [{bar}] {_counted(counts) or 'no devices'}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {_words(name)}" for name, count in counts.items() if count)


def _numbers(finding: dict[str, Any]) -> str:
    """Return what a gate found in figures: value, threshold, sizes of samples and time left."""
    figures = [
        f"{name} {finding[name]:.4g}"
        for name in ("value", "threshold")
        if finding[name] is not None
    ]
    figures += [f"{count} {_words(name)}" for name, count in finding["samples"].items()]
    if finding["left_s"] is not None:
        figures.append(f"{finding['left_s']:.0f} s left")
    verdict = finding["verdict"] or "not applicable"
    return f"{finding['gate']:<14}  {verdict:<14}  {', '.join(figures)}".rstrip()


def _words(name: str) -> str:
    return name.replace("_", " ")


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"
