"""What every engine stands on: devices, memory, pipelines, plans, kernels. It knows no engine."""
