"""The tests marked `gpu`; in a rehearsal the same tests on the processor."""

import os
import sys

import pytest

from scripts.gpu.parts import called

if __name__ == "__main__":
    call = called()
    os.environ["LENGTHEN_TEST_DEVICE"] = call.device
    # What else is installed there need not suit our pytest.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    words = ["tests/gpu", "-m", "gpu", "-v", "--durations", "20", "-p", "pytest_timeout"]
    # A warning of a machine that we do not know is for the log, and no failure.
    words += ["-W", "default", "--junitxml", str(call.folder / "junit.xml")]
    sys.exit(pytest.main(words))
