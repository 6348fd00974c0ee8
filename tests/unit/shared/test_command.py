"""The `vpccni` command as a shell meets it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from vpccni.__main__ import EXIT_UNREAD, main


def test_a_reader_that_has_enough_is_no_trouble() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "vpccni", "settings"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        assert (program.stderr.read(), program.wait(20)) == ("", EXIT_UNREAD)


@pytest.mark.usefixtures("capsys")
def test_a_command_leaves_the_signals_of_its_process_alone() -> None:
    before = [signal.getsignal(number) for number in signal.valid_signals()]
    main(["settings"])
    assert [signal.getsignal(number) for number in signal.valid_signals()] == before
