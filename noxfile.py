"""Supported corners of Python and TensorFlow; a corner whose Python is missing is skipped."""

import nox

nox.options.error_on_missing_interpreters = False
nox.options.default_venv_backend = "venv"

CORNERS = {
    "3.10": ("tensorflow==2.18.*", "keras==3.6.*", "pandas==2.2.*", "numpy<2.1"),
    "3.12": ("tensorflow==2.19.*", "keras<3.12"),
    "3.13": ("tensorflow==2.21.*",),
}


@nox.session(python=list(CORNERS))
def tests(session: nox.Session) -> None:
    """Runs the tests on one corner, but for the longest: `nox -s tests-3.10`.

    Those left out start processes, run studies, or compare hundreds of drawn cases with brute
    force; of parametrised ones two cases run. What other versions of the packages break, the rest
    shows as well.
    """
    # The pip that came with Python 3.10 searches for many minutes where today's needs seconds.
    session.install("--quiet", "--upgrade", "pip")
    session.install("--quiet", ".[test]", *CORNERS[session.python])
    quick = ("-n", "2", "--dist", "worksteal", "-m", "not slow and not hypothesis", "--thin")
    session.run("python", "-m", "pytest", *quick, *(session.posargs or ["tests"]))
