"""Real-time-safe DSP and stem separation on CPUs and GPUs."""
