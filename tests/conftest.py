"""Quiet TensorFlow, repeatable property tests, and `--thin` for a quick look at other versions."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Before TensorFlow loads: most of the time of a test goes into compiling a program that runs once.
# Programs compiled without optimisation compute the same sums in less time altogether.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)
# Two workers on two cores: threads of their own would only wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

from tests.workspace import workspace as workspace

settings.register_profile("tfalloc", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("tfalloc")


def pytest_addoption(parser):
    thin = "of each parametrised test only the first and the last case"
    parser.addoption("--thin", action="store_true", help=thin)


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--thin"):
        return
    cases = {}
    for item in items:
        name = getattr(item, "originalname", item.name)
        cases.setdefault((item.parent.nodeid, name), []).append(item)
    kept = {id(item) for group in cases.values() for item in (group[0], group[-1])}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
    items[:] = [item for item in items if id(item) in kept]
