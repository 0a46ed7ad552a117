"""What the tests of stages share: an observer that writes down events, and a component without torch."""

import pytest


class Log:
    """Keeps events as lines, indented by how they nest; an error is noted on the line of what it ended."""

    def __init__(self):
        self.lines, self.open = [], []

    def begin(self, kind, name, index=-1, nbytes=0):
        numbers = (f" {index}" if index >= 0 else "") + (f" {nbytes} bytes" if nbytes else "")
        self.open.append(len(self.lines))
        self.lines.append("  " * (len(self.open) - 1) + f"{kind} {name}{numbers}")

    def end(self, error=None):
        line = self.open.pop()
        if error is not None:
            self.lines[line] += f" ! {type(error).__name__}"


class Doubler:
    """What stages take for a module, without torch: it has parameters and a forward."""

    def named_parameters(self):
        return iter(())

    def forward(self, number: int) -> int:
        return 2 * number

    def encode(self, number):
        return number + 1


class Sure:
    """A conductor that makes every call once and writes down which."""

    execution_device = None
    may_retry = False

    def __init__(self):
        self.calls = []

    def stage(self, stage, call):
        self.calls.append(stage.registered_name)
        call()

    def component_call(self, component, method, call):
        self.calls.append(f"{component}.{method}")
        return call()


class Retries:
    """Makes every stage's call again, as often as is given, after it fails."""

    execution_device = None
    may_retry = True

    def __init__(self, times=1):
        self.times = times

    def stage(self, stage, call):
        for _ in range(self.times):
            try:
                return call()
            except MemoryError:
                continue
        return call()

    def component_call(self, component, method, call):
        return call()


@pytest.fixture
def log():
    return Log()


@pytest.fixture(scope="session")
def new_log():
    return Log


@pytest.fixture
def doubler():
    return Doubler()


@pytest.fixture
def conductor():
    return Sure()


@pytest.fixture
def new_retries():
    return Retries
