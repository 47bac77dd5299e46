"""A server's error log, read as its administrator would."""

import dataclasses
import re

from .machine import wait_for

#: What no error log may ever hold.
CRASH = re.compile(
    r"exited on signal|AH00052|exit signal|segfault|\[(?:\w*:)?(?:emerg|alert)\]|panicked"
    r"|Fatal Python error|double free|corrupted"
)
SEVERITY = {
    "emerg": 0, "alert": 1, "crit": 2, "error": 3, "warn": 4, "notice": 5, "info": 6, "debug": 7,
}  # fmt: skip


@dataclasses.dataclass
class LogLine:
    level: str
    text: str

    @property
    def severity(self):
        return SEVERITY[self.level]

    @property
    def message(self):
        """The text without the request's context."""
        return re.sub(r"^\[(?:client|remote) \S+\] |, client: .*", "", self.text)


class ErrorLog:
    """The file `error_log`, from where a test began."""

    #: Finds level and text in a line.
    log_pattern: re.Pattern

    def __init__(self):
        self.error_log = self.root / "error.log"
        self.error_log.touch()
        self.log_start = 0
        #: What it may not hold; None where the test makes processes crash.
        self.crash = CRASH

    def mark(self):
        """From here on, log() begins now."""
        self.log_start = self.error_log.stat().st_size

    def log(self):
        with self.error_log.open("rb") as file:
            file.seek(self.log_start)
            return file.read().decode("utf-8", "backslashreplace")

    def log_lines(self):
        """The log in lines with their level."""
        parsed = []
        for line in self.log().splitlines():
            match = self.log_pattern.match(line)
            assert match, f"not a log line: {line!r}"
            parsed.append(LogLine(match["level"], match["text"]))
        return parsed

    def wait_log(self, pattern, timeout=30):
        """The first line that matches."""

        def look():
            return next((line for line in self.log().splitlines() if re.search(pattern, line)), None)

        return wait_for(look, f"{pattern!r} in the error log", timeout)

    def check_log(self):
        """Nothing in it may speak of a crash, whatever a test did."""
        crashes = [line for line in self.log().splitlines() if self.crash and self.crash.search(line)]
        assert not crashes, f"{self.kind} crashed:\n" + "\n".join(crashes)
