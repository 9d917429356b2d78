"""The project's own pytest plug-ins: what they must not let pass."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(pytester, monkeypatch):
    """Run the plug-ins on one test module of level `unit`, in a session of their own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("VFS_REQUIRE", raising=False)
    pytester.makeini("[pytest]\nmarkers =\n    slow\n    rgw\n")
    # An inner session that waits for what will never go would only be slow.
    pytester.makeconftest("import tests.support.hygiene as hygiene\nhygiene.GRACE_S = 0.3\n")

    def run_module(text: str, *options: str):
        module = pytester.path / "tests" / "unit" / "test_it.py"
        module.parent.mkdir(parents=True)
        module.write_text(text)
        plugins = ("-p", "tests.support.levels", "-p", "tests.support.hygiene")
        return pytester.runpytest_subprocess(*plugins, "-p", "no:cacheprovider", *options)

    return run_module


SKIPPED = """
import pytest

@pytest.mark.rgw
def test_it():
    pytest.skip("no gateway")
"""


def test_a_skip_shows_with_its_reason(run):
    result = run(SKIPPED)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["unit: 1 skipped: no gateway"])


ASYNC = """
import pytest

async def test_it():
    pytest.{}("no gateway")
"""


@pytest.mark.parametrize(("call", "words"), [("skip", "skipped"), ("xfail", "expected to fail")])
def test_an_async_test_keeps_its_reason(run, call, words):
    result = run(ASYNC.format(call), "-o", "trio_mode=true")
    result.stdout.fnmatch_lines([f"unit: 1 {words}: no gateway"])


def test_a_skip_of_what_is_required_is_a_failure(run, monkeypatch):
    monkeypatch.setenv("VFS_REQUIRE", "fuse,rgw")
    result = run(SKIPPED)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["skipped (no gateway), but VFS_REQUIRE names rgw"])


SLOW = "import pytest\n\n@pytest.mark.slow\ndef test_it():\n    pass\n"


def test_slow_tests_wait_for_long(run):
    run(SLOW).assert_outcomes(deselected=1)


def test_long_runs_slow_tests(run):
    run(SLOW, "--long").assert_outcomes(passed=1)


def test_a_warning_that_nobody_expects_fails_the_test(run):
    result = run(
        'import logging\n\ndef test_it():\n    logging.getLogger("vfs.a").warning("odd")\n'
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*WARNING vfs.a: odd*"])


EXPECTING = """
import logging

def test_it(expect_log):
    expect_log("od+")
    logging.getLogger("vfs").warning("{}")
"""


def test_an_expected_warning_passes(run):
    run(EXPECTING.format("odd")).assert_outcomes(passed=1)


def test_an_expected_warning_that_does_not_come_fails_the_test(run):
    run(EXPECTING.format("fine")).assert_outcomes(passed=1, errors=1)


def test_a_daemon_that_outlives_its_test_fails_it_and_is_ended(run):
    result = run(
        "import subprocess\n\ndef test_it():\n"
        "    subprocess.run('setsid sleep 1000 >/dev/null 2>&1 &', shell=True, check=True)\n"
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*the test left behind: process * (*sleep 1000)*"])


def test_a_server_of_the_session_may_outlive_a_test(run):
    result = run(
        "import subprocess\nimport pytest\n\n@pytest.fixture(scope='session')\ndef server():\n"
        "    with subprocess.Popen(['sleep', '1000']) as process:\n"
        "        yield\n        process.kill()\n\n"
        "def test_it(request):\n    request.getfixturevalue('server')\n"
    )
    result.assert_outcomes(passed=1)
