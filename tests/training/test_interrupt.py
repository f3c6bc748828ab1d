import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from lnjax.training.interrupt import EXIT_INTERRUPTED, Interrupt

LOOP = """
import signal, sys, time
from lnjax.training.interrupt import EXIT_INTERRUPTED, Interrupt
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
with Interrupt() as interrupt:
    print("up", flush=True)
    while not interrupt.requested:
        time.sleep(0.01)
    print("requested", interrupt.requested, flush=True)
    if sys.argv[1] == "slow":
        for _ in range(300):  # a signal just before a sleep begins does not cut it short
            time.sleep(0.1)
sys.exit(EXIT_INTERRUPTED)
"""


def start(argument):
    child = subprocess.Popen(
        [sys.executable, "-c", LOOP, argument],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert child.stdout.readline() == "up\n"
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_a_request_and_one_line(number):
    with start("quick") as child:
        os.kill(child.pid, number)
        out, err = child.communicate(timeout=20)
    assert out == f"requested {number.name}\n"
    (line,) = err.strip().splitlines()
    assert line.startswith(f"{number.name}: ")
    assert child.returncode == EXIT_INTERRUPTED == 75


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_sigint_after_a_request_stops_at_once(first):
    with start("slow") as child:
        os.kill(child.pid, first)
        assert child.stdout.readline() == f"requested {first.name}\n"
        os.kill(child.pid, signal.SIGTERM)  # says what is known already
        os.kill(child.pid, signal.SIGINT)
        _, err = child.communicate(timeout=20)
    assert "KeyboardInterrupt" in err and err.count("writing a checkpoint") == 1
    assert child.returncode == -signal.SIGINT


@pytest.mark.parametrize("error", [None, KeyError])
def test_previous_handlers_come_back(error):
    def mine(number, frame):
        raise AssertionError("not called")

    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, mine)
    try:
        interrupt = Interrupt()
        try:
            with interrupt:
                assert signal.getsignal(signal.SIGTERM) != mine
                assert interrupt.requested is None
                os.kill(os.getpid(), signal.SIGTERM)
                assert interrupt.requested == "SIGTERM"
                if error:
                    raise error
        except KeyError:
            pass
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGINT) is old[signal.SIGINT]
    finally:
        signal.signal(signal.SIGTERM, old[signal.SIGTERM])


def test_only_in_the_main_thread():
    errors = []

    def use():
        try:
            with Interrupt():
                pass
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert errors == ["Interrupt can only be used in the main thread"]


def test_nohup_is_kept():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupt.requested is None
    finally:
        signal.signal(signal.SIGHUP, before)
