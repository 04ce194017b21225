"""The diffusion process: schedules, timesteps, targets, losses, samplers."""
