"""Every exception elinvar raises on purpose, in one tree.

::

    ElinvarError
    ├── InputError (ValueError)            an argument or a file's content is not what the operation accepts
    │   └── ConfigError                    a configuration file or environment variable is wrong
    ├── DeviceError (RuntimeError)
    │   ├── DeviceUnavailable              the named device is not on this machine
    │   ├── DeviceLost                     the device stopped answering; the process must start afresh
    │   ├── DeviceOutOfMemory              the device's own allocator refused
    │   └── TransferForbidden              a host<->device copy happened inside no_transfers()
    ├── PoolError (RuntimeError)
    │   ├── BudgetExceeded                 the request does not fit the pool's budget, even after eviction
    │   ├── FrozenPool                     a pool miss happened inside frozen()
    │   ├── DoubleRelease                  a lease was released twice
    │   ├── ForeignLease                   a lease was given to a pool it does not belong to
    │   └── StaleLease                     a lease's tensor was asked for after its release
    ├── PipelineError (RuntimeError)       a pipeline was used out of order (a stage's own exception keeps its type)
    ├── KernelError (RuntimeError)
    │   ├── UnknownKernel                  no kernel, or no version of it, is registered under that name
    │   ├── KernelRejected                 a kernel disagreed with its reference on the self-check tile
    │   └── MetalError                     Metal source or a Metal launch is wrong
    │       ├── MetalSyntaxError           the source does not compile, or uses what is refused everywhere
    │       └── MetalLaunchError           arguments, threads or group size do not fit the kernel
    ├── WeightsError (RuntimeError)        a checkpoint is missing, corrupt, unsafe or does not fit the model
    ├── MissingDependency (ImportError)    an optional library is not installed; the message names the extra
    ├── Cancelled (RuntimeError)           the user cancelled a running job
    └── BenchError (RuntimeError)          a benchmark cannot be run or two results cannot be compared

A message says which operation, which value it met, what is accepted, and the next step.
"""

from __future__ import annotations

__all__ = [
    "BenchError",
    "BudgetExceeded",
    "Cancelled",
    "ConfigError",
    "DeviceError",
    "DeviceLost",
    "DeviceOutOfMemory",
    "DeviceUnavailable",
    "DoubleRelease",
    "ElinvarError",
    "ForeignLease",
    "FrozenPool",
    "InputError",
    "KernelError",
    "KernelRejected",
    "MetalError",
    "MetalLaunchError",
    "MetalSyntaxError",
    "MissingDependency",
    "PipelineError",
    "PoolError",
    "StaleLease",
    "TransferForbidden",
    "UnknownKernel",
    "WeightsError",
]


class ElinvarError(Exception):
    """Base of every exception elinvar raises on purpose."""


class InputError(ElinvarError, ValueError):
    """An argument or a file's content is not what the operation accepts."""


class ConfigError(InputError):
    """A configuration file or environment variable is wrong."""


class DeviceError(ElinvarError, RuntimeError):
    """A device cannot do what was asked."""


class DeviceUnavailable(DeviceError):
    """The named device is not on this machine."""


class DeviceLost(DeviceError):
    """The device stopped answering; the process must start afresh."""


class DeviceOutOfMemory(DeviceError):
    """The device's own allocator refused."""


class TransferForbidden(DeviceError):
    """A host<->device copy happened inside ``no_transfers()``."""


class PoolError(ElinvarError, RuntimeError):
    """A memory pool was misused or is exhausted."""


class BudgetExceeded(PoolError):
    """The request does not fit the pool's budget, even after eviction."""


class FrozenPool(PoolError):
    """A pool miss happened inside ``frozen()``."""


class DoubleRelease(PoolError):
    """A lease was released twice."""


class ForeignLease(PoolError):
    """A lease was given to a pool it does not belong to."""


class StaleLease(PoolError):
    """A lease's tensor was asked for after its release."""


class PipelineError(ElinvarError, RuntimeError):
    """A pipeline was used out of order; a stage's own exception keeps its own type."""


class KernelError(ElinvarError, RuntimeError):
    """A kernel cannot be found, compiled, trusted or launched."""


class UnknownKernel(KernelError):
    """No kernel, or no version of it, is registered under that name."""


class KernelRejected(KernelError):
    """A kernel disagreed with its reference on the self-check tile."""


class MetalError(KernelError):
    """Metal source or a Metal launch is wrong."""


class MetalSyntaxError(MetalError):
    """The Metal source does not compile, or uses what is refused everywhere."""


class MetalLaunchError(MetalError):
    """Arguments, threads or group size do not fit the kernel."""


class WeightsError(ElinvarError, RuntimeError):
    """A checkpoint is missing, corrupt, unsafe or does not fit the model."""


class MissingDependency(ElinvarError, ImportError):
    """An optional library is not installed; the message names the extra that brings it."""


class Cancelled(ElinvarError, RuntimeError):
    """The user cancelled a running job."""


class BenchError(ElinvarError, RuntimeError):
    """A benchmark cannot be run, or two results cannot be compared."""
