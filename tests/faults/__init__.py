"""Faults on purpose: kills at random moments, a storage that fails, damaged files, full disks, wrong clocks."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # whoever looks at checkpoints here needs no accelerator
