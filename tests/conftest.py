"""What every test, and every notebook under test, shares: one thread, the CPU, no network, examples without a clock.

The environment says so rather than torch itself, so that a session that never imports torch does not pay for it, and
so that the kernels which nbval starts inherit it. One thread, because results depend on the number of threads, and
because two workers on two cores that each take both slow each other down many times over.
"""

import os

from hypothesis import HealthCheck, settings

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RESLAB_PROGRESS": "0"}
os.environ.setdefault("RESLAB_DEVICE", "cpu")

settings.register_profile("reslab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("reslab-ci", parent=settings.get_profile("reslab"), derandomize=True, print_blob=True)
settings.load_profile("reslab-ci" if os.environ.get("CI") == "true" else "reslab")
