"""What every test runs under."""

import os

# The models of the tests are tiny: compiling them takes the time, not running them. Without most of
# XLA's passes, and with its older emitter of fused loops, the suite costs half as much. Both are
# read when jax is first imported, and processes that tests start inherit them.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')
