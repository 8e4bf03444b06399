"""What was submitted with text in mind: which answers a step's events belong to, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxpaged.answers import Answers
from jaxpaged.request import RequestOutput, TokenEvent


class Submissions:
    """The answers of an engine that go on, by the ids of their requests."""

    def __init__(self) -> None:
        self._answers: dict[str, Answers] = {}

    def __contains__(self, request_id: object) -> bool:
        """Whether it is the id of one of these answers, ended or not."""
        return request_id in self._answers

    def add(self, answers: Answers) -> None:
        """Make outputs of these from now on."""
        self._answers.update(dict.fromkeys(answers.ids, answers))

    def leave(self, request_id: str) -> tuple[str, ...]:
        """Make no more outputs of what was submitted with this id, or has an answer of this id; returns the ids of its
        requests: it alone, where nothing was."""
        answers = self._answers.get(request_id)
        if answers is None:
            return (request_id,)
        self._remove(answers)
        return answers.ids

    def outputs(self, events: Sequence[TokenEvent], *, finish: Callable[[str], object]) -> list[RequestOutput]:
        """The outputs of those that moved, one each. finish: told the id of a request whose text met a stop string."""
        moved: dict[str, Answers] = {}
        for event in events:
            answers = self._answers.get(event.request_id)
            if answers is None:
                continue
            if answers.push(event):
                finish(event.request_id)
            if answers.finished:
                self._remove(answers)
            moved[answers.told_as(event.request_id)] = answers
        outputs = (answers.output(name) for name, answers in moved.items())
        return [output for output in outputs if output is not None]

    def _remove(self, answers: Answers) -> None:
        for name in answers.ids:
            del self._answers[name]
